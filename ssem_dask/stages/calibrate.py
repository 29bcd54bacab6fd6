"""Stage calibrate: what all windows of Gauss-Newton registration have in common, from a few sample windows.

That is the smoothness length, and what residuals, Hessians and confidences are measured in (`registration.scales`).
Generation 1 registers each window with several lengths and writes what the shorter ones add, and its scales, to
`quality/calibration/`; generation 2 takes the median over the windows and writes `quality/calibration.json`, which the
register stage reads. Where the user gives a smoothness no others are tried; other methods need nothing of this, and the
stage has no tasks.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch

from ssem_dask.field.device import compute_device
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.registration.gauss_newton.gauss_newton_window import measure_scales
from ssem_dask.registration.gauss_newton.scales import ResidualScales, median_scales
from ssem_dask.registration.gauss_newton.smoothness import (
    LengthStep,
    SmoothnessChoice,
    choose_smoothness,
    probe_window,
)
from ssem_dask.registration.registration_method import WindowImages
from ssem_dask.stages.configs import RegisterStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source, read_aligned_sections
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.location import read_bytes, write_bytes
from ssem_dask.task import Outcome, Result, Task

NAME = "calibrate"
RESULT = "quality/calibration.json"

_MOST = 6
_SHARE = 0.2  # of the volume, at most, but for the first window: a pixel costs half of what its registration does
_SIDE = 384  # px of the working image
_SECTIONS = 8
_PLACES = 3  # that a window may take, until one shows tissue
_STEP = (0.7548776662, 0.5698402910)  # of the R2 sequence, which spreads points evenly (Roberts 2018)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTask(Task):
    """Try the lengths in one window, and measure its scales."""

    job: Job
    index: int
    places: tuple[Box, ...]
    """At the working mip; the first that shows tissue is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseTask(Task):
    """Decide."""

    job: Job
    windows: int


def prepare(job: Job) -> None:
    """Nothing to create: the results are small JSON files."""


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Windows, then the choice."""
    if not _wanted(job):
        return
    output, digest, windows = job.output, job.digests[NAME], sample_windows(job)
    yield [
        ProbeTask(
            key=f"{NAME}/window-{i}",
            output=output,
            digest=digest,
            pixels=_source_pixels(job, places[0]),
            job=job,
            index=i,
            places=places,
        )
        for i, places in enumerate(windows)
    ]
    yield [
        ChooseTask(key=f"{NAME}/choose", output=output, digest=digest, pixels=0, job=job, windows=len(windows)),
    ]


def run(task: Task) -> Result:
    """Do one task of either generation."""
    if isinstance(task, ProbeTask):
        return _run_probe(task)
    assert isinstance(task, ChooseTask)
    return _run_choose(task)


def footprint(task: Task) -> Footprint:
    """A window reads its sections, wherever the coarse affine takes it; the choice reads what the windows found."""
    if isinstance(task, ProbeTask):
        job = task.job
        z = task.places[0].sections
        return Footprint(
            reads=(
                job.sections("source", z.start, z.stop),
                job.sections("fields/coarse", z.start, z.stop),
            ),
            writes=(Region(_window_name(task.index), job.sections("", z.start, z.stop).box),),
        )
    assert isinstance(task, ChooseTask)
    job = task.job
    return Footprint(
        reads=tuple(job.sections(_window_name(i)) for i in range(task.windows)), writes=(job.sections(RESULT),)
    )


def estimate(job: Job) -> Estimate:
    """A few windows and the choice; nothing where there is nothing to choose."""
    boxes = [places[0] for places in sample_windows(job)] if _wanted(job) else []
    pixels = sum(_source_pixels(job, box) for box in boxes)
    # Features of the sections and, for one, the network's activations; the pairs' fields and gradients.
    held = max((box.size * 22 + box.shape[1] * box.shape[2] * 175 for box in boxes), default=0)
    return Estimate(
        tasks=len(boxes) + _wanted(job),
        pixels=pixels,
        bytes_read=job.source_bytes(pixels, mip=job.register.mip or 0),
        bytes_written=2000 * (len(boxes) + _wanted(job)),
        files=len(boxes) + _wanted(job),
        memory=held,
        gpu_memory=held,
    )


def calibrated(job: Job) -> RegisterStageConfig:
    """The register stage's configuration with what was chosen and measured."""
    if not _wanted(job):
        return job.register
    record = json.loads(read_bytes(job.url(RESULT)))
    solver = job.register.gauss_newton.model_copy(update={"smoothness": tuple(record["smoothness"])})
    found = record.get("scales")  # runs that were begun by earlier versions have none
    if solver.scales is None and found is not None:
        solver = solver.model_copy(update={"scales": ResidualScales.model_validate(found)})
    return job.register.model_copy(update={"gauss_newton": solver})


