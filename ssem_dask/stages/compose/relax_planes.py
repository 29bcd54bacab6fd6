"""Stage compose, method `relax`: distortion is undone, natural motion is left alone.

Generation 1 takes the affine part out of each pair field, window by window, and compares sections far from each other
where that is wanted (`compose_far`); then the sections' affines and the spectra are found (`relax_fit`); the last
generation solves for the elastic part of each window with its overlap and writes `fields/section`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import fit_elastic
from ssem_dask.composition.relax.node_weights import node_weights, observed_mask
from ssem_dask.composition.relax.relative import SplitPairs, split_pairs, subtract_affines
from ssem_dask.composition.relax.relax_report import band_records
from ssem_dask.composition.relax.uncertainty import elastic_variance
from ssem_dask.composition.separation.sequence import UNKNOWNS
from ssem_dask.field.device import computing_on
from ssem_dask.geometry.chunks import round_up
from ssem_dask.stages.compose.far_pairs import prepare as prepare_far
from ssem_dask.stages.compose.far_pairs import tasks as far_tasks
from ssem_dask.stages.compose.far_pairs import with_far
from ssem_dask.stages.compose.section_windows import (
    core_of,
    create_affines,
    create_sections,
    depth_of,
    elastic_problem,
    grid_of,
    reach_of,
    read_pairs,
    solve_window,
    steps_of,
    windows_of,
    write_sections,
)
from ssem_dask.stages.compose.statistics import (
    WindowFitTask,
    fit_generations,
    fit_windows,
    read_affine_level,
    read_fit,
    read_window_fits,
    write_record,
    write_window_fit,
)
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.arrays import open_array
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.units import plural

NAME = "compose"
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTask(Task):
    """Fit an affine map to each pair field of a window."""

    job: Job
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxTask(Task):
    """Solve for the fields of a window's sections."""

    job: Job
    window: int


RELAX_TASKS = (SplitTask, RelaxTask)


