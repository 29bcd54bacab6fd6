"""Stage compose, method `relax`, for sections of more nodes than are solved for at once (`[compose.relax] max_nodes`).

The same as `relax_planes`, but split by frequency (`composition.relax.coarsening`), so that a task's memory does not
grow with the section. Generation 1 reads the pair fields band by band, restricts them to blocks of nodes and takes
their affine parts out. Then the sections' affines and the spectra are found (`statistics`), on restricted planes and on
one tile. The last but one generation solves for the low frequencies of each window of sections, the last for the high
frequencies of each tile of each window, and writes `fields/section`.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.coarsening import Tile, prolong, restrict
from ssem_dask.composition.relax.elastic import LowFrequencies, fit_elastic, relax_elastic
from ssem_dask.composition.relax.node_weights import median_confidence, node_weights
from ssem_dask.composition.relax.relative import SplitPairs, fit_robust_affines, subtract_affines
from ssem_dask.composition.relax.relax_report import band_records
from ssem_dask.composition.relax.uncertainty import elastic_variance
from ssem_dask.composition.separation.sequence import UNKNOWNS
from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.compose.far_pairs import far_tasks, prepare_far, with_far
from ssem_dask.stages.compose.layout import (
    SectionWindow,
    pair_steps,
    restricted_grid,
    restriction_factor,
    section_tiles,
    section_window,
    tile_side,
    window_count,
    window_depth,
)
from ssem_dask.stages.compose.method import ComposeMethod, compose_fields
from ssem_dask.stages.compose.section_windows import (
    AFFINE_ARRAYS,
    create_shared,
    elastic_problem,
    read_pairs,
    result_arrays,
    sections_result,
    solve_window,
    write_sections,
)
from ssem_dask.stages.compose.statistics import (
    SPECTRA,
    SpectraTask,
    StatisticsTask,
    fitted_windows,
    mean_spectra,
    read_affine_level,
    read_statistics,
    statistics_generations,
    write_spectra,
    write_statistics,
)
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import (
    AFFINE_CORRECTION,
    AFFINE_STATISTICS,
    COARSE,
    CONFIDENCE,
    LOW_FREQUENCY,
    LOW_FREQUENCY_NATURAL,
    LOW_FREQUENCY_VARIANCE,
    MEDIAN_CONFIDENCE,
    PAIR_AFFINES,
    PAIRS,
    RELAX_STATISTICS,
    RESTRICTED_PAIRS,
    RESTRICTED_WEIGHTS,
    RunArray,
    spectrum_fit,
)
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask
from ssem_dask.task import Result

HIGH_FREQUENCY_SPECTRA = "high_frequency"
"""Name in the records of the spectra of a tile without its low frequencies."""
_SAMPLED_NODES = 256
"""Nodes along a side that are sampled for a window's median confidence."""
_RESTRICTED_ARRAYS = PAIR_AFFINES, RESTRICTED_PAIRS, RESTRICTED_WEIGHTS, MEDIAN_CONFIDENCE
_LOW_FREQUENCY_ARRAYS = LOW_FREQUENCY, LOW_FREQUENCY_NATURAL, LOW_FREQUENCY_VARIANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictTask(JobTask):
    """The affine part of each pair field of a window of sections, and the rest on the restricted grid."""

    window: int
    """Number of the window along z."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Restrict the pair fields band by band and take their affine parts out."""
        job, k = self.job, pair_steps(self.job)
        core = section_window(job, self.window).core
        median = _median_confidence(job, core)
        MEDIAN_CONFIDENCE.write(job, np.full(len(core), median), z=core)
        blocks = restricted_grid(job).shape
        affines = np.full((k, len(core), 2, 3), np.nan)
        pairs, weights = np.full((k, len(core), 2, *blocks), np.nan), np.zeros((k, len(core), *blocks))
        # As many sections at a time as a shard of the pair fields holds, so that each file is opened once.
        read, slab = 0, job.register.sections
        for first in range(core.start, core.stop, slab):
            sections = range(first, min(first + slab, core.stop))
            restricted, size = _restricted_sections(job, sections, median=median)
            read += size
            for i, (displacement, position, weight) in enumerate(restricted, start=first - core.start):
                points, moved = (values.flatten(2).mT for values in (position, displacement))
                fitted = fit_robust_affines(points, moved, weight.flatten(1).double())
                rest = points + moved - points @ fitted[:, :, :2].mT - fitted[:, None, :, 2]
                known = torch.isfinite(fitted).all(dim=2).all(dim=1)
                affines[:, i] = fitted.cpu().numpy()
                pairs[:, i] = rest.mT.reshape(displacement.shape).cpu().numpy()
                weights[:, i] = (weight * known[:, None, None]).cpu().numpy()
        PAIR_AFFINES.write(job, affines, z=core)
        written = RESTRICTED_PAIRS.write(job, pairs.astype(np.float32), z=core)
        written += RESTRICTED_WEIGHTS.write(job, weights.astype(np.float32), z=core)
        return Result(bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """The pair fields of the window; their affine parts and the restricted rest."""
        core = section_window(self.job, self.window).core
        return Footprint(
            reads=tuple(a.region(self.job, core.start, core.stop) for a in (PAIRS, CONFIDENCE)),
            writes=tuple(a.region(self.job, core.start, core.stop) for a in _RESTRICTED_ARRAYS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSpectraTask(SpectraTask):
    """The spectra fitted to one window: low frequencies on restricted planes, high frequencies on one tile."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Fit the spectra of both."""
        job, window = self.job, section_window(self.job, self.window)
        correction, certainty = read_affine_level(job, window.read)
        weights, split = _read_restricted(job, window.read)
        problem = elastic_problem(
            job, split, weights, affine_correction=correction, grid=restricted_grid(job), certainty=certainty
        )
        with computing_on(weights.device):
            low = relax_elastic(problem)
        spectra = {SPECTRA: low.variances}
        if low.variances:
            tiles = section_tiles(job)
            tile = tiles[len(tiles) // 2]
            with computing_on(weights.device):
                base = _prolonged(job, low.fields, tile)
            weights, split = _read_tile(job, window, tile)
            problem = elastic_problem(
                job,
                split,
                weights,
                affine_correction=correction,
                grid=tile.read_grid(job.grid),
                certainty=certainty,
                low_frequencies=LowFrequencies(base, restriction_factor(job)),
            )
            with computing_on(weights.device):
                spectra[HIGH_FREQUENCY_SPECTRA] = fit_elastic(problem)
        return Result(
            bytes_read=weights.nbytes + split.elastic.nbytes, bytes_written=write_spectra(job, self.window, spectra)
        )

    def footprint(self) -> Footprint:
        """Pair fields, whole and restricted, and the affine level of the window and its overlap; the spectra."""
        job, read = self.job, section_window(self.job, self.window).read
        arrays = *_RESTRICTED_ARRAYS, PAIRS, CONFIDENCE, *AFFINE_ARRAYS
        return Footprint(
            reads=(*(a.region(job, read.start, read.stop) for a in arrays), AFFINE_STATISTICS.region(job)),
            writes=(spectrum_fit(self.window).region(job),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileStatisticsTask(StatisticsTask):
    """The mean of both kinds of spectra over the windows, and its summary in words."""

    def run(self) -> Result:
        """Average the spectra and write the statistics."""
        job, factor = self.job, restriction_factor(self.job)
        blocks = restricted_grid(job)
        variances = {name: mean_spectra(job, name) for name in (SPECTRA, HIGH_FREQUENCY_SPECTRA)}
        records = band_records(
            variances[SPECTRA], shape=blocks.shape, spacing=blocks.spacing, pixel_size=job.info.pixel_size
        )
        if variances[HIGH_FREQUENCY_SPECTRA]:
            grid = section_tiles(job)[0].read_grid(job.grid)
            # The restricted grid describes wavelengths down to two of its blocks; a tile's bands go on from there.
            longest = 2 * factor * grid.spacing * job.info.pixel_size
            rest = band_records(
                variances[HIGH_FREQUENCY_SPECTRA],
                shape=grid.shape,
                spacing=grid.spacing,
                pixel_size=job.info.pixel_size,
            )
            records += [r for r in rest if r.wavelength_nm < longest]
        return write_statistics(job, records=records, variances=variances)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowFrequencyTask(JobTask):
    """The low frequencies of a window's sections."""

    window: int
    """Number of the window along z."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the elastic part on the restricted grid."""
        job, window = self.job, section_window(self.job, self.window)
        weights, split = _read_restricted(job, window.read)
        fitted, certainty = read_statistics(job, SPECTRA)
        problem = elastic_problem(
            job,
            split,
            weights,
            affine_correction=AFFINE_CORRECTION.read(job, z=window.read),
            grid=restricted_grid(job),
            certainty=certainty,
        )
        elastic = solve_window(problem, fitted)
        with computing_on(weights.device):
            variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)
        core = window.core_in_read
        written = sum(
            array.write(job, values[core].cpu().numpy(), z=window.core)
            for array, values in zip(_LOW_FREQUENCY_ARRAYS, (elastic.fields, elastic.natural, variance), strict=True)
        )
        read = weights.nbytes + split.elastic.nbytes
        return sections_result(window, weights, bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Restricted pair fields and the affine level of the window and its overlap, and the statistics; its planes."""
        job, window = self.job, section_window(self.job, self.window)
        read, core = window.read, window.core
        arrays = *_RESTRICTED_ARRAYS, *AFFINE_ARRAYS
        return Footprint(
            reads=(*(a.region(job, read.start, read.stop) for a in arrays), RELAX_STATISTICS.region(job)),
            writes=tuple(a.region(job, core.start, core.stop) for a in _LOW_FREQUENCY_ARRAYS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSectionsTask(JobTask):
    """The fields of a tile of a window's sections."""

    window: int
    """Number of the window along z."""
    tile: Tile

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the high frequencies, add the low ones and the affine level, write the fields."""
        job, tile, window = self.job, self.tile, section_window(self.job, self.window)
        weights, split = _read_tile(job, window, tile)
        fitted, certainty = read_statistics(job, HIGH_FREQUENCY_SPECTRA)
        device = weights.device
        low = _read_low_frequency(job, LOW_FREQUENCY, window.read).to(device)
        with computing_on(device):
            base = _prolonged(job, low, tile)
        grid = tile.read_grid(job.grid)
        problem = elastic_problem(
            job,
            split,
            weights,
            affine_correction=AFFINE_CORRECTION.read(job, z=window.read),
            grid=grid,
            certainty=certainty,
            low_frequencies=LowFrequencies(base, restriction_factor(job)),
        )
        elastic = solve_window(problem, fitted)
        low_natural, low_variance = (
            _read_low_frequency(job, array, window.core).to(device)
            for array in (LOW_FREQUENCY_NATURAL, LOW_FREQUENCY_VARIANCE)
        )
        core = window.core_in_read
        with computing_on(device):
            variance = elastic_variance(elastic.weights, variances=elastic.variances, certainty=certainty)[core]
            # Prolongation overshoots at steps; a variance may not become negative.
            variance += _prolonged(job, low_variance, tile).clamp(min=0.0)
            fields = (base + elastic.fields)[core]
            natural = _prolonged(job, low_natural, tile) + elastic.natural[core]
        written = write_sections(
            job,
            window.core,
            grid=grid,
            inner=tile.core_in_read,
            nodes=tile.core,
            elastic=fields,
            natural=natural,
            variance=variance,
        )
        return Result(bytes_read=weights.nbytes + split.elastic.nbytes + low.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Pair fields of the tile with its halo, and all else of the window and its overlap; the tile of the result."""
        job, window = self.job, section_window(self.job, self.window)
        sections = COARSE, *_RESTRICTED_ARRAYS, *AFFINE_ARRAYS, *_LOW_FREQUENCY_ARRAYS
        read = _nodes_box(job, window.read, self.tile.read)
        core = _nodes_box(job, window.core, self.tile.core)
        return Footprint(
            reads=(
                *(array.region(job, window.read.start, window.read.stop) for array in sections),
                *(array.region_of(read) for array in (PAIRS, CONFIDENCE)),
                RELAX_STATISTICS.region(job),
            ),
            writes=tuple(array.region_of(core) for array in result_arrays(job)),
        )


class TilesMethod(ComposeMethod):
    """Method `relax` for wide sections, split by frequency."""

    def prepare(self, job: Job) -> None:
        """Create the affine level, the far pairs, the restricted arrays and the result."""
        create_shared(job)
        prepare_far(job)
        for array in (RESTRICTED_PAIRS, RESTRICTED_WEIGHTS, MEDIAN_CONFIDENCE, *_LOW_FREQUENCY_ARRAYS):
            array.create(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield restricted pairs and far pairs, statistics, low frequencies, tiles."""
        windows = range(window_count(job))
        yield itertools.chain(
            far_tasks(job), (RestrictTask(**compose_fields(job, f"restrict-{w:05d}"), window=w) for w in windows)
        )
        yield from statistics_generations(job, spectra=TileSpectraTask, statistics=TileStatisticsTask)
        yield (LowFrequencyTask(**compose_fields(job, f"low-frequency-{w:05d}"), window=w) for w in windows)
        yield (
            TileSectionsTask(
                **compose_fields(
                    job,
                    f"sections-{w:05d}-y{tile.core[0].start:06d}-x{tile.core[1].start:06d}",
                    pixels=_nodes_box(job, section_window(job, w).core, tile.core).size,
                ),
                window=w,
                tile=tile,
            )
            for w in windows
            for tile in section_tiles(job)
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. The largest tasks hold, per window with overlap, a tile with halo or a restricted plane."""
        config, factor, k = job.compose.relax, restriction_factor(job), pair_steps(job)
        plane, tiles = math.prod(job.grid.shape), section_tiles(job)
        windows, fits = window_count(job), len(fitted_windows(job))
        sections = min(job.shape[0], window_depth(job) + 2 * config.overlap)
        tile_nodes = [(t.read[0].stop - t.read[0].start) * (t.read[1].stop - t.read[1].start) for t in tiles]
        nodes = max(*tile_nodes, plane // factor**2)
        overread = sum(tile_nodes) / plane
        # A band of rows of some sections; of one of them in double precision with its positions and block means.
        band = tile_side(job) * job.grid.shape[1] * k * (4 * 8 * 4 + job.register.sections * 6 * 4)
        restricted = plane // factor**2 * 4 * (k * 3 + 5)
        solved = nodes * sections * (k * 2 * 8 * 8 + k * 3 * 4 + k * 8 + UNKNOWNS * 2 * 4 * 3)
        return with_far(
            job,
            Estimate(
                tasks=windows * (2 + len(tiles)) + fits + 2,
                pixels=job.size,
                bytes_read=int(plane * 4 * k * 3 * (job.shape[0] + windows * sections * overread))
                + 2 * restricted * job.shape[0],
                bytes_written=plane * 4 * (5 if config.keep_natural else 3) * job.shape[0] + restricted * job.shape[0],
                files=windows * (6 + (3 if config.keep_natural else 2) * len(tiles)) + 2 * fits,
                memory=TASK_OVERHEAD_BYTES + max(solved, band),
                gpu_memory=max(solved, band),
            ),
        )


def _median_confidence(job: Job, sections: range) -> float:
    """Return the median confidence of the neighbour pairs of some sections, from a sample of each section's nodes."""
    every = max(1, max(job.grid.shape) // _SAMPLED_NODES)
    sampled = CONFIDENCE.read(job, k=0, z=sections, y=slice(None, None, every), x=slice(None, None, every))
    return median_confidence(torch.from_numpy(np.nan_to_num(sampled).astype(np.float64)))


def _restricted_sections(
    job: Job, sections: range, *, median: float
) -> tuple[list[tuple[Tensor, Tensor, Tensor]], int]:
    """Restrict some sections' pair fields to blocks, read in bands: they may be wider than what fits in memory.

    Returns:
        Per section displacements and mean positions of the known nodes of each block, `(k, 2, y', x')`, px, NaN
        unknown, and weights `(k, y', x')`; bytes read. Positions are means too, since a block may be known in part.
    """
    factor, side = restriction_factor(job), tile_side(job)
    bands: list[list[Tensor]] = [[] for _ in sections]
    read = 0
    for top in range(0, job.grid.shape[0], side):
        rows = slice(top, min(top + side, job.grid.shape[0]))
        pairs, confidence = read_pairs(job, sections, nodes=(rows, slice(None)))
        read += pairs.nbytes + confidence.nbytes
        weights = node_weights(pairs, confidence, typical=median)
        nodes = rows, slice(0, job.grid.shape[1])
        grid = Tile(nodes, nodes).read_grid(job.grid)
        positions = grid.positions(pairs.device).double().expand(len(pairs), 2, *grid.shape)
        for i, parts in enumerate(bands):  # section by section, since these are in double precision
            means, share = restrict(torch.cat([pairs[:, i].double(), positions], dim=1), weights[:, i], factor=factor)
            parts.append(torch.cat([means, share[:, None]], dim=1))
    whole = [torch.cat(parts, dim=2) for parts in bands]
    return [(part[:, :2], part[:, 2:4], part[:, 4]) for part in whole], read


def _read_low_frequency(job: Job, array: RunArray, sections: range) -> Tensor:
    """Read the low frequencies of some sections."""
    return torch.from_numpy(array.read(job, z=sections))


def _read_restricted(job: Job, sections: range) -> tuple[Tensor, SplitPairs]:
    """Read weights and restricted pair fields of some sections, without the pairs that lead out of them."""
    pairs = RESTRICTED_PAIRS.read(job, z=sections)
    weights = np.nan_to_num(RESTRICTED_WEIGHTS.read(job, z=sections))
    device = compute_device()
    return _within(job, torch.from_numpy(pairs).to(device), torch.from_numpy(weights).to(device), sections)


def _read_tile(job: Job, window: SectionWindow, tile: Tile) -> tuple[Tensor, SplitPairs]:
    """Read weights and pair fields of all nodes of a tile, without the pairs that lead out of the window."""
    pairs, confidence = read_pairs(job, window.read, nodes=tile.read)
    median = float(MEDIAN_CONFIDENCE.read(job, z=window.core.start))
    weights = node_weights(pairs, confidence, typical=median)
    rest = subtract_affines(pairs, PAIR_AFFINES.read(job, z=window.read), grid=tile.read_grid(job.grid))
    return _within(job, rest, weights, window.read)


def _within(job: Job, rest: Tensor, weights: Tensor, sections: range) -> tuple[Tensor, SplitPairs]:
    """Return weights and split pairs with the pairs that lead out of `sections`, and unknown nodes, at weight 0."""
    affines = PAIR_AFFINES.read(job, z=sections)
    for k in range(1, len(rest) + 1) if sections.start > 0 else ():
        rest[k - 1, :k], affines[k - 1, :k], weights[k - 1, :k] = torch.nan, np.nan, 0.0
    known = torch.isfinite(rest).all(dim=2)
    return torch.where(known, weights, torch.zeros_like(weights)), SplitPairs(affines, rest)


def _prolonged(job: Job, values: Tensor, tile: Tile) -> Tensor:
    """Prolong values of the blocks `(…, y', x')` to the nodes of a tile."""
    return prolong(values.double(), blocks=restricted_grid(job), grid=tile.read_grid(job.grid)).float()


def _nodes_box(job: Job, sections: range, nodes: tuple[slice, slice]) -> Box:
    """Return the mip-0 box of nodes (y, x) of some sections, clipped to the volume."""
    y, x = (slice(s.start * job.spacing, s.stop * job.spacing) for s in nodes)
    return Box((sections.start, y.start, x.start), (sections.stop, y.stop, x.stop)).clipped(job.shape)
