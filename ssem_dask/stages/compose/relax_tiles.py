"""Stage compose, method `relax`, for sections of more nodes than are solved for at once (`[compose.relax] max_nodes`).

As `compose_relax`, but split by frequency (`composition.thin`), so that a task's memory does not grow with the section.
Generation 1 reads the pair fields band by band, thins them and takes their affine parts out; then the sections' affines
and the spectra are found (`relax_fit`), of thinned planes and of some tiles; the last but one generation solves for the
long waves of each window of sections, the last for the short waves of each tile of each window, and writes
`fields/section`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.coarsening import (
    HALO_BLOCKS,
    Tile,
    cut_tiles,
    prolong,
    restrict,
    restricted_grid,
    restriction_factor,
)
from ssem_dask.composition.relax.elastic import LowFrequencies, fit_elastic, relax_elastic
from ssem_dask.composition.relax.node_weights import median_confidence, node_weights, observed_mask
from ssem_dask.composition.relax.relative import SplitPairs, fit_robust_affines, subtract_affines
from ssem_dask.composition.relax.relax_report import band_records
from ssem_dask.composition.relax.uncertainty import elastic_variance
from ssem_dask.composition.separation.sequence import UNKNOWNS
from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.field.grid import Grid
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
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.units import plural

NAME = "compose"
_SAMPLED = 256
"""Nodes along a side that are looked at for a window's typical confidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinTask(Task):
    """Fit an affine map to each pair field of a window of sections, and thin what is left."""

    job: Job
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTask(Task):
    """Solve for the long waves of a window's sections."""

    job: Job
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTask(Task):
    """Solve for the short waves of a tile of a window's sections, and write their fields."""

    job: Job
    window: int
    tile: Tile


WIDE_TASKS = (ThinTask, LongTask, TileTask)


def factor_of(job: Job) -> int:
    """Nodes per side of a block; 1: the section is solved for at once."""
    return restriction_factor(grid_of(job).shape, max_nodes=job.compose.relax.max_nodes)


