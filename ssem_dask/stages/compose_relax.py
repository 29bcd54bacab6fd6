"""Stage compose, method `relax`: distortion is undone, natural motion is left alone.

Generation 1 takes the affine part out of each pair field, window by window; generation 2 solves for the sections'
affines, all at once since they are few numbers, and fits the spectra on some windows; generation 3 solves for the
elastic part of each window with its overlap and writes `fields/section`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax import (
    joined,
    natural_motion,
    node_weights,
    solve_elastic,
    spoken_for,
    turn_affines,
    uncertainty_on_nodes,
)
from ssem_dask.composition.relax_report import ALL_REMOVED, affine_records, band_records, in_words
from ssem_dask.composition.relax_total import SplitPairs, split_pairs
from ssem_dask.composition.separation import UNKNOWNS, Variances
from ssem_dask.composition.uncertainty import affine_parameter_variance
from ssem_dask.field.affine import apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Estimate, Job
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import FieldInfo, create_field, open_coarse
from ssem_dask.storage.location import read_bytes, write_bytes
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import Float64Array

NAME = "compose"
_CHUNK = 256
_FIT_WINDOWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTask(Task):
    """Fit an affine map to each pair field of a window."""

    job: Job
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTask(Task):
    """Solve for the sections' affines and fit the spectra."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxTask(Task):
    """Solve for the fields of a window's sections."""

    job: Job
    window: int


RELAX_TASKS = (SplitTask, FitTask, RelaxTask)