def prepare(job: Job) -> None:
    """Create `fields/section`, `uncertainty` and `natural`, and what the tasks hand on to each other."""
    create_affines(job)
    prepare_far(job)
    grid = grid_of(job)
    chunk = min(_CHUNK, grid.shape[0]), min(_CHUNK, grid.shape[1])
    shard = round_up(grid.shape[0], multiple=chunk[0]), round_up(grid.shape[1], multiple=chunk[1])
    create_sections(job, chunk=chunk, shard=shard)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Affine parts, statistics, sections."""
    section, depth = job.shape[1] * job.shape[2], depth_of(job)
    output, digest, windows = job.output, job.digests[NAME], range(windows_of(job))
    yield itertools.chain(
        far_tasks(job),
        (
            SplitTask(key=f"{NAME}/affine-{w:05d}", output=output, digest=digest, pixels=0, job=job, window=w)
            for w in windows
        ),
    )
    yield from fit_generations(job)
    yield (
        RelaxTask(
            key=f"{NAME}/sections-{w:05d}",
            output=output,
            digest=digest,
            pixels=section * min(depth, job.shape[0] - w * depth),
            job=job,
            window=w,
        )
        for w in windows
    )


def run(task: Task) -> Result:
    """Do one task of any generation."""
    with torch.inference_mode():
        if isinstance(task, SplitTask):
            return _run_split(task)
        assert isinstance(task, RelaxTask)
        return _run_sections(task)


def estimate(job: Job) -> Estimate:
    """A task holds the pair fields of its window with overlap; whole planes of nodes."""
    grid, config = grid_of(job), job.compose.relax
    plane = grid.shape[0] * grid.shape[1]
    windows, depth, k = windows_of(job), depth_of(job), steps_of(job)
    held = min(job.shape[0], depth + 2 * config.overlap)
    # The solve holds some copies of what it observed, and the unknowns.
    solved = plane * held * (k * 2 * 8 * 8 + k * 3 * 4 + k * 8 + UNKNOWNS * 2 * 4 * 3)
    return with_far(
        job,
        Estimate(
            tasks=2 * windows + len(fit_windows(job)) + 2,
            pixels=job.size,
            bytes_read=plane * 4 * k * 3 * (job.shape[0] + (windows + len(fit_windows(job))) * held),
            bytes_written=plane * 4 * (5 if config.keep_natural else 3) * job.shape[0],
            files=(4 if config.keep_natural else 3) * windows + len(fit_windows(job)) + 5,
            memory=TASK_OVERHEAD + solved,
            gpu_memory=solved,
        ),
    )


def _run_split(task: SplitTask) -> Result:
    job = task.job
    start, stop = core_of(job, task.window)
    pairs, confidence = read_pairs(job, start, stop)
    with computing_on(pairs.device):
        split = split_pairs(pairs, node_weights(pairs, confidence), grid=grid_of(job))
    open_array(job.url("fields", "pair_affines"), mode="r+")[:, start:stop] = split.affine
    return Result(bytes_read=pairs.nbytes + confidence.nbytes, bytes_written=split.affine.nbytes)


def fit_window(task: WindowFitTask) -> Result:
    """Fit the spectra to a window."""
    job = task.job
    first, last = reach_of(job, task.window)
    turn, certainty = read_affine_level(job, first, last)
    weights, split = _read_window(job, first, last)
    problem = elastic_problem(job, split, weights, affine_correction=turn, grid=grid_of(job), certainty=certainty)
    with computing_on(weights.device):
        variances = fit_elastic(problem)
    written = write_window_fit(job, task.window, {"variances": variances})
    return Result(bytes_read=weights.nbytes + split.elastic.nbytes, bytes_written=written)


def conclude(job: Job) -> Result:
    """Tell what was fitted."""
    fitted = read_window_fits(job, "variances")
    records = band_records(fitted, shape=grid_of(job).shape, spacing=job.spacing, pixel_size=job.info.pixel_size)
    return write_record(job, records=records, variances={"variances": fitted})


def _run_sections(task: RelaxTask) -> Result:
    job, grid = task.job, grid_of(task.job)
    start, stop = core_of(job, task.window)
    first, last = reach_of(job, task.window)
    weights, split = _read_window(job, first, last)
    turn = np.asarray(open_array(job.url("fields", "turn"), mode="r")[first:last])
    fitted, certainty = read_fit(job, "variances")
    problem = elastic_problem(job, split, weights, affine_correction=turn, grid=grid, certainty=certainty)
    elastic = solve_window(problem, fitted)
    core = slice(start - first, stop - first)
    with computing_on(weights.device):
        variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)
    everywhere = (slice(None), slice(None))
    written = write_sections(
        job,
        range(start, stop),
        grid=grid,
        inner=everywhere,
        nodes=everywhere,
        elastic=elastic.fields[core],
        natural=elastic.natural[core],
        variance=variance[core],
    )
    silent = [start + i for i, seen in enumerate(observed_mask(weights)[core]) if not seen.any()]
    sections = f"{plural(len(silent), 'section')}: {', '.join(map(str, silent))}"
    return Result(
        outcome=Outcome.LOW_QUALITY if silent else Outcome.OK,
        message=f"No neighbour could be registered for {sections}" if silent else "",
        bytes_read=weights.nbytes + split.elastic.nbytes,
        bytes_written=written,
    )


def _read_window(job: Job, first: int, last: int) -> tuple[Tensor, SplitPairs]:
    """Weights and pair fields of some sections, without the pairs that leave them."""
    pairs, confidence = read_pairs(job, first, last)
    affines = np.asarray(open_array(job.url("fields", "pair_affines"), mode="r")[:, first:last])
    for k in range(1, len(pairs) + 1) if first > 0 else ():
        pairs[k - 1, :k], affines[k - 1, :k] = torch.nan, np.nan
    return node_weights(pairs, confidence), SplitPairs(affines, subtract_affines(pairs, affines, grid=grid_of(job)))
