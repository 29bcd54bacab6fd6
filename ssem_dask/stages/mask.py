"""Stage mask: what of each section is empty, damaged or torn, in the frame of the source.

A task reads its sections and their neighbours once, coarse-aligned and at about 20 nm per px, finds damage
(`registration.damage`), carries it back to the source and writes one shard of `masks/damage`. A user's own mask takes
the place of what is found, or is added to it.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import affine_seen_from, apply_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, round_up
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.registration.damage import DAMAGED, HALO, REACH, TEAR, find_damage, reduced
from ssem_dask.stages.configs import MaskStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.arrays import ZarrArray, create_array, open_array
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.task import Result, Task, box_key
from ssem_dask.types import AnyArray, Float64Array, ShapeZYX

NAME = "mask"

_SIDE = 1024  # px of the mask along a shard
_CHUNK = 256
_SECTIONS = 8
_EMPTY_SIDE = 3  # px of the mask: pooled px of equal value are rare in tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTask(Task):
    """Mask one shard."""

    job: Job
    box: Box


def prepare(job: Job) -> None:
    """Create `masks/damage` (z, y, x); nothing where nothing is masked."""
    if job.mask.active:
        create_array(
            job.url("masks", "damage"),
            shape=_shape(job),
            dtype="uint8",
            axes=("z", "y", "x"),
            chunks=(1, _CHUNK, _CHUNK),
            shards=_shard(job),
            fill_value=0,
            attributes={
                "axes": ["z", "y", "x"],
                "frame": "source",
                "mip": job.mask.mip,
                "pixel_size": job.info.pixel_size * 2 ** _mip(job),
                "shape_mip0": list(job.shape),
                "codes": {"0": "tissue", "1": "empty", "2": "damaged", "3": "tear"},
            },
        )


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """All shards; they are independent."""
    yield (
        MaskTask(
            key=box_key(NAME, box.start),
            output=job.output,
            digest=job.digests[NAME],
            pixels=_covered(job, box).size,
            job=job,
            box=box,
        )
        for box in _boxes(job)
    )


def run(task: Task) -> Result:
    """Find the damage of a shard, bring in the user's mask, write."""
    assert isinstance(task, MaskTask)
    job, box = task.job, task.box
    codes, read = np.zeros(box.shape, dtype=np.uint8), 0
    if job.mask.detects:
        codes, read = _found(job, box)
    if job.mask.user is not None:
        codes = np.maximum(codes, _users(job, box))
    open_array(job.url("masks", "damage"), mode="r+")[box.slices] = codes
    return Result(bytes_read=read, bytes_written=codes.nbytes)


def footprint(task: Task) -> Footprint:
    """Detection reads the sections around, wherever the coarse affine takes them."""
    assert isinstance(task, MaskTask)
    job, z = task.job, task.box.sections
    found = [job.sections(name, z.start - REACH, z.stop + REACH) for name in ("source", "fields/coarse")]
    return Footprint(
        reads=tuple(found) if job.mask.detects else (),
        writes=(Region("masks/damage", _covered(job, task.box)),),
    )