def prepare(job: Job) -> None:
    """Create `fields/section`, `uncertainty` and `natural`, and what the tasks hand on to each other."""
    k, z, depth = _steps(job), job.shape[0], _depth(job)
    create_array(
        job.url("fields", "pair_affines"),
        shape=(k, z, 2, 3),
        axes=("k", "z", "row", "column"),
        chunks=(k, depth, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "affine part of fields/pairs"},
    )
    create_array(
        job.url("fields", "turn"),
        shape=(z, 2, 3),
        axes=("z", "row", "column"),
        chunks=(z, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "aligned → as fields/coarse aligns"},
    )
    create_array(
        job.url("fields", "turn_natural"),
        shape=(z, 2, 3),
        axes=("z", "row", "column"),
        chunks=(z, 2, 3),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"direction": "pull", "unit": "px@mip0", "map": "natural motion, aligned z → aligned z-1"},
    )
    create_array(
        job.url("fields", "turn_variance"),
        shape=(z, 2),
        axes=("z", "part"),
        chunks=(z, 2),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"unit": "px²@mip0", "parts": ["shift, per component", "linear, rms over the section"]},
    )
    grid = _grid(job)
    chunk = min(_CHUNK, grid.shape[0]), min(_CHUNK, grid.shape[1])
    shard = round_up(grid.shape[0], multiple=chunk[0]), round_up(grid.shape[1], multiple=chunk[1])
    for name in ("section", "natural") if job.compose.relax.keep_natural else ("section",):
        create_field(
            job.url("fields", name),
            info=FieldInfo(spacing=job.spacing, shape_mip0=job.shape),
            leading=(),
            components=True,
            chunks=(1, 2, *chunk),
            shards=(depth, 2, *shard),
        )
    create_field(
        job.url("fields", "uncertainty"),
        info=FieldInfo(spacing=job.spacing, shape_mip0=job.shape),
        leading=(),
        components=False,
        chunks=(1, *chunk),
        shards=(depth, *shard),
        scalar_unit="px@mip0",
    )


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Affine parts, statistics, sections."""
    section, depth = job.shape[1] * job.shape[2], _depth(job)
    output, digest, windows = job.output, job.digests[NAME], range(_windows(job))
    yield (
        SplitTask(key=f"{NAME}/affine-{w:05d}", output=output, digest=digest, pixels=0, job=job, window=w)
        for w in windows
    )
    yield [FitTask(key=f"{NAME}/fit", output=output, digest=digest, pixels=0, job=job)]
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
        if isinstance(task, FitTask):
            return _run_fit(task)
        assert isinstance(task, RelaxTask)
        return _run_sections(task)


def estimate(job: Job) -> Estimate:
    """A task holds the pair fields of its window with overlap; whole planes of nodes."""
    grid, config = _grid(job), job.compose.relax
    plane = grid.shape[0] * grid.shape[1]
    windows, depth, k = _windows(job), _depth(job), _steps(job)
    held = min(job.shape[0], depth + 2 * config.overlap)
    return Estimate(
        tasks=2 * windows + 1,
        pixels=job.size,
        bytes_read=plane * 4 * k * 3 * (job.shape[0] + (windows + min(windows, _FIT_WINDOWS)) * held),
        bytes_written=plane * 4 * (5 if config.keep_natural else 3) * job.shape[0],
        files=(4 if config.keep_natural else 3) * windows + 3,
        # The solve holds some copies of what it observed in double precision, and the unknowns.
        memory=plane * held * (k * 2 * 8 * 8 + k * 3 * 4 + k * 8 + UNKNOWNS * 2 * 8 * 3),
    )


def _run_split(task: SplitTask) -> Result:
    job = task.job
    start, stop = _core(job, task.window)
    pairs, confidence = _read_pairs(job, start, stop)
    split = split_pairs(pairs, node_weights(pairs, confidence), grid=_grid(job))
    open_array(job.url("fields", "pair_affines"), mode="r+")[:, start:stop] = split.affine
    return Result(bytes_read=pairs.nbytes + confidence.nbytes, bytes_written=split.affine.nbytes)


def _run_fit(task: FitTask) -> Result:
    job, grid = task.job, _grid(task.job)
    affine = np.asarray(open_array(job.url("fields", "pair_affines"), mode="r")[:])
    coarse = np.asarray(open_coarse(job.url("fields", "coarse"))[:])
    level = turn_affines(affine, coarse=coarse, grid=grid, thickness=job.thickness, config=job.compose.relax)
    turn, affine_fitted = level.turn, level.fitted
    open_array(job.url("fields", "turn"), mode="r+")[:] = turn
    open_array(job.url("fields", "turn_natural"), mode="r+")[:] = level.natural
    variance = affine_parameter_variance(level.weights, fitted=level.fitted, certainty=level.certainty)
    open_array(job.url("fields", "turn_variance"), mode="r+")[:] = variance
    count = _windows(job)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _FIT_WINDOWS))})
    found = []
    for window in chosen:
        first, last = _reach(job, window)
        weights, split = _read_window(job, first, last)
        elastic = solve_elastic(
            split,
            weights,
            turn=turn[first:last],
            grid=grid,
            fitted=None,
            certainty=level.certainty,
            config=job.compose.relax,
        )
        if elastic.fitted:
            found.append(elastic.fitted)
    fitted = [_mean(band) for band in zip(*found, strict=True)]
    records = band_records(fitted, shape=grid.shape, spacing=grid.spacing, pixel=job.info.pixel_size)
    removed = job.compose.relax.natural_motion == "remove"
    sections = affine_records(affine_fitted)
    told = in_words(records, affine=sections, thickness=job.info.section_thickness)
    message = ALL_REMOVED if removed else told
    record = {
        "summary": message,
        "pixel_size": job.info.pixel_size,
        "section_thickness": job.info.section_thickness,
        "affine": sections,
        "bands": records,
        "evidence": round(level.evidence, 2),
        "certainty": round(level.certainty, 4),
        "variances": [asdict(v) for v in fitted],
    }
    content = json.dumps(record, indent=1, ensure_ascii=False).encode()
    write_bytes(job.url("quality", "relax.json"), content)
    outcome = Outcome.OK if fitted or removed else Outcome.LOW_QUALITY
    return Result(outcome=outcome, message=message, bytes_written=len(content))


def _run_sections(task: RelaxTask) -> Result:
    job, grid = task.job, _grid(task.job)
    start, stop = _core(job, task.window)
    first, last = _reach(job, task.window)
    weights, split = _read_window(job, first, last)
    turn = np.asarray(open_array(job.url("fields", "turn"), mode="r")[first:last])
    record = json.loads(read_bytes(job.url("quality", "relax.json")))
    fitted = [Variances(**v) for v in record["variances"]] or None
    certainty = float(record["certainty"])
    elastic = solve_elastic(
        split,
        weights,
        turn=turn,
        grid=grid,
        fitted=fitted,
        certainty=certainty,
        config=job.compose.relax,
    )
    core = slice(start - first, stop - first)
    relative = joined(elastic.fields[core], turn=turn[core], grid=grid)
    coarse = np.asarray(open_coarse(job.url("fields", "coarse"))[start:stop])
    positions = grid.positions().double()
    fields = torch.stack(
        [
            (apply_affine(affine, positions + a.double()) - positions).float()
            for a, affine in zip(relative, coarse, strict=True)
        ]
    )
    open_array(job.url("fields", "section"), mode="r+")[start:stop] = fields.numpy()
    variance = np.asarray(open_array(job.url("fields", "turn_variance"), mode="r")[first:last])
    uncertainty = uncertainty_on_nodes(elastic, affine=variance, grid=grid, certainty=certainty)[core]
    open_array(job.url("fields", "uncertainty"), mode="r+")[start:stop] = uncertainty.numpy()
    written = fields.nbytes + uncertainty.nbytes
    if job.compose.relax.keep_natural:
        affine = np.asarray(open_array(job.url("fields", "turn_natural"), mode="r")[first:last])
        natural = natural_motion(elastic.natural, affine=affine, grid=grid)[core]
        open_array(job.url("fields", "natural"), mode="r+")[start:stop] = natural.numpy()
        written += natural.nbytes
    silent = [start + i for i, seen in enumerate(spoken_for(weights)[core]) if not seen.any()]
    return Result(
        outcome=Outcome.LOW_QUALITY if silent else Outcome.OK,
        message=f"No neighbour could be registered: section(s) {', '.join(map(str, silent))}" if silent else "",
        bytes_read=weights.nbytes + split.rest.nbytes,
        bytes_written=written,
    )


def _mean(variances: tuple[Variances, ...]) -> Variances:
    """The mean over windows."""
    return Variances(
        distortion=float(np.mean([v.distortion for v in variances])),
        motion=float(np.mean([v.motion for v in variances])),
        correlation=float(np.mean([v.correlation for v in variances])),
        noise=float(np.mean([v.noise for v in variances])),
        erratic=float(np.mean([v.erratic for v in variances])),
        tilt=float(np.mean([v.tilt for v in variances])),
    )


def _read_pairs(job: Job, start: int, stop: int) -> tuple[Tensor, Tensor]:
    k = _steps(job)
    fields = open_array(job.url("fields", "pairs"), mode="r")[:k, start:stop]
    confidence = open_array(job.url("fields", "confidence"), mode="r")[:k, start:stop]
    return torch.from_numpy(np.asarray(fields)), torch.from_numpy(np.asarray(confidence))


def _read_window(job: Job, first: int, last: int) -> tuple[Float64Array, SplitPairs]:
    """Weights and pair fields of some sections, without the pairs that leave them."""
    pairs, confidence = _read_pairs(job, first, last)
    if first > 0:
        for k in range(1, len(pairs) + 1):
            pairs[k - 1, :k] = torch.nan
    weights = node_weights(pairs, confidence)
    return weights, split_pairs(pairs, weights, grid=_grid(job))


def _steps(job: Job) -> int:
    return min(job.compose.relax.neighbours, job.register.neighbours)


def _depth(job: Job) -> int:
    return min(job.compose.relax.window, job.shape[0])


def _windows(job: Job) -> int:
    return ceil_div(job.shape[0], _depth(job))


def _core(job: Job, window: int) -> tuple[int, int]:
    depth = _depth(job)
    return window * depth, min((window + 1) * depth, job.shape[0])


def _reach(job: Job, window: int) -> tuple[int, int]:
    """The window's sections with the overlap at either end."""
    start, stop = _core(job, window)
    overlap = job.compose.relax.overlap
    return max(0, start - overlap), min(job.shape[0], stop + overlap)


def _grid(job: Job) -> Grid:
    return Grid.of_section((job.shape[1], job.shape[2]), spacing=job.spacing)