def prepare(job: Job) -> None:
    """Create the fields and what the tasks hand on to each other."""
    create_affines(job)
    prepare_far(job)
    k, depth, side = steps_of(job), depth_of(job), _side(job)
    create_sections(job, chunk=(side, side), shard=(side, side))
    info = FieldInfo(spacing=job.spacing * factor_of(job), shape_mip0=job.shape)
    whole = info.nodes
    for name, leading, components in (
        ("thin_pairs", (k,), True),
        ("thin_weights", (k,), False),
        ("long", (), True),
        ("long_natural", (), True),
        ("long_variance", (), False),
    ):
        inner = (2,) if components else ()
        create_field(
            job.url("fields", name),
            info=info,
            leading=leading,
            components=components,
            chunks=(*(1 for _ in leading), 1, *inner, *whole),
            shards=(*leading, depth, *inner, *whole),
        )
    create_array(
        job.url("fields", "typical"),
        shape=(job.shape[0],),
        axes=("z",),
        chunks=(depth,),
        dtype="float64",
        shards=None,
        fill_value=np.nan,
        attributes={"what": "typical confidence of a window's neighbour pairs"},
    )


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Thinned pairs, statistics, long waves, tiles."""
    output, digest, windows = job.output, job.digests[NAME], range(windows_of(job))
    yield itertools.chain(
        far_tasks(job),
        (
            ThinTask(key=f"{NAME}/thin-{w:05d}", output=output, digest=digest, pixels=0, job=job, window=w)
            for w in windows
        ),
    )
    yield from fit_generations(job)
    yield (
        LongTask(key=f"{NAME}/long-{w:05d}", output=output, digest=digest, pixels=0, job=job, window=w) for w in windows
    )
    yield (
        TileTask(
            key=f"{NAME}/sections-{w:05d}-y{t.core[0].start:06d}-x{t.core[1].start:06d}",
            output=output,
            digest=digest,
            pixels=_pixels(job, w, t),
            job=job,
            window=w,
            tile=t,
        )
        for w in windows
        for t in _tiles(job)
    )


def run(task: Task) -> Result:
    """Do one task of any generation."""
    with torch.inference_mode():
        if isinstance(task, ThinTask):
            return _run_thin(task)
        if isinstance(task, LongTask):
            return _run_long(task)
        assert isinstance(task, TileTask)
        return _run_tile(task)


def estimate(job: Job) -> Estimate:
    """The largest tasks hold a tile with its halo, or a thinned plane, of a window with overlap."""
    grid, config, factor = grid_of(job), job.compose.relax, factor_of(job)
    plane, tiles = grid.shape[0] * grid.shape[1], _tiles(job)
    windows, depth, k = windows_of(job), depth_of(job), steps_of(job)
    held = min(job.shape[0], depth + 2 * config.overlap)
    read = max((t.read[0].stop - t.read[0].start) * (t.read[1].stop - t.read[1].start) for t in tiles)
    nodes = max(read, plane // factor**2)
    halo = sum((t.read[0].stop - t.read[0].start) * (t.read[1].stop - t.read[1].start) for t in tiles) / plane
    # A band of rows of some sections; of one of them in double precision with its places and what thinning makes of it.
    band = _side(job) * grid.shape[1] * k * (4 * 8 * 4 + job.register.sections * 6 * 4)
    passed = plane // factor**2 * 4 * (k * 3 + 5)
    solved = nodes * held * (k * 2 * 8 * 8 + k * 3 * 4 + k * 8 + UNKNOWNS * 2 * 4 * 3)
    return with_far(
        job,
        Estimate(
            tasks=windows * (2 + len(tiles)) + len(fit_windows(job)) + 2,
            pixels=job.size,
            bytes_read=int(plane * 4 * k * 3 * (job.shape[0] + windows * held * halo)) + 2 * passed * job.shape[0],
            bytes_written=plane * 4 * (5 if config.keep_natural else 3) * job.shape[0] + passed * job.shape[0],
            files=windows * (6 + (3 if config.keep_natural else 2) * len(tiles)) + 2 * len(fit_windows(job)),
            memory=TASK_OVERHEAD + max(solved, band),
            gpu_memory=max(solved, band),
        ),
    )


def _run_thin(task: ThinTask) -> Result:
    job, k = task.job, steps_of(task.job)
    start, stop = core_of(job, task.window)
    typical = _typical(job, start, stop)
    open_array(job.url("fields", "typical"), mode="r+")[start:stop] = typical
    blocks = restricted_grid(grid_of(job), factor=factor_of(job)).shape
    affines = np.full((k, stop - start, 2, 3), np.nan)
    pairs, weights = np.full((k, stop - start, 2, *blocks), np.nan), np.zeros((k, stop - start, *blocks))
    read, slab = 0, job.register.sections  # as many as a chunk of the pair fields' files holds: each is opened once
    for first in range(start, stop, slab):
        sections = range(first, min(first + slab, stop))
        thinned, size = _thinned(job, sections, typical=typical)
        read += size
        for i, (mean, at, worth) in enumerate(thinned, start=first - start):
            points, moved = (values.flatten(2).mT for values in (at, mean))
            found = fit_robust_affines(points, moved, worth.flatten(1).double())
            left = points + moved - points @ found[:, :, :2].mT - found[:, None, :, 2]
            known = torch.isfinite(found).all(dim=2).all(dim=1)
            affines[:, i], pairs[:, i] = found.cpu().numpy(), left.mT.reshape(mean.shape).cpu().numpy()
            weights[:, i] = (worth * known[:, None, None]).cpu().numpy()
    open_array(job.url("fields", "pair_affines"), mode="r+")[:, start:stop] = affines
    open_array(job.url("fields", "thin_pairs"), mode="r+")[:, start:stop] = pairs.astype(np.float32)
    open_array(job.url("fields", "thin_weights"), mode="r+")[:, start:stop] = weights.astype(np.float32)
    return Result(bytes_read=read, bytes_written=(pairs.nbytes + weights.nbytes) // 2)


def _typical(job: Job, start: int, stop: int) -> float:
    """Typical confidence of the neighbour pairs of some sections, from some nodes of each."""
    near = open_array(job.url("fields", "confidence"), mode="r")
    every = max(1, max(grid_of(job).shape) // _SAMPLED)
    seen = np.asarray(near[0, start:stop, ::every, ::every])
    return median_confidence(torch.from_numpy(np.nan_to_num(seen).astype(np.float64)))


def _thinned(job: Job, sections: range, *, typical: float) -> tuple[list[tuple[Tensor, Tensor, Tensor]], int]:
    """Means over blocks of some sections' pair fields, read in bands: they may be wider than what fits in memory.

    Returns:
        For each section displacements and the places that they stand for, `(k, 2, y', x')`, px, NaN unknown, and
        weights `(k, y', x')`; bytes read. The places are means too, since a block may be known in part.
    """
    whole, factor, side = grid_of(job), factor_of(job), _side(job)
    bands: list[list[Tensor]] = [[] for _ in sections]
    read = 0
    for top in range(0, whole.shape[0], side):
        rows = slice(top, min(top + side, whole.shape[0]))
        pairs, confidence = read_pairs(job, sections.start, sections.stop, nodes=(rows, slice(None)))
        read += pairs.nbytes + confidence.nbytes
        worth = node_weights(pairs, confidence, typical=typical)
        grid = Tile((rows, slice(0, whole.shape[1])), (rows, slice(0, whole.shape[1]))).read_grid(whole)
        places = grid.positions(pairs.device).double().expand(len(pairs), 2, *grid.shape)
        for i, parts in enumerate(bands):  # one by one: these are in double precision
            means, share = restrict(torch.cat([pairs[:, i].double(), places], dim=1), worth[:, i], factor=factor)
            parts.append(torch.cat([means, share[:, None]], dim=1))
    joined = [torch.cat(parts, dim=2) for parts in bands]
    return [(part[:, :2], part[:, 2:4], part[:, 4]) for part in joined], read


def fit_window(task: WindowFitTask) -> Result:
    """Fit the spectra to a window: of its thinned planes, and of one tile."""
    job, factor = task.job, factor_of(task.job)
    first, last = reach_of(job, task.window)
    turn, certainty = read_affine_level(job, first, last)
    weights, split = _read_thin(job, first, last)
    blocks = restricted_grid(grid_of(job), factor=factor)
    problem = elastic_problem(job, split, weights, affine_correction=turn, grid=blocks, certainty=certainty)
    with computing_on(weights.device):
        long = relax_elastic(problem)
    found = {"variances": long.variances}
    if long.variances:
        tile = _tiles(job)[len(_tiles(job)) // 2]
        with computing_on(weights.device):
            base = _thick(job, long.fields, tile)
        weights, split = _read_tile(job, task.window, tile)
        problem = elastic_problem(
            job,
            split,
            weights,
            affine_correction=turn,
            grid=tile.read_grid(grid_of(job)),
            certainty=certainty,
            low_frequencies=LowFrequencies(base, factor),
        )
        with computing_on(weights.device):
            found["short"] = fit_elastic(problem)
    return Result(
        bytes_read=weights.nbytes + split.elastic.nbytes, bytes_written=write_window_fit(job, task.window, found)
    )


def conclude(job: Job) -> Result:
    """Tell what was fitted."""
    factor = factor_of(job)
    blocks = restricted_grid(grid_of(job), factor=factor)
    variances = {name: read_window_fits(job, name) for name in ("variances", "short")}
    records = band_records(
        variances["variances"], shape=blocks.shape, spacing=blocks.spacing, pixel_size=job.info.pixel_size
    )
    if variances["short"]:
        grid = _tiles(job)[0].read_grid(grid_of(job))
        longest = 2 * factor * grid.spacing * job.info.pixel_size
        rest = band_records(variances["short"], shape=grid.shape, spacing=grid.spacing, pixel_size=job.info.pixel_size)
        records += [r for r in rest if r.wavelength_nm < longest]
    return write_record(job, records=records, variances=variances)


def _run_long(task: LongTask) -> Result:
    job = task.job
    start, stop = core_of(job, task.window)
    first, last = reach_of(job, task.window)
    core = slice(start - first, stop - first)
    weights, split = _read_thin(job, first, last)
    turn = np.asarray(open_array(job.url("fields", "turn"), mode="r")[first:last])
    fitted, certainty = read_fit(job, "variances")
    grid = restricted_grid(grid_of(job), factor=factor_of(job))
    problem = elastic_problem(job, split, weights, affine_correction=turn, grid=grid, certainty=certainty)
    elastic = solve_window(problem, fitted)
    with computing_on(weights.device):
        variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)
    written = 0
    for name, values in (("long", elastic.fields), ("long_natural", elastic.natural), ("long_variance", variance)):
        open_array(job.url("fields", name), mode="r+")[start:stop] = values[core].cpu().numpy()
        written += values[core].nbytes
    silent = [start + i for i, seen in enumerate(observed_mask(weights)[core]) if not seen.any()]
    sections = f"{plural(len(silent), 'section')}: {', '.join(map(str, silent))}"
    return Result(
        outcome=Outcome.LOW_QUALITY if silent else Outcome.OK,
        message=f"No neighbour could be registered for {sections}" if silent else "",
        bytes_read=weights.nbytes + split.elastic.nbytes,
        bytes_written=written,
    )


def _run_tile(task: TileTask) -> Result:
    job, tile, factor = task.job, task.tile, factor_of(task.job)
    start, stop = core_of(job, task.window)
    first, last = reach_of(job, task.window)
    core, z = slice(start - first, stop - first), slice(start, stop)
    grid = tile.read_grid(grid_of(job))
    weights, split = _read_tile(job, task.window, tile)
    fitted, certainty = read_fit(job, "short")
    device = weights.device
    long = _read_long(job, "long", slice(first, last)).to(device)
    with computing_on(device):
        base = _thick(job, long, tile)
    problem = elastic_problem(
        job,
        split,
        weights,
        affine_correction=np.asarray(open_array(job.url("fields", "turn"), mode="r")[first:last]),
        grid=grid,
        certainty=certainty,
        low_frequencies=LowFrequencies(base, factor),
    )
    elastic = solve_window(problem, fitted)
    moved, spread = (_read_long(job, name, z).to(device) for name in ("long_natural", "long_variance"))
    with computing_on(device):
        variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)[core]
        variance += _thick(job, spread, tile).clamp(min=0.0)
        fields = (base + elastic.fields)[core]
        natural = _thick(job, moved, tile) + elastic.natural[core]
    written = write_sections(
        job,
        range(start, stop),
        grid=grid,
        inner=tile.core_in_read,
        nodes=tile.core,
        elastic=fields,
        natural=natural,
        variance=variance,
    )
    return Result(bytes_read=weights.nbytes + split.elastic.nbytes + long.nbytes, bytes_written=written)


def _read_long(job: Job, name: str, z: slice) -> Tensor:
    """What was found of the long waves of some sections."""
    return torch.from_numpy(np.asarray(open_array(job.url("fields", name), mode="r")[z]))


def _read_thin(job: Job, first: int, last: int) -> tuple[Tensor, SplitPairs]:
    """Weights and thinned pair fields of some sections, without the pairs that leave them."""
    pairs = np.asarray(open_array(job.url("fields", "thin_pairs"), mode="r")[:, first:last])
    weights = np.nan_to_num(np.asarray(open_array(job.url("fields", "thin_weights"), mode="r")[:, first:last]))
    device = compute_device()
    return _without_outside(job, torch.from_numpy(pairs).to(device), torch.from_numpy(weights).to(device), first, last)


def _read_tile(job: Job, window: int, tile: Tile) -> tuple[Tensor, SplitPairs]:
    """The same with all nodes of a tile."""
    first, last = reach_of(job, window)
    pairs, confidence = read_pairs(job, first, last, nodes=tile.read)
    typical = float(np.asarray(open_array(job.url("fields", "typical"), mode="r")[core_of(job, window)[0]]))
    weights = node_weights(pairs, confidence, typical=typical)
    affines = np.asarray(open_array(job.url("fields", "pair_affines"), mode="r")[:, first:last])
    rest = subtract_affines(pairs, affines, grid=tile.read_grid(grid_of(job)))
    return _without_outside(job, rest, weights, first, last)


def _without_outside(job: Job, rest: Tensor, weights: Tensor, first: int, last: int) -> tuple[Tensor, SplitPairs]:
    affines = np.asarray(open_array(job.url("fields", "pair_affines"), mode="r")[:, first:last])
    for k in range(1, len(rest) + 1) if first > 0 else ():
        rest[k - 1, :k], affines[k - 1, :k], weights[k - 1, :k] = torch.nan, np.nan, 0.0
    known = torch.isfinite(rest).all(dim=2)
    return torch.where(known, weights, torch.zeros_like(weights)), SplitPairs(affines, rest)


def _thick(job: Job, values: Tensor, tile: Tile) -> Tensor:
    """Values of the blocks `(…, y', x')` on the nodes of a tile."""
    whole: Grid = grid_of(job)
    return prolong(
        values.double(), blocks=restricted_grid(whole, factor=factor_of(job)), grid=tile.read_grid(whole)
    ).float()


def _side(job: Job) -> int:
    """Nodes along a side of a tile: whole blocks."""
    factor = factor_of(job)
    return max(job.compose.relax.tile_nodes // factor, HALO_BLOCKS) * factor


def _tiles(job: Job) -> list[Tile]:
    return cut_tiles(grid_of(job).shape, core=_side(job), factor=factor_of(job))


def _pixels(job: Job, window: int, tile: Tile) -> int:
    """Source pixels that a tile of a window answers for."""
    start, stop = core_of(job, window)
    y, x = tile.core
    height = min(y.stop * job.spacing, job.shape[1]) - y.start * job.spacing
    width = min(x.stop * job.spacing, job.shape[2]) - x.start * job.spacing
    return int((stop - start) * height * width)