def estimate(job: Job) -> Estimate:
    """Each task reads its shard and the halo, and holds its sections at the mask's mip."""
    boxes = list(_boxes(job))
    z, y, x = _shard(job)
    sections, pixels = z + 2 * REACH, (y + 2 * HALO) * (x + 2 * HALO)
    read = sum(_covered(job, box).size * (min(box.shape[0] + 2 * REACH, job.shape[0])) // box.shape[0] for box in boxes)
    return Estimate(
        tasks=len(boxes),
        pixels=sum(_covered(job, box).size for box in boxes),
        bytes_read=job.source_bytes(read, mip=_mip(job)) if job.mask.detects else 0,
        bytes_written=sum(box.size for box in boxes),
        files=len(boxes),
        # Images, normalised images and masks of all sections; three cues of each; shifts of the pairs; one read band.
        memory=pixels * 4 * (sections * 6 + 20) + (1 << 26) * (4 + job.info.dtype.itemsize),
    )


def read_codes(masks: ZarrArray, *, z: int, mip: int, box: Box, affine: Float64Array) -> Tensor:
    """The codes `(y, x)` uint8 of what lies in `box` of a section that is aligned by its coarse affine.

    Args:
        masks: `masks/damage`.
        z: section.
        mip: of the masks.
        box: where, in aligned pixels of `box.mip`; its z is not used.
        affine: `(2, 3)` aligned → source, mip-0 px.
    """
    grid = Grid.of_box(box)
    local = affine_seen_from(affine, target=grid.origin, source=(0.0, 0.0))
    where = apply_affine(local, grid.relative_to(grid.origin).positions())
    height, width = masks.shape[1:]
    y, x = ((where[axis] / 2**mip).floor().long().clamp(0, n - 1).numpy() for axis, n in enumerate((height, width)))
    pixels = np.asarray(masks[z, y.min() : y.max() + 1, x.min() : x.max() + 1])
    return torch.from_numpy(pixels[y - y.min(), x - x.min()])


def user_mip(config: MaskStageConfig, shape: ShapeZYX) -> int:
    """The mip of the user's mask, by its shape.

    Raises:
        SourceError: it cannot be read, is not made of integers, or fits the sections at no mip.
    """
    assert config.user is not None
    with contextlib.closing(open_any_format(config.user)) as opened:
        info = opened.info
    if info.dtype.kind not in "iub":
        raise SourceError(
            f"[mask] user = {config.user}: its values are {info.dtype}, but codes are integers; convert it."
        )
    for mip in range(max(shape[1:]).bit_length() + 1):
        if info.shape == (shape[0], *shape_at_mip(shape[1:], mip=mip)):
            return mip
    raise SourceError(
        f"[mask] user = {config.user}: has shape {info.shape}, but the source has {shape}; give a mask of that shape, "
        "or with y and x divided by a power of two and rounded up."
    )


def _found(job: Job, box: Box) -> tuple[AnyArray, int]:
    """Codes (z, y, x) that detection finds, and bytes read."""
    mip, volume = _mip(job), open_source(job)
    read = box.grown(before=(REACH, 0, 0), after=(REACH, 0, 0)).clipped(_shape(job))
    affines = np.asarray(open_array(job.url("fields", "coarse"), mode="r")[read.start[0] : read.stop[0]])
    core = range(box.start[0] - read.start[0], box.stop[0] - read.start[0])
    aligned = _aligned_box(box, [affines[i] for i in core])
    sections = list(
        read_aligned_sections(volume, sections=read.sections, box=aligned, affines=affines, empty_side=_EMPTY_SIDE)
    )
    with torch.inference_mode():
        codes = find_damage(
            torch.stack([image for image, _ in sections]), tissue=torch.stack([t for _, t in sections]), core=core
        )
        target, source = Grid.of_box(box), Grid.of_box(aligned)
        positions = target.relative_to(target.origin).positions()
        carried = []
        for i, found in zip(core, codes, strict=True):
            back = affine_seen_from(invert_affine(affines[i]), target=target.origin, source=source.origin)
            values, _ = sample_image(
                found.float()[None],
                grid=source.relative_to(source.origin),
                positions=apply_affine(back, positions),
                kind="nearest",
            )
            carried.append(values[0].to(torch.uint8).numpy())
    seen = len(sections) * aligned.shape[1] * aligned.shape[2] * 4**mip
    return np.stack(carried), job.source_bytes(seen, mip=mip)


def _aligned_box(box: Box, affines: list[Float64Array]) -> Box:
    """Where the source box of each section lies once it is aligned, and the halo around."""
    corners = np.array([[y, x, 1.0] for y in (box.start[1], box.stop[1]) for x in (box.start[2], box.stop[2])])
    corners[:, :2] *= 2**box.mip
    places = np.concatenate([corners @ invert_affine(affine).T for affine in affines]) / 2**box.mip
    low, high = np.floor(places.min(axis=0)).astype(int) - HALO, np.ceil(places.max(axis=0)).astype(int) + HALO
    return Box((box.start[0], int(low[0]), int(low[1])), (box.stop[0], int(high[0]), int(high[1])), box.mip)


def _users(job: Job, box: Box) -> AnyArray:
    """The user's codes (z, y, x), at the mip of the masks."""
    assert job.mask.user is not None
    mip, theirs = _mip(job), user_mip(job.mask, job.shape)
    wanted = box.at_mip(theirs) if theirs <= mip else Box(box.start, box.stop, mip).at_mip(theirs)
    wanted = wanted.clipped((job.shape[0], *shape_at_mip(job.shape[1:], mip=theirs)))
    with contextlib.closing(open_any_format(job.mask.user)) as opened:
        band = opened.read(
            z_start=wanted.start[0], z_stop=wanted.stop[0], y_start=wanted.start[1], y_stop=wanted.stop[1]
        )
    values = band[:, :, wanted.start[2] : wanted.stop[2]]
    codes = np.where((values < 0) | (values > TEAR), DAMAGED, values).astype(np.uint8)
    if theirs <= mip:
        return reduced(codes, factor=2 ** (mip - theirs))
    factor = 2 ** (theirs - mip)
    y, x = (
        np.arange(a, b) // factor - low for a, b, low in zip(box.start[1:], box.stop[1:], wanted.start[1:], strict=True)
    )
    return codes[:, y][:, :, x]


def _mip(job: Job) -> int:
    assert job.mask.mip is not None
    return job.mask.mip


def _shape(job: Job) -> ShapeZYX:
    return (job.shape[0], *shape_at_mip(job.shape[1:], mip=_mip(job)))


def _shard(job: Job) -> ShapeZYX:
    z, y, x = _shape(job)
    return min(_SECTIONS, z), min(_SIDE, round_up(y, multiple=_CHUNK)), min(_SIDE, round_up(x, multiple=_CHUNK))


def _boxes(job: Job) -> Iterator[Box]:
    if job.mask.active:
        yield from chunk_boxes(_shape(job), chunk=_shard(job), mip=_mip(job))


def _covered(job: Job, box: Box) -> Box:
    """The box at mip 0."""
    return box.at_mip(0).clipped(job.shape)
