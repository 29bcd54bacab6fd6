"""The cost of a run, predicted from a short timed sample of it.

A crop of the source, as large as the box that one window reads, passes through all stages on the cluster itself: real
pixels, real tasks, the real store. The work of a stage is assumed to grow with the bytes that it reads, as its
`estimate` counts them for the crop and for the whole volume. So the time per byte is that of the sample. Two kinds of
tasks grow differently:
- Stage coarse compares thumbnails of whole sections. One of its tasks is timed on whole sections, if they can be read
  in reasonable time.
- A singleton task (`coarse/sections`, `compose/affines-all`) keeps all other workers waiting. Its time grows with the
  number of sections, or with the memory that the stage's largest task takes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from typing import Any
from uuid import uuid4

import numpy as np

from ssem_dask.config.digest import stored_config
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import Plan, plan, run
from ssem_dask.errors import ConfigError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import round_up
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.execute import execute
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages.coarse import CoarseStage
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.source_sections import thumbnail_mip
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import delete, join
from ssem_dask.storage.volume import Volume, create_volume
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import plural

_MAX_SIDE_PX = 4096
"""Longest side of the crop, mip-0 px."""
_MAX_COARSE_BYTES = 4 << 30
"""Largest number of bytes for which a task of stage coarse is timed on whole sections."""
_PATCH_PX = 256
"""Side of the patch, in the middle of a candidate crop, whose contrast is measured."""
_MAX_CROP_MIP = 6
"""Coarsest level of a crop, where it has at most 64 px: no stage reads a section at fewer."""
_CANDIDATE_SHARES = (0.5, 0.25, 0.75)
"""Positions of candidate crops in y and x, as shares of the free space; the middle comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """The predicted cost of a stage."""

    stage: str
    tasks: int
    """Number of tasks of the whole run."""
    timed: int
    """Number of timed tasks of the sample; 0: the sample has none, and the cost is unknown."""
    timed_seconds: float
    """Worker time of all timed tasks together."""
    factor: float
    """Bytes that the whole run reads, divided by those of the sample."""
    parallel_seconds: float
    """Worker time of the tasks that can run in parallel."""
    serial_seconds: float
    """Time of the singleton tasks, which no other task runs beside."""
    gpu: bool
    """Whether the time is that of workers with a GPU."""
    workers: int
    """Number of workers that the wall time assumes."""

    @property
    def worker_hours(self) -> float:
        """Time that workers are busy."""
        return (self.parallel_seconds + self.serial_seconds) / 3600

    @property
    def wall_seconds(self) -> float:
        """Time from begin to end with `workers` workers."""
        concurrent = max(1, min(self.workers, self.tasks))
        # More workers than tasks make no task shorter.
        longest = self.parallel_seconds / max(1, self.tasks)
        return max(self.parallel_seconds / concurrent, longest) + self.serial_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The predicted cost of a run."""

    crop: Box
    """The sample, mip 0."""
    stages: tuple[StageCost, ...]
    remarks: tuple[str, ...]
    """Sentences on how the figures were obtained."""

    def hours(self, *, gpu: bool) -> float:
        """Return the worker-hours with, or without, a GPU."""
        return sum(cost.worker_hours for cost in self.stages if cost.gpu is gpu)

    @property
    def wall_seconds(self) -> float:
        """Time of all stages, one after the other."""
        return sum(cost.wall_seconds for cost in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
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
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The timed tasks."""

    plan: Plan
    """Plan of the run on the crop."""
    reports: tuple[TaskReport, ...]
    """Reports of its tasks."""
    coarse: TaskReport | None
    """Report of a task of stage coarse on whole sections; None: they are too large."""


def measure_cost(
    planned: Plan, *, executor: Executor, workers: Callable[[str], int | None], note: Callable[[str], None]
) -> Cost:
    """Run a sample of a plan, and predict the cost of the whole run.

    Args:
        planned: plan of the whole run.
        executor: executor of the cluster on which the whole run would compute.
        workers: number of workers of a stage, by its name; None: those that the cluster has now.
        note: called with a sentence about the sample.

    Raises:
        ConfigError: a task of the sample failed.
        SourceError: the sample's part of the source shows nothing.
        OutputError: nothing can be written beside the output.
    """
    job = planned.job
    crop = choose_crop(job)
    z, y, x = crop.shape
    note(f"Timing a sample: {z} sections of {y} × {x} px at z {crop.start[0]}, y {crop.start[1]}, x {crop.start[2]}")
    with _scratch(job.output) as folder:
        copy_crop(job, crop, join(folder, "crop.zarr"))
        sample = _timed_sample(planned, crop, executor=executor, folder=folder)
    load = executor.load()
    gpus = {stage.name: load.gpus if stage.uses_gpu else 0 for stage in STAGES}
    stages = tuple(
        _stage_cost(
            stage,
            planned=planned,
            sample=sample,
            gpus=gpus[stage],
            gpu_threads=load.gpu_threads,
            workers=workers(stage) or gpus[stage] or load.workers,
        )
        for stage in planned.estimates
    )
    return Cost(crop=crop, stages=stages, remarks=_remarks(crop, planned, stages=stages, coarse=sample.coarse))


