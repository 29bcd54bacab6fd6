"""What a run is going to cost, from a short timed sample of it.

A crop of the source, as large as one window is read, goes through all stages on the cluster itself: real pixels, real
tasks, the real store. A stage's work is taken to grow with the bytes that it reads, as its `estimate` counts them for
the crop and for the whole; so a task is as long as the sample's per byte. Two things grow otherwise:
- coarse looks at thumbnails of whole sections: one of its tasks is timed on the whole sections, where they can be read
  in reasonable time;
- a task that is the only one of its kind (`coarse/sections`, `compose/affines-all`) keeps all other workers waiting: it
  grows with the sections, or with the memory that the stage's largest task takes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any
from uuid import uuid4

import numpy as np

from ssem_dask.config.digest import stored_config
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import Plan, plan, run
from ssem_dask.errors import ConfigError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.execute import execute
from ssem_dask.runtime.executor import Executor
from ssem_dask.runtime.placement import GPU_THREADS
from ssem_dask.stages.coarse import CoarseStage
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.source_sections import thumbnail_mip
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import delete, join
from ssem_dask.storage.volume import Volume, create_volume
from ssem_dask.task import Outcome, TaskReport

_SIDE = 4096
"""Longest side of the crop, mip-0 px."""
_COARSE_BYTES = 4 << 30
"""Up to this a task of coarse reads whole sections for the sample."""
_PATCH = 256
_COARSEST = 6
"""mip of the coarsest level of a crop, of which it has at most 64 px: no stage looks at less of a section."""
_PLACES = (0.5, 0.25, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What a stage is going to take."""

    stage: str
    tasks: int
    """Of the whole run."""
    timed: int
    """Tasks of the sample; 0: the sample has none, and the cost is not known."""
    timed_seconds: float
    """Of all tasks of the sample together."""
    factor: float
    """By how many times the whole reads more than the sample."""
    parallel_seconds: float
    """Worker time of the tasks that can run beside each other."""
    serial_seconds: float
    """Time of the tasks that are the only ones of their kind."""
    gpu: bool
    """Whether the time is that of workers with a GPU."""
    workers: int
    """That the wall time is for."""

    @property
    def worker_hours(self) -> float:
        """Time that workers are busy."""
        return (self.parallel_seconds + self.serial_seconds) / 3600

    @property
    def wall_seconds(self) -> float:
        """From begin to end, with all `workers` at work."""
        abreast = max(1, min(self.workers, self.tasks))
        longest = self.parallel_seconds / max(1, self.tasks)
        return max(self.parallel_seconds / abreast, longest) + self.serial_seconds


@dataclass(slots=True)
class Cost:
    """What a run is going to take."""

    crop: Box
    stages: list[StageCost] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What the figures rest on."""

    def hours(self, *, gpu: bool) -> float:
        """Worker-hours with, or without, a GPU."""
        return sum(cost.worker_hours for cost in self.stages if cost.gpu is gpu)

    @property
    def wall_seconds(self) -> float:
        """Of all stages, one after the other."""
        return sum(cost.wall_seconds for cost in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All as plain values."""
        stages = {
            cost.stage: {**asdict(cost), "worker_hours": cost.worker_hours, "wall_seconds": cost.wall_seconds}
            for cost in self.stages
        }
        return {
            "crop": {"start": self.crop.start, "stop": self.crop.stop},
            "stages": stages,
            "cpu_worker_hours": self.hours(gpu=False),
            "gpu_worker_hours": self.hours(gpu=True),
            "wall_seconds": self.wall_seconds,
            "remarks": self.remarks,
        }