def sample_windows(job: Job) -> list[tuple[Box, ...]]:
    """The sample windows, each with the places it may take: spread over the volume by a fixed rule."""
    mip = job.register.mip
    assert mip is not None
    if job.shape[0] < 2:
        return []
    extent = job.shape[0], *shape_at_mip((job.shape[1], job.shape[2]), mip=mip)
    size = min(_SECTIONS, extent[0]), min(_SIDE, extent[1]), min(_SIDE, extent[2])
    count = int(np.clip(_SHARE * np.prod(extent) / np.prod(size), 1, _MOST))
    windows = []
    for i in range(count):
        z = round((extent[0] - size[0]) * (i + 0.5) / count)
        places = []
        for j in range(_PLACES):
            share = [(0.5 + step * (i + j * count)) % 1.0 for step in _STEP]
            y, x = (round((n - side) * s) for n, side, s in zip(extent[1:], size[1:], share, strict=True))
            places.append(Box((z, y, x), (z + size[0], y + size[1], x + size[2]), mip))
        windows.append(tuple(dict.fromkeys(places)))
    return windows


def _run_probe(task: ProbeTask) -> Result:
    job = task.job
    volume, coarse, device = open_source(job), open_coarse(job.url("fields", "coarse")), compute_device()
    config, neighbours = job.register.gauss_newton, job.register.neighbours
    steps: tuple[LengthStep, ...] = ()
    scales: ResidualScales | None = None
    read = 0
    for box in task.places:
        affines = np.asarray(coarse[box.start[0] : box.stop[0]])
        sections = list(read_aligned_sections(volume, sections=box.sections, box=box, affines=affines, device=device))
        read += job.source_bytes(_source_pixels(job, box), mip=box.mip)
        grid = Grid.of_box(box)
        image, valid = (torch.stack(parts) for parts in zip(*sections, strict=True))
        window = WindowImages(images=image, valid=valid, grid=grid.relative_to(grid.origin))
        if config.smoothness is None:
            steps = probe_window(window, config=config, device=device)
        first = max(0, (len(image) - 1 - neighbours) // 2)
        # As few sections as have pairs of every distance: this costs as much as the lengths.
        few = slice(first, first + 1 + neighbours)
        window = replace(window, images=image[few], valid=valid[few])
        scales = measure_scales(window, neighbours=neighbours, config=config, device=device)
        if steps or scales:
            break
    content = _json(
        {
            "start": list(box.start),
            "stop": list(box.stop),
            "mip": box.mip,
            "steps": _records(steps),
            "scales": None if scales is None else scales.model_dump(),
        }
    )
    write_bytes(_window_url(job, task.index), content)
    return Result(
        outcome=Outcome.OK if steps or scales else Outcome.NO_TISSUE,
        bytes_read=read,
        bytes_written=len(content),
    )


def _run_choose(task: ChooseTask) -> Result:
    job = task.job
    windows = []
    for i in range(task.windows):
        with contextlib.suppress(FileNotFoundError):  # it failed, and the run goes on all the same
            windows.append(json.loads(read_bytes(_window_url(job, i))))
    given = job.register.gauss_newton.smoothness
    if given is not None:
        choice = SmoothnessChoice(given, f"smoothness {given} px, as the user said")
    else:
        names = [f.name for f in fields(LengthStep)]
        steps = [[LengthStep(**{name: step[name] for name in names}) for step in w["steps"]] for w in windows]
        choice = choose_smoothness(steps, pixel_size=job.info.pixel_size * 2.0 ** (job.register.mip or 0))
    found_by = "user" if given is not None else "data" if any(w["steps"] for w in windows) else "default"
    scales = median_scales([ResidualScales.model_validate(w["scales"]) for w in windows if w.get("scales")])
    record = {
        "smoothness": list(choice.smoothness),
        "chosen_by": found_by,
        "reason": choice.reason,
        "scales": None if scales is None else scales.model_dump(),
        "windows": windows,
    }
    content = _json(record)
    write_bytes(job.url(RESULT), content)
    return Result(message=choice.reason if given is None else "", bytes_written=len(content))


def _wanted(job: Job) -> bool:
    return job.register.registration_method.needs_calibration


def _source_pixels(job: Job, box: Box) -> int:
    return box.at_mip(0).clipped(job.shape).size


def _window_name(index: int) -> str:
    return f"quality/calibration/window-{index}.json"


def _window_url(job: Job, index: int) -> str:
    return job.url(_window_name(index))


def _records(steps: tuple[LengthStep, ...]) -> list[dict[str, float]]:
    return [{**asdict(step), "distortion": round(step.distortion, 4)} for step in steps]


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
