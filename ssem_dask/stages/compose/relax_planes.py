"""Stage compose, method `relax`: distortion is undone, natural motion is left alone.

Generation 1 takes the affine part out of each pair field, window by window, and compares distant sections if that is
configured (`far_pairs`). Then the sections' affines and the spectra are found (`statistics`). The last generation
solves for the elastic part of each window with its overlap and writes `fields/section`.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from ssem_dask.composition.relax.elastic import fit_elastic
from ssem_dask.composition.relax.node_weights import node_weights
from ssem_dask.composition.relax.relative import pair_affine_weights, split_pairs
from ssem_dask.composition.relax.relax_report import band_records
from ssem_dask.field.device import computing_on
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import AFFINE_CORRECTION, PAIR_AFFINE_WEIGHTS, PAIR_AFFINES
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import part_regions
from ssem_dask.stages.compose.far_pairs import far_tasks, prepare_far, with_far
from ssem_dask.stages.compose.grown_sections import grown_level_tasks, grown_section_tasks, grown_split_tasks
from ssem_dask.stages.compose.layout import pair_steps, section_window, window_count, window_depth
from ssem_dask.stages.compose.level_fixes import level_fix_tasks
from ssem_dask.stages.compose.method import ComposeMethod, compose_fields
from ssem_dask.stages.compose.section_windows import (
    AFFINE_ARRAYS,
    FitTask,
    WindowTask,
    create_shared,
    elastic_problem,
    read_depth,
    read_pairs,
    result_arrays,
    sections_result,
    solve_bytes,
    solve_slabs,
    write_sections,
)
from ssem_dask.stages.compose.solved_fixes import Solved, read_window, solve_cluster
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
from ssem_dask.stages.fix_clusters import clusters_at, fix_clusters
from ssem_dask.stages.fixed_rows import LEVEL, PLACES, create_fixed, fixed_regions
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import AFFINE_STATISTICS, RELAX_STATISTICS, spectrum_fit
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, with_fix_tasks
from ssem_dask.task import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTask(WindowTask):
    """The affine part of each pair field of a window of sections."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Fit an affine map to each pair field."""
        job, window = self.job, self.sections
        pairs, confidence = read_pairs(job, window.core)
        with computing_on(pairs.device):
            weights = node_weights(pairs, confidence)
            split = split_pairs(pairs, weights, grid=job.grid)
            determined = pair_affine_weights(weights, grid=job.grid)
        written = PAIR_AFFINES.write(job, split.affine, z=window.core)
        written += PAIR_AFFINE_WEIGHTS.write(job, determined, z=window.core)
        return Result(bytes_read=pairs.nbytes + confidence.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the pair fields of the window; write their affine parts and the weights of these."""
        return Footprint(
            reads=self.core_regions(PAIRS, CONFIDENCE), writes=self.core_regions(PAIR_AFFINES, PAIR_AFFINE_WEIGHTS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSpectraTask(FitTask):
    """The spectra fitted to one window of sections, on all their nodes."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Fit the spectra."""
        job, window = self.job, self.sections
        correction, certainty = read_affine_level(job, window.read)
        weights, split = read_window(job, window.read)
        problem = elastic_problem(job, split, weights, affine_correction=correction, grid=job.grid, certainty=certainty)
        with computing_on(weights.device):
            fitted = fit_elastic(problem)
        written = write_spectra(job, self.window, {SPECTRA: fitted})
        return Result(bytes_read=weights.nbytes + split.elastic.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read pair fields and the affine level of the window and its overlap; write the spectra."""
        job = self.job
        arrays = PAIR_AFFINES, PAIRS, CONFIDENCE, *AFFINE_ARRAYS
        return Footprint(
            reads=(*self.read_regions(*arrays), AFFINE_STATISTICS.region(job)),
            writes=(spectrum_fit(self.window).region(job),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneStatisticsTask(StatisticsTask):
    """The mean of the spectra over the windows, and its summary in words."""

    def run(self) -> Result:
        """Average the spectra and write the statistics."""
        job = self.job
        fitted = mean_spectra(job, SPECTRA)
        records = band_records(fitted, shape=job.grid.shape, spacing=job.spacing, pixel_size=job.info.pixel_size)
        return write_statistics(job, records=records, variances={SPECTRA: fitted})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSectionsTask(WindowTask):
    """The fields of a window's sections."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the elastic part, join it with the affine level, write the fields."""
        job, window = self.job, self.sections
        weights, split = read_window(job, window.read)
        slabs = read_slab_statistics(job, SPECTRA)
        correction = AFFINE_CORRECTION.read(job, z=window.read)
        problem = elastic_problem(
            job, split, weights, affine_correction=correction, grid=job.grid, certainty=slabs[0].certainty
        )
        solved = Solved.of(*solve_slabs(problem, sections=window.read, slabs=slabs))
        own = self.own
        core = solved.rows(slice(own.start - window.read.start, own.stop - window.read.start))
        for cluster in clusters_at(job, own):
            # Of the whole window nothing else changes: what is not reached stays equal to the bit.
            change = solve_cluster(job, cluster, fitted=solved if cluster.read == window.read else None)
            change.add_to(core, own)
        written = write_sections(
            job,
            own,
            grid=job.grid,
            elastic=core.elastic,
            natural=core.natural,
            variance=core.variance,
        )
        read = weights.nbytes + split.elastic.nbytes
        return sections_result(self.job, window, weights, bytes_read=read, bytes_written=written)

    @property
    def own(self) -> range:
        """Sections whose fields the task writes: those of the core that nothing appended reaches."""
        core = self.sections.core
        return range(core.start, max(core.start, min(core.stop, self.job.solved_stop)))

    def footprint(self) -> Footprint:
        """Read pair fields and the affine level of the window and its overlap, and the statistics; write the result."""
        job, arrays = self.job, (PAIRS, CONFIDENCE, PAIR_AFFINES, COARSE, *AFFINE_ARRAYS)
        own = self.own
        around = [cluster.read for cluster in clusters_at(job, own)]
        return Footprint(
            reads=(
                *self.read_regions(*arrays),
                *part_regions(job, self.sections.core.start, self.sections.core.stop, fixes=job.fixes),
                *(array.region(job, read.start, read.stop) for read in around for array in arrays),
                *(
                    region
                    for read in around
                    for region in fixed_regions(
                        job, PAIRS, CONFIDENCE, *PLACES, *LEVEL, start=read.start, stop=read.stop
                    )
                ),
                RELAX_STATISTICS.region(job),
            ),
            writes=tuple(array.region(job, own.start, own.stop) for array in result_arrays(job)),
        )

    def reached_by_fixes(self, region: Region) -> tuple[Region, ...]:
        """Return the sections that fixes reach, those that hold now and those that held before."""
        job, core = self.job, self.sections.core
        clusters = *fix_clusters(job), *fix_clusters(replace(job, fixes=job.previous_fixes))
        if not clusters:
            return (region,)
        spans = {(max(c.sections.start, core.start), min(c.sections.stop, core.stop)) for c in clusters}
        return tuple(Region(region.name, job.sections_box(a, b)) for a, b in sorted(spans) if a < b)


class PlanesMethod(ComposeMethod):
    """Method `relax` for sections whose nodes are solved for at once."""

    def prepare(self, job: Job) -> None:
        """Create the affine level, the far pairs and the result."""
        create_shared(job)
        prepare_far(job)
        create_fixed(job, *LEVEL)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield affine parts and far pairs, statistics, sections."""
        fit = job.fit
        depth, windows = window_depth(fit), range(window_count(fit))
        clusters = fix_clusters(job)
        yield itertools.chain(
            far_tasks(fit),
            (SplitTask(**compose_fields(fit, f"affine-{w:05d}"), window=w) for w in windows),
            grown_split_tasks(job),
        )
        yield from statistics_generations(fit, spectra=PlaneSpectraTask, statistics=PlaneStatisticsTask)
        if job.grown is not None:
            yield grown_level_tasks(job)
        if clusters:
            yield level_fix_tasks(job)
        yield itertools.chain(
            (
                PlaneSectionsTask(
                    **compose_fields(
                        fit,
                        f"sections-{w:05d}",
                        pixels=job.section_pixels * min(depth, fit.shape[0] - w * depth),
                        clusters=clusters_at(fit, section_window(fit, w).core) if clusters else (),
                    ),
                    window=w,
                )
                for w in windows
            ),
            grown_section_tasks(job),
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. A task holds the pair fields of its window with overlap; whole planes of nodes."""
        config, plane = job.compose.relax, math.prod(job.grid.shape)
        windows, fits, k = window_count(job), len(fitted_windows(job)), pair_steps(job)
        sections, solved = read_depth(job), solve_bytes(job, nodes=plane)
        estimate = with_far(
            job,
            Estimate(
                tasks=2 * windows + fits + 2,
                pixels=job.size,
                bytes_read=plane * 4 * k * 3 * (job.shape[0] + (windows + fits) * sections),
                bytes_written=plane * 4 * (5 if config.keep_natural else 3) * job.shape[0],
                files=(4 if config.keep_natural else 3) * windows + fits + 5,
                memory=TASK_OVERHEAD_BYTES + solved,
                gpu_memory=solved,
            ),
        )
        return with_fix_tasks(estimate, level_fix_tasks(job))