def measure_cost(
    planned: Plan, *, executor: Executor, workers: Callable[[str], int | None], note: Callable[[str], None]
) -> Cost:
    """Run a sample of a plan, and say what the whole would take.

    Args:
        planned: the whole.
        executor: of the cluster that the whole would run on.
        workers: that the whole would have while a stage runs; None: those that the cluster has now.
        note: told what goes on.

    Raises:
        ConfigError: a task of the sample failed.
        SourceError: the source shows nothing where the sample was taken.
        OutputError: nothing can be written beside the output.
    """
    job = planned.job
    crop = choose_crop(job)
    z, y, x = crop.shape
    note(f"Timing a sample: {z} sections of {y} × {x} px at z {crop.start[0]}, y {crop.start[1]}, x {crop.start[2]}")
    with _scratch(job.output) as folder:
        copy_crop(job, crop, join(folder, "crop.zarr"))
        sample = plan(make_config(_sample_tree(job, crop, folder), where="The sample"))
        summary = run(sample, executor=executor, observer=SilentObserver())
        if summary.failed:
            first = summary.failed[0]
            raise ConfigError(
                f"The sample cannot be timed, since {first.key} failed ({first.cause}: {first.message}); a run would "
                "fail of the same."
            )
        reports = list(open_ledger(sample.job.output).reports(None))
        whole = _timed_coarse(planned, executor, folder)
    load = executor.load()
    gpu_stages = {stage.name for stage in STAGES if stage.uses_gpu}
    cost = Cost(crop)
    for stage in planned.estimates:
        own = [report for report in reports if report.stage == stage]
        gpu = stage in gpu_stages and load.gpus > 0
        wanted = workers(stage) or (load.gpus if gpu else load.workers)
        cost.stages.append(
            _stage_cost(stage, planned, sample, own, whole=whole, gpus=load.gpus if gpu else 0, workers=wanted)
        )
    cost.remarks = _remarks(cost, planned, whole)
    return cost


