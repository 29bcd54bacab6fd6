"""Stage coarse: whole-section affines between neighbours, from thumbnails, then one affine per section.

Generation 1 compares each section with the ones before it; generation 2 solves for the sections' affines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.composition.separation.affine_separation import enough_pairs, separate_affines
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.initial import filled, pair_start, pairs_seen_from, sections_from
from ssem_dask.registration.coarse_alignment.order import Order, check_order
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.section_affines import chain_sections
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.stages.configs import CoarseStageConfig
from ssem_dask.stages.job import SECTIONS_PER_COARSE_TASK, Job
from ssem_dask.stages.source_sections import open_source, read_thumbnails, thumbnail_mip
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.affine_file import read_affine_file
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import create_coarse, open_coarse
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import Float64Array
from ssem_dask.units import plural, shortened

NAME = "coarse"
_SECTIONS_SHOWN = 20
_PAIR_ARRAYS = "fields/coarse_pairs", "fields/coarse_ratio", "fields/coarse_similarity"
TIED, BRIDGED, MISPLACED, TWICE = 1, 2, 3, 4
"""Values of `fields/coarse_state`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarsePairsTask(Task):
    """Compare each of some sections with its neighbours before it."""

    job: Job
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseSectionsTask(Task):
    """Solve for one affine per section."""

    job: Job


def resolve(config: CoarseStageConfig, *, sections: int) -> CoarseStageConfig:
    """Check the file of initial affines and pin its content, so that a changed file is a changed configuration.

    Raises:
        SourceError: the file cannot be read.
        ConfigError: what it says is not one invertible map per section of the volume.
    """
    if config.initial is None:
        return config
    file = read_affine_file(config.initial, sections=sections, digest=config.initial_digest)
    return config.model_copy(update={"initial_digest": file.digest})


