"""Stage compose, method `relax`, for sections of more nodes than are solved for at once (`[compose.relax] max_nodes`).

The same as `relax_planes`, but split by frequency (`composition.relax.coarsening`), so that a task's memory does not
grow with the section. Generation 1 reads the pair fields band by band, restricts them to blocks of nodes and subtracts
their affine parts. Generations 2 to 4 find the sections' affines and the spectra (`statistics`), on restricted planes
and on one tile. Generation 5 solves for the low frequencies of each window of sections, generation 6 for the high
frequencies of each tile of each window, and writes `fields/section`.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.composition.relax.coarsening import Tile
from ssem_dask.composition.relax.elastic import LowFrequencies, fit_elastic, relax_elastic
from ssem_dask.composition.relax.relative import affine_weights, fit_robust_affines
from ssem_dask.composition.relax.relax_report import band_records
from ssem_dask.field.device import computing_on
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    LOW_FREQUENCY,
    LOW_FREQUENCY_NATURAL,
    LOW_FREQUENCY_VARIANCE,
    MEDIAN_CONFIDENCE,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
    RESTRICTED_PAIRS,
    RESTRICTED_WEIGHTS,
)
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import read_part_arrays
from ssem_dask.stages.compose.far_pairs import far_tasks, prepare_far, with_far
from ssem_dask.stages.compose.layout import (
    pair_steps,
    restricted_grid,
    restriction_factor,
    section_tiles,
    section_window,
    tile_side,
    window_count,
)
from ssem_dask.stages.compose.method import ComposeMethod, compose_fields
from ssem_dask.stages.compose.restricted_windows import (
    nodes_box,
    prolong_to_tile,
    read_low_frequency,
    read_restricted,
    read_tile,
    restrict_sections,
    sections_median_confidence,
)
from ssem_dask.stages.compose.section_windows import (
    AFFINE_ARRAYS,
    FitTask,
    WindowTask,
    create_shared,
    elastic_problem,
    read_depth,
    result_arrays,
    sections_result,
    solve_bytes,
    solve_slabs,
    write_sections,
)
from ssem_dask.stages.compose.statistics import (
    SPECTRA,
    StatisticsTask,
    fitted_windows,
    mean_spectra,
    read_affine_level,
    read_slab_statistics,
    statistics_generations,
    write_spectra,
    write_statistics,
)
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import AFFINE_STATISTICS, RELAX_STATISTICS, spectrum_fit
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask
from ssem_dask.task import Result

HIGH_FREQUENCY_SPECTRA = "high_frequency"
"""Name in the records of the spectra of a tile without its low frequencies."""
_RESTRICTED_ARRAYS = PAIR_AFFINES, PAIR_AFFINE_WEIGHTS, RESTRICTED_PAIRS, RESTRICTED_WEIGHTS, MEDIAN_CONFIDENCE
_LOW_FREQUENCY_ARRAYS = LOW_FREQUENCY, LOW_FREQUENCY_NATURAL, LOW_FREQUENCY_VARIANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictTask(WindowTask):
    """The affine part of each pair field of a window of sections, and the rest on the restricted grid."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Restrict the pair fields band by band and subtract their affine parts."""
        job, k = self.job, pair_steps(self.job)
        core = self.sections.core
        median = sections_median_confidence(job, core)
        MEDIAN_CONFIDENCE.write(job, np.full(len(core), median), z=core)
        blocks = restricted_grid(job).shape
        affines, determined = np.full((k, len(core), 2, 3), np.nan), np.zeros((k, len(core)))
        pairs, weights = np.full((k, len(core), 2, *blocks), np.nan), np.zeros((k, len(core), *blocks))
        # As many sections at a time as a shard of the pair fields holds, so that each file is opened once.
        bytes_read, slab = 0, job.register.sections
        for first in range(core.start, core.stop, slab):
            sections = range(first, min(first + slab, core.stop))
            restricted, size = restrict_sections(job, sections, median=median)
            bytes_read += size
            for i, (displacement, position, weight) in enumerate(restricted, start=first - core.start):
                points, displacements = (values.flatten(2).mT for values in (position, displacement))
                fitted = fit_robust_affines(points, displacements, weight.flatten(1).double())
                residual = points + displacements - points @ fitted[:, :, :2].mT - fitted[:, None, :, 2]
                known = torch.isfinite(fitted).all(dim=2).all(dim=1)
                affines[:, i] = fitted.cpu().numpy()
                determined[:, i] = affine_weights(points, weight.flatten(1).double(), grid=restricted_grid(job))
                pairs[:, i] = residual.mT.reshape(displacement.shape).cpu().numpy()
                weights[:, i] = (weight * known[:, None, None]).cpu().numpy()
        PAIR_AFFINES.write(job, affines, z=core)
        PAIR_AFFINE_WEIGHTS.write(job, determined, z=core)
        written = RESTRICTED_PAIRS.write(job, pairs.astype(np.float32), z=core)
        written += RESTRICTED_WEIGHTS.write(job, weights.astype(np.float32), z=core)
        return Result(bytes_read=bytes_read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the pair fields of the window; write their affine parts and the restricted rest."""
        return Footprint(reads=self.core_regions(PAIRS, CONFIDENCE), writes=self.core_regions(*_RESTRICTED_ARRAYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSpectraTask(FitTask):
    """The spectra fitted to one window: low frequencies on restricted planes, high frequencies on one tile."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Fit the spectra of both."""
        job, window = self.job, self.sections
        correction, certainty = read_affine_level(job, window.read)
        weights, split = read_restricted(job, window.read)
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
                base = prolong_to_tile(job, low.fields, tile)
            weights, split = read_tile(job, window, tile)
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
        """Read pair fields, whole and restricted, and the affine level of window and overlap; write the spectra."""
        job = self.job
        arrays = *_RESTRICTED_ARRAYS, PAIRS, CONFIDENCE, *AFFINE_ARRAYS
        return Footprint(
            reads=(*self.read_regions(*arrays), AFFINE_STATISTICS.region(job)),
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
            # The restricted grid describes wavelengths down to two of its blocks; a tile's bands continue from there.
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
class LowFrequencyTask(WindowTask):
    """The low frequencies of a window's sections."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the elastic part on the restricted grid."""
        job, window = self.job, self.sections
        weights, split = read_restricted(job, window.read)
        slabs = read_slab_statistics(job, SPECTRA)
        problem = elastic_problem(
            job,
            split,
            weights,
            affine_correction=AFFINE_CORRECTION.read(job, z=window.read),
            grid=restricted_grid(job),
            certainty=slabs[0].certainty,
        )
        elastic, variance = solve_slabs(problem, sections=window.read, slabs=slabs)
        core = window.core_in_read
        written = sum(
            array.write(job, values[core].cpu().numpy(), z=window.core)
            for array, values in zip(_LOW_FREQUENCY_ARRAYS, (elastic.fields, elastic.natural, variance), strict=True)
        )
        read = weights.nbytes + split.elastic.nbytes
        return sections_result(self.job, window, weights, bytes_read=read, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read restricted pair fields, affine level and statistics of window and overlap; write low frequencies."""
        job = self.job
        arrays = *_RESTRICTED_ARRAYS, *AFFINE_ARRAYS
        return Footprint(
            reads=(*self.read_regions(*arrays), RELAX_STATISTICS.region(job)),
            writes=self.core_regions(*_LOW_FREQUENCY_ARRAYS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSectionsTask(WindowTask):
    """The fields of a tile of a window's sections."""

    tile: Tile

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the high frequencies, add the low ones and the affine level, write the fields."""
        job, tile, window = self.job, self.tile, self.sections
        weights, split = read_tile(job, window, tile)
        slabs = read_slab_statistics(job, HIGH_FREQUENCY_SPECTRA)
        device = weights.device
        low = read_low_frequency(job, LOW_FREQUENCY, window.read).to(device)
        with computing_on(device):
            base = prolong_to_tile(job, low, tile)
        grid = tile.read_grid(job.grid)
        problem = elastic_problem(
            job,
            split,
            weights,
            affine_correction=AFFINE_CORRECTION.read(job, z=window.read),
            grid=grid,
            certainty=slabs[0].certainty,
            low_frequencies=LowFrequencies(base, restriction_factor(job)),
        )
        elastic, variance = solve_slabs(problem, sections=window.read, slabs=slabs)
        low_natural, low_variance = (
            read_low_frequency(job, array, window.core).to(device)
            for array in (LOW_FREQUENCY_NATURAL, LOW_FREQUENCY_VARIANCE)
        )
        core = window.core_in_read
        with computing_on(device):
            # Prolongation overshoots at steps; a variance may not become negative.
            variance = variance[core] + prolong_to_tile(job, low_variance, tile).clamp(min=0.0)
            fields = (base + elastic.fields)[core]
            natural = prolong_to_tile(job, low_natural, tile) + elastic.natural[core]
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
        """Read pair fields of the tile with its halo, all else of window and overlap; write the tile of the result."""
        job, window = self.job, self.sections
        sections = COARSE, *_RESTRICTED_ARRAYS, *AFFINE_ARRAYS, *_LOW_FREQUENCY_ARRAYS
        read = nodes_box(job, window.read, self.tile.read)
        core = nodes_box(job, window.core, self.tile.core)
        return Footprint(
            reads=(
                *self.read_regions(*sections, *read_part_arrays(job)),
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
        windows, tiles = range(window_count(job)), section_tiles(job)
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
                    pixels=nodes_box(job, sections, tile.core).size,
                ),
                window=w,
                tile=tile,
            )
            for w in windows
            for sections in (section_window(job, w).core,)
            for tile in tiles
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. The largest tasks hold, per window with overlap, a tile with halo or a restricted plane."""
        config, factor, k = job.compose.relax, restriction_factor(job), pair_steps(job)
        plane, tiles = math.prod(job.grid.shape), section_tiles(job)
        windows, fits = window_count(job), len(fitted_windows(job))
        sections = read_depth(job)
        tile_nodes = [(t.read[0].stop - t.read[0].start) * (t.read[1].stop - t.read[1].start) for t in tiles]
        nodes = max(*tile_nodes, plane // factor**2)
        overread = sum(tile_nodes) / plane
        # A band of rows of all nodes: in double precision displacements, positions and block means of one section
        # (4 * 8 * 4 bytes per node and pair), and pair fields and confidences of a shard of sections as read.
        band = tile_side(job) * job.grid.shape[1] * k * (4 * 8 * 4 + job.register.sections * 6 * 4)
        restricted = plane // factor**2 * 4 * (k * 3 + 5)
        solved = solve_bytes(job, nodes=nodes)
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