def choose_crop(job: Job) -> Box:
    """A place of the source to take the sample from: as large as one window is read, where there is most to be seen."""
    volume = Volume.open(job.source, like=job.info)
    window, halo, spacing = job.register.window, job.register.halo, job.spacing
    assert window is not None
    assert halo is not None
    unit = math.lcm(spacing, 1 << _crop_mips(volume)[-1])
    depth = min(job.shape[0], 2 * job.register.sections)
    z = (job.shape[0] - depth) // 2
    sides = [_whole(min(extent, window + 2 * halo, _SIDE), unit) for extent in job.shape[1:]]
    best, contrast = None, -1.0
    for share_y in _PLACES:
        for share_x in _PLACES:
            y, x = (
                _whole(round((extent - side) * share), unit, least=0)
                for extent, side, share in zip(job.shape[1:], sides, (share_y, share_x), strict=True)
            )
            box = Box((z, y, x), (z + depth, min(y + sides[0], job.shape[1]), min(x + sides[1], job.shape[2])))
            middle = ((box.start[1] + box.stop[1]) // 2, (box.start[2] + box.stop[2]) // 2)
            patch = Box((z, *middle), (z + 1, middle[0] + _PATCH, middle[1] + _PATCH)).clipped(job.shape)
            found = float(np.std(volume.read(patch))) if patch.size else 0.0
            if found > contrast:
                best, contrast = box, found
    assert best is not None
    return best


def copy_crop(job: Job, crop: Box, url: str) -> Volume:
    """Copy a part of the source, with the levels that show something of it, into a volume of its own."""
    volume = Volume.open(job.source, like=job.info)
    info = job.info.__class__(
        shape=crop.shape,
        dtype=job.info.dtype,
        pixel_size=job.info.pixel_size,
        section_thickness=job.info.section_thickness,
    )
    mips = _crop_mips(volume)
    made = create_volume(url, info=info, chunk=(1, 256, 256), shard=(8, 2048, 2048), mips=len(mips))
    for mip in mips:
        shape = made.shape_at(mip)
        place = Box((0, 0, 0), shape, mip).shifted((crop.start[0], crop.start[1] >> mip, crop.start[2] >> mip))
        source = place.clipped(volume.shape_at(mip))
        values = np.zeros(shape, dtype=job.info.dtype)
        z, y, x = source.shape
        values[:z, :y, :x] = volume.read(source)
        made.write(Box((0, 0, 0), shape, mip), values)
    return made


def _crop_mips(volume: Volume) -> tuple[int, ...]:
    """The stored mips that a crop takes along: it lies in whole pixels of each, so none may be too coarse for it."""
    return volume.mips[: _COARSEST + 1]


def _whole(extent: int, unit: int, *, least: int | None = None) -> int:
    """Rounded down to a multiple of `unit`; an extent that is smaller stays."""
    rounded = extent // unit * unit
    return rounded if rounded or least is not None else extent


def _sample_tree(job: Job, crop: Box, folder: str) -> dict[str, Any]:
    """The run's own configuration for the crop: one window, which is all that a window of the run would read."""
    tree = stored_config(job)
    side = -(-max(crop.shape[1:]) // job.spacing) * job.spacing
    tree["register"] = {**tree["register"], "window": side, "halo": 0}
    tree["coarse"] = {**tree["coarse"], "initial": None, "initial_digest": None}
    tree["mask"] = {**tree["mask"], "user": None}
    return {**tree, "source": join(folder, "crop.zarr"), "output": join(folder, "run.zarr")}


@contextmanager
def _scratch(output: str) -> Iterator[str]:
    """A folder beside the output, where workers reach it, and as fast; gone afterwards."""
    folder = f"{output.rstrip('/').removesuffix('.zarr')}-sample-{uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        with suppress(OSError):
            delete(folder, recursive=True)


def _timed_coarse(planned: Plan, executor: Executor, folder: str) -> TaskReport | None:
    """A task of coarse on whole sections, in the middle of the volume; None where that would read too much."""
    job = planned.job
    volume = Volume.open(job.source, like=job.info)
    mip = volume.stored_mip(thumbnail_mip(job))
    sections = SECTIONS_PER_THUMBNAIL_TASK + job.coarse.neighbours
    if (sections * job.shape[1] * job.shape[2] * job.info.dtype.itemsize) >> (2 * mip) > _COARSE_BYTES:
        return None
    own = _moved(job, join(folder, "coarse.zarr"))
    coarse = CoarseStage()
    coarse.prepare(own)
    pairs = next(iter(coarse.generations(own)))
    middle = max(0, (planned.estimates[coarse.name].tasks - 1) // 2 - 1)
    tasks = list(islice(pairs, middle, middle + 1))
    reports = list(executor.map(execute, tasks))
    return reports[0] if reports and reports[0].outcome is not Outcome.FAILED else None


def _moved(job: Job, output: str) -> Job:
    values = {name: getattr(job, name) for name in job.__dataclass_fields__}
    return Job(**{**values, "output": output})


def _is_only_one(report: TaskReport) -> bool:
    """A key that names no place is that of the only task of its kind; fits of spectra are few, and side by side."""
    return report.key.startswith("compose/fit") or not any(letter.isdigit() for letter in report.key)


def _stage_cost(
    stage: str,
    planned: Plan,
    sample: Plan,
    reports: list[TaskReport],
    *,
    whole: TaskReport | None,
    gpus: int,
    workers: int,
) -> StageCost:
    estimate = planned.estimates[stage]
    of_sample = sample.estimates.get(stage)
    factor = estimate.bytes_read / of_sample.bytes_read if of_sample and of_sample.bytes_read else 1.0
    alone = [report for report in reports if _is_only_one(report)]
    abreast = [report for report in reports if not _is_only_one(report)]
    parallel = factor * sum(report.seconds for report in abreast)
    serial = sum(report.seconds for report in alone)
    timed, seconds = len(reports), sum(report.seconds for report in reports)
    if stage == CoarseStage.name:
        serial *= planned.job.shape[0] / sample.job.shape[0]
        if whole is not None:
            parallel = whole.seconds * planned.job.size / max(1, whole.pixels)
            timed, seconds = timed + 1, seconds + whole.seconds
    elif of_sample is not None:
        serial *= max(1.0, estimate.memory / max(1, of_sample.memory))
    if gpus:
        # Tasks of one worker take turns on its GPU, and the time that one waits is another's.
        parallel /= max(1, min(GPU_THREADS, len(abreast) // gpus))
    return StageCost(
        stage=stage,
        tasks=estimate.tasks,
        timed=timed,
        timed_seconds=round(seconds, 3),
        factor=factor,
        parallel_seconds=parallel,
        serial_seconds=serial,
        gpu=gpus > 0,
        workers=workers,
    )


def _remarks(cost: Cost, planned: Plan, whole: TaskReport | None) -> list[str]:
    z, y, x = cost.crop.shape
    share = cost.crop.size / planned.job.size
    timed, seconds = sum(c.timed for c in cost.stages), sum(c.timed_seconds for c in cost.stages)
    remarks = [
        f"Based on {timed} tasks timed in {seconds:.0f} worker-seconds: {z} sections of {y} × {x} px, {share:.2g} of "
        "the volume, taken to its size by the bytes that each stage reads; right within a factor of two or so."
    ]
    if whole is not None:
        remarks.append(f"coarse: {whole.key} timed on whole sections.")
    elif share < 1:
        remarks.append("coarse: whole sections are too large to be read for a sample, so its time is an upper bound.")
    unknown = [c.stage for c in cost.stages if not c.timed]
    if unknown:
        remarks.append(f"Not timed, and left out: {', '.join(unknown)}.")
    return remarks