def prepare(job: Job) -> None:
    """Create `fields/coarse_pairs` (k, z, 2, 3), `coarse_ratio` and `coarse_similarity` (k, z), `coarse` (z, 2, 3), and
    `coarse_state` (z).
    """
    k, z = job.coarse.neighbours, job.shape[0]
    depth = SECTIONS_PER_COARSE_TASK
    create_array(
        job.url("fields", "coarse_pairs"),
        shape=(k, z, 2, 3),
        axes=("k", "z", "row", "column"),
        chunks=(k, depth, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "fixed z → moving z-k"},
    )
    meanings = {
        "coarse_ratio": "score of the best rotation and shift, over the second best or chance; see accuracy.md",
        "coarse_similarity": "correlation of the thumbnails of z and z-k where the affine lays them on each other",
    }
    for name, meaning in meanings.items():
        create_array(
            job.url("fields", name),
            shape=(k, z),
            axes=("k", "z"),
            chunks=(k, depth),
            dtype="float64",
            shards=None,
            fill_value=np.nan,
            attributes={"meaning": meaning},
        )
    create_array(
        job.url("fields", "coarse_state"),
        shape=(z,),
        axes=("z",),
        chunks=(z,),
        dtype="uint8",
        shards=None,
        fill_value=0,
        attributes={
            "values": {
                "0": "unknown",
                str(TIED): "matched",
                str(BRIDGED): "bridged: no pair ties it",
                str(MISPLACED): "matched, but seems out of order",
                str(TWICE): "matched, but shows the image of a section just before it",
            }
        },
    )
    create_coarse(job.url("fields", "coarse"), shape_mip0=job.shape)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Pairs of sections, then the sections."""
    depth = SECTIONS_PER_COARSE_TASK
    section = job.shape[1] * job.shape[2]
    yield (
        CoarsePairsTask(
            key=f"{NAME}/pairs-z{start:06d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=(min(start + depth, job.shape[0]) - start) * section,
            job=job,
            start=start,
            stop=min(start + depth, job.shape[0]),
        )
        for start in range(0, job.shape[0], depth)
    )
    yield [
        CoarseSectionsTask(key=f"{NAME}/sections", output=job.output, digest=job.digests[NAME], pixels=0, job=job),
    ]


def run(task: Task) -> Result:
    """Do one task of either generation."""
    if isinstance(task, CoarsePairsTask):
        return _run_pairs(task)
    assert isinstance(task, CoarseSectionsTask)
    return _run_sections(task)


def footprint(task: Task) -> Footprint:
    """Pairs read their sections and those before them; all sections are solved for at once."""
    if isinstance(task, CoarsePairsTask):
        job = task.job
        return Footprint(
            reads=(job.sections("source", task.start - job.coarse.neighbours, task.stop),),
            writes=tuple(job.sections(name, task.start, task.stop) for name in _PAIR_ARRAYS),
        )
    assert isinstance(task, CoarseSectionsTask)
    job = task.job
    return Footprint(
        reads=tuple(job.sections(name) for name in _PAIR_ARRAYS),
        writes=(job.sections("fields/coarse"), job.sections("fields/coarse_state")),
    )


def estimate(job: Job) -> Estimate:
    """Each task reads its sections and the neighbours before them, one band at a time."""
    z, y, x = job.shape
    tasks = ceil_div(z, SECTIONS_PER_COARSE_TASK)
    sections = z + (tasks - 1) * job.coarse.neighbours
    thumbnail = job.coarse.thumbnail**2 * 4
    return Estimate(
        tasks=tasks + 1,
        pixels=job.size,
        bytes_read=job.source_bytes(sections * y * x, mip=thumbnail_mip(job)),
        bytes_written=z * ((job.coarse.neighbours * 8 + 6) * 8 + 1),
        files=3 * tasks + 2,
        # A band of pixels as read, pooled some rows at a time; of thumbnails the spectra of a search over all angles.
        memory=TASK_OVERHEAD + min(y * x, 1 << 26) * (1 + job.info.dtype.itemsize) + thumbnail * 250,
    )


def _run_pairs(task: CoarsePairsTask) -> Result:
    job = task.job
    volume, mip = open_source(job), thumbnail_mip(job)
    first = max(0, task.start - job.coarse.neighbours)
    given = _given(job)
    sections = {}
    affines = np.full((job.coarse.neighbours, task.stop - task.start, 2, 3), np.nan)
    ratios, similarity = np.full(affines.shape[:2], np.nan), np.full(affines.shape[:2], np.nan)
    with torch.inference_mode():
        numbers = range(first, task.stop)
        thumbnails = read_thumbnails(volume, sections=numbers, mip=mip)
        for z, thumbnail in zip(numbers, thumbnails, strict=True):
            sections[z] = CoarseSection(thumbnail, mask=tissue_mask(thumbnail), config=job.coarse)
        for z in range(task.start, task.stop):
            for k in range(1, min(z, job.coarse.neighbours) + 1):
                start = None if given is None else pair_start(given, z=z, k=k)
                pair = estimate_pair(fixed=sections[z], moving=sections[z - k], pixel=float(2**mip), start=start)
                affines[k - 1, z - task.start] = pair.affine
                ratios[k - 1, z - task.start] = pair.ratio
                similarity[k - 1, z - task.start] = pair.similarity
    open_array(job.url("fields", "coarse_pairs"), mode="r+")[:, task.start : task.stop] = affines
    open_array(job.url("fields", "coarse_ratio"), mode="r+")[:, task.start : task.stop] = ratios
    open_array(job.url("fields", "coarse_similarity"), mode="r+")[:, task.start : task.stop] = similarity
    read = job.source_bytes(len(sections) * job.shape[1] * job.shape[2], mip=mip)
    return Result(bytes_read=read, bytes_written=affines.nbytes + 2 * ratios.nbytes)


def _run_sections(task: CoarseSectionsTask) -> Result:
    job = task.job
    affines = np.asarray(open_array(job.url("fields", "coarse_pairs"), mode="r")[:])
    ratios = np.asarray(open_array(job.url("fields", "coarse_ratio"), mode="r")[:])
    shape = job.shape[1], job.shape[2]
    given = _given(job)
    start = None if given is None else filled(given)
    if start is not None:
        affines = pairs_seen_from(start, affines)
    result = chain_sections(affines, ratios, shape_yx=shape, config=job.coarse)
    sections, accepted = result.sections, result.accepted.astype(np.float64)
    jumps: list[int] = []
    separate = job.coarse.sections == "separate" and enough_pairs(accepted)
    if separate:
        # Registration needs sections in its range; whether they were displaced at all is decided when it is done.
        found = separate_affines(affines, accepted, shape_yx=shape, thickness=job.thickness, certainty=1.0)
        sections, jumps = found.sections, [jump.z for jump in found.jumps]
    if start is not None:
        sections = sections_from(start, sections)
    order = check_order(np.asarray(open_array(job.url("fields", "coarse_similarity"), mode="r")[:]))
    state = np.full(len(sections), TIED, dtype=np.uint8)
    state[order.misplaced] = MISPLACED
    state[order.twice] = TWICE
    state[result.bridged] = BRIDGED
    open_array(job.url("fields", "coarse_state"), mode="r+")[:] = state
    open_coarse(job.url("fields", "coarse"), mode="r+")[:] = sections
    written = sections.nbytes + state.nbytes
    remarks = _order_remarks(order)
    if jumps:
        remarks.append(
            "all sections from here on seem displaced relative to those before: "
            f"{shortened(jumps, limit=_SECTIONS_SHOWN)}"
        )
    if result.bridged:
        placed = "independently" if separate else "like its neighbours"
        remarks.append(
            "no matching neighbour, or no connection to the other sections, for "
            f"{plural(len(result.bridged), 'section')}, each of which was placed {placed}: "
            f"{shortened(result.bridged, limit=_SECTIONS_SHOWN)}"
        )
    outcome = Outcome.LOW_QUALITY if remarks else Outcome.OK
    return Result(outcome=outcome, message="; ".join(remarks), bytes_written=written)


def _order_remarks(order: Order) -> list[str]:
    """What the user should look at; the order itself is left as it is."""
    remarks = []
    if order.twice:
        remarks.append(
            f"same image as an earlier section in {plural(len(order.twice), 'section')}: "
            f"{shortened(order.twice, limit=_SECTIONS_SHOWN)}"
        )
    if order.misplaced:
        remarks.append(
            f"apparently out of order, but left in place, {plural(len(order.misplaced), 'section')}: "
            f"{shortened(order.misplaced, limit=_SECTIONS_SHOWN)}"
        )
    return remarks


def _given(job: Job) -> Float64Array | None:
    """The user's affines `(Z, 2, 3)`, NaN where there is none."""
    if job.coarse.initial is None:
        return None
    return read_affine_file(job.coarse.initial, sections=job.shape[0], digest=job.coarse.initial_digest).affines