def choose_crop(job: Job) -> Box:
    """Return the part of the source for the sample: the size of the box that a window reads, at the highest contrast.

    Its borders are at whole nodes, and at whole pixels of every level that the crop has.
    """
    volume = Volume.open(job.source, like=job.info)
    unit = math.lcm(job.spacing, 1 << _crop_mips(volume)[-1])
    depth = min(job.shape[0], 2 * job.register.sections)
    z = (job.shape[0] - depth) // 2
    read_side = min(job.register.window + 2 * job.register.halo, _MAX_SIDE_PX)
    # A section that is smaller than one unit is taken whole.
    sides = [min(n, read_side) // unit * unit or min(n, read_side) for n in job.shape[1:]]
    candidates = []
    for shares in product(_CANDIDATE_SHARES, repeat=2):
        y, x = (
            round((extent - side) * share) // unit * unit
            for extent, side, share in zip(job.shape[1:], sides, shares, strict=True)
        )
        candidates.append(Box((z, y, x), (z + depth, min(y + sides[0], job.shape[1]), min(x + sides[1], job.shape[2]))))
    return max(candidates, key=lambda box: _contrast(volume, box))


def _contrast(volume: Volume, box: Box) -> float:
    """Return the standard deviation of a patch in the middle of a box's first section."""
    z = box.start[0]
    y, x = ((start + stop) // 2 for start, stop in zip(box.start[1:], box.stop[1:], strict=True))
    patch = Box((z, y, x), (z + 1, y + _PATCH_PX, x + _PATCH_PX)).clipped(volume.info.shape)
    return float(np.std(volume.read(patch))) if patch.size else 0.0


def copy_crop(job: Job, crop: Box, url: str) -> Volume:
    """Copy a part of the source, with its levels, into a volume of its own."""
    volume = Volume.open(job.source, like=job.info)
    mips = _crop_mips(volume)
    info = replace(job.info, shape=crop.shape)
    copied = create_volume(url, info=info, chunk=(1, 256, 256), shard=(8, 2048, 2048), mips=len(mips))
    for mip in mips:
        shape = copied.shape_at(mip)
        box = Box((0, 0, 0), shape, mip).shifted((crop.start[0], crop.start[1] >> mip, crop.start[2] >> mip))
        source_box = box.clipped(volume.shape_at(mip))
        z, y, x = source_box.shape
        for channel, copied_channel in zip(volume.each_channel, copied.each_channel, strict=True):
            values = np.zeros(shape, dtype=info.dtype)
            values[:z, :y, :x] = channel.read(source_box)
            copied_channel.write(Box((0, 0, 0), shape, mip), values)
    return copied


def _crop_mips(volume: Volume) -> tuple[int, ...]:
    """Return the stored mips that a crop has; its borders are at whole pixels of each, so none may be too coarse."""
    return volume.mips[: _MAX_CROP_MIP + 1]


def _sample_tree(job: Job, crop: Box, folder: str) -> dict[str, Any]:
    """Return the run's configuration for the crop, with one window that covers all that a window of the run reads."""
    tree = stored_config(job)
    tree.pop("slabs", None)
    side = round_up(max(crop.shape[1:]), multiple=job.spacing)
    tree["register"] = {**tree["register"], "window": side, "halo": 0}
    tree["coarse"] = {**tree["coarse"], "initial": None, "initial_digest": None}
    tree["mask"] = {**tree["mask"], "user": None}
    return {**tree, "source": join(folder, "crop.zarr"), "output": join(folder, "run.zarr")}


@contextmanager
def _scratch(output: str) -> Iterator[str]:
    """Yield the URL of a folder beside the output, in the store that workers use, and delete the folder at the end."""
    folder = f"{output.rstrip('/').removesuffix('.zarr')}-sample-{uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        with suppress(OSError):
            delete(folder, recursive=True)


def _timed_sample(planned: Plan, crop: Box, *, executor: Executor, folder: str) -> _Sample:
    """Run all stages on the crop; raise ConfigError if a task fails."""
    sample = plan(make_config(_sample_tree(planned.job, crop, folder), where="The sample"))
    summary = run(sample, executor=executor, observer=SilentObserver())
    if summary.failed:
        first = summary.failed[0]
        raise ConfigError(
            f"The sample cannot be timed, since {first.key} failed ({first.cause}: {first.message}); a full run would "
            "fail for the same reason."
        )
    reports = tuple(open_ledger(sample.job.output).reports(None))
    return _Sample(plan=sample, reports=reports, coarse=_timed_coarse(planned, executor=executor, folder=folder))


def _timed_coarse(planned: Plan, *, executor: Executor, folder: str) -> TaskReport | None:
    """Run a task of coarse on whole sections, in the middle of the volume; return None if that would read too much."""
    job = planned.job
    volume = Volume.open(job.source, like=job.info)
    mip = volume.stored_mip(thumbnail_mip(job))
    sections = SECTIONS_PER_THUMBNAIL_TASK + job.coarse.neighbours
    if (sections * job.section_pixels * job.info.dtype.itemsize) >> (2 * mip) > _MAX_COARSE_BYTES:
        return None
    moved = replace(job, output=join(folder, "coarse.zarr"))
    coarse = CoarseStage()
    coarse.prepare(moved)
    pair_tasks = next(iter(coarse.generations(moved)))
    middle = max(0, (planned.estimates[coarse.name].tasks - 1) // 2 - 1)
    reports = list(executor.map(execute, islice(pair_tasks, middle, middle + 1)))
    return reports[0] if reports and reports[0].outcome is not Outcome.FAILED else None


def _is_singleton(report: TaskReport) -> bool:
    """Return whether a task runs alone: its key has no coordinates.

    Fits of spectra count as singletons as well: they have numbers, but there are few, however large the volume is.
    """
    return report.key.startswith("compose/fit") or not any(letter.isdigit() for letter in report.key)


def _stage_cost(stage: str, *, planned: Plan, sample: _Sample, gpus: int, gpu_threads: int, workers: int) -> StageCost:
    """Return the cost of a stage.

    Args:
        stage: its name.
        planned: plan of the whole run.
        sample: timed tasks.
        gpus: number of the cluster's workers with a GPU that the stage uses.
        gpu_threads: tasks that each of them runs at once.
        workers: number of workers for the wall time.
    """
    estimate, sample_estimate = planned.estimates[stage], sample.plan.estimates.get(stage)
    reports = [report for report in sample.reports if report.stage == stage]
    singletons = [report for report in reports if _is_singleton(report)]
    concurrent = [report for report in reports if not _is_singleton(report)]
    factor = 1.0
    if sample_estimate and sample_estimate.bytes_read:
        factor = estimate.bytes_read / sample_estimate.bytes_read
    parallel = factor * sum(report.seconds for report in concurrent)
    serial = sum(report.seconds for report in singletons)
    if stage == CoarseStage.name:
        serial *= planned.job.shape[0] / sample.plan.job.shape[0]
        if sample.coarse is not None:
            parallel = sample.coarse.seconds * planned.job.size / max(1, sample.coarse.pixels)
            reports.append(sample.coarse)
    elif sample_estimate is not None:
        serial *= max(1.0, estimate.memory / max(1, sample_estimate.memory))
    if gpus:
        # Tasks of one worker take turns on its GPU, and while one waits, another computes.
        parallel /= max(1, min(gpu_threads, len(concurrent) // gpus))
    return StageCost(
        stage=stage,
        tasks=estimate.tasks,
        timed=len(reports),
        timed_seconds=round(sum(report.seconds for report in reports), 3),
        factor=factor,
        parallel_seconds=parallel,
        serial_seconds=serial,
        gpu=gpus > 0,
        workers=workers,
    )


def _remarks(crop: Box, planned: Plan, *, stages: tuple[StageCost, ...], coarse: TaskReport | None) -> tuple[str, ...]:
    """Return sentences on how the figures were obtained."""
    z, y, x = crop.shape
    share = crop.size / planned.job.size
    timed, seconds = sum(cost.timed for cost in stages), sum(cost.timed_seconds for cost in stages)
    remarks = [
        f"Based on {plural(timed, 'task')} timed in {seconds:.0f} worker-seconds: {z} sections of {y} × {x} px, "
        f"{share:.2g} of the volume, scaled by the bytes that each stage reads; correct within about a factor of two."
    ]
    if coarse is not None:
        remarks.append(f"coarse: {coarse.key} was timed on whole sections.")
    elif share < 1:
        remarks.append("coarse: whole sections are too large to read for a sample, so its time is an upper bound.")
    unknown = [cost.stage for cost in stages if not cost.timed]
    if unknown:
        remarks.append(f"Not timed, and left out: {', '.join(unknown)}.")
    return tuple(remarks)
