"""Fields of appended sections, by the statistics of the fit, block by block.

A block is solved for with the sections before it and the few after it that it can depend on. So its fields change no
more as soon as those have come, and they do not depend on how many sections came at once. The whole of it follows from
the pair fields around and from the fit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.composition.relax.local_level import LevelRows, LocalPairs, solved_level
from ssem_dask.composition.relax.node_weights import node_weights
from ssem_dask.composition.relax.relative import pair_affine_weights, split_pairs
from ssem_dask.composition.relax.relax_report import AffineReport, JumpRecord
from ssem_dask.composition.relax.section_fields import section_extent
from ssem_dask.composition.separation.affine_separation import KnownStatistics
from ssem_dask.composition.separation.jumps import longest_piece
from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.field.device import computing_on
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_GROSS
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
)
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import read_part_arrays
from ssem_dask.stages.compose.layout import SectionWindow, pair_steps
from ssem_dask.stages.compose.method import compose_fields
from ssem_dask.stages.compose.section_windows import (
    elastic_problem,
    pairs_leading_out,
    read_pairs,
    result_arrays,
    sections_result,
    solve_window,
    write_sections,
)
from ssem_dask.stages.compose.solved_fixes import Solved, read_window, solve_cluster
from ssem_dask.stages.compose.statistics import SPECTRA, read_statistics
from ssem_dask.stages.fix_clusters import clusters_at
from ssem_dask.stages.fixed_rows import LEVEL, PLACES, fixed_regions
from ssem_dask.stages.job import GROWN_AHEAD, GROWN_BEHIND, GROWN_DEPTH, Job
from ssem_dask.stages.run_arrays import AFFINE_STATISTICS, RELAX_STATISTICS
from ssem_dask.stages.stage import JobTask
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.task import Result
from ssem_dask.types import Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownTask(JobTask):
    """A task of a block of appended sections."""

    start: int

    @property
    def sections(self) -> SectionWindow:
        """Sections that the task writes, and those that it reads."""
        count = self.job.shape[0]
        core = range(self.start, min(self.start + GROWN_DEPTH, count))
        read = range(max(0, self.start - GROWN_BEHIND), min(self.start + GROWN_DEPTH + GROWN_AHEAD, count))
        return SectionWindow(self.start // GROWN_DEPTH, core, read)

    def regions(self, sections: range, *arrays: RunArray) -> tuple[Region, ...]:
        """Return the regions of some arrays over some sections."""
        return tuple(array.region(self.job, sections.start, sections.stop) for array in arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownSplitTask(GrownTask):
    """The affine part of each pair field of a block."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Fit an affine map to each pair field."""
        job, core = self.job, self.sections.core
        pairs, confidence = read_pairs(job, core)
        with computing_on(pairs.device):
            weights = node_weights(pairs, confidence)
            split = split_pairs(pairs, weights, grid=job.grid)
            determined = pair_affine_weights(weights, grid=job.grid)
        written = PAIR_AFFINES.write(job, split.affine, z=core) + PAIR_AFFINE_WEIGHTS.write(job, determined, z=core)
        return Result(bytes_read=pairs.nbytes + confidence.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the pair fields of the block; write their affine parts and the weights of these."""
        core, arrays = self.sections.core, (PAIR_AFFINES, PAIR_AFFINE_WEIGHTS)
        return Footprint(reads=self.regions(core, PAIRS, CONFIDENCE), writes=self.regions(core, *arrays))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownLevelTask(GrownTask):
    """The affine level of a block."""

    def run(self) -> Result:
        """Solve for the sections around the block; write those of the block."""
        job, window = self.job, self.sections
        level, rows = grown_level(job, window.read), window.core_in_read
        written = sum(
            array.write(job, values[rows], z=window.core)
            for array, values in (
                (AFFINE_CORRECTION, level.correction),
                (AFFINE_NATURAL, level.natural),
                (AFFINE_VARIANCE, level.variance),
            )
        )
        return Result(bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the affine parts of pairs around the block, and the statistics of the fit; write the level."""
        window = self.sections
        return Footprint(reads=_level_regions(self, window.read), writes=self.regions(window.core, *LEVEL))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownSectionsTask(GrownTask):
    """The fields of a block."""

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the elastic part, join it with the affine level, write the fields."""
        job, window = self.job, self.sections
        weights, split = read_window(job, window.read)
        fitted, certainty = read_statistics(job, SPECTRA)
        # The level of the whole window is solved for again, since that of the sections around belongs to other blocks.
        level = grown_level(job, window.read)
        problem = elastic_problem(
            job, split, weights, affine_correction=level.correction, grid=job.grid, certainty=certainty
        )
        core = Solved.of(*solve_window(problem, fitted)).rows(window.core_in_read)
        for cluster in clusters_at(job, window.core):
            solve_cluster(job, cluster, fitted=None).add_to(core, window.core)
        written = write_sections(
            job,
            window.core,
            grid=job.grid,
            elastic=core.elastic,
            natural=core.natural,
            variance=core.variance,
            level=level.rows(window.core_in_read),
        )
        return sections_result(
            job, window, weights, bytes_read=weights.nbytes + split.elastic.nbytes, bytes_written=written
        )

    def footprint(self) -> Footprint:
        """Read pairs and places around the block, its level, and the statistics of the fit; write its fields."""
        job, window = self.job, self.sections
        arrays = PAIRS, CONFIDENCE, *read_part_arrays(job)
        around = [cluster.read for cluster in clusters_at(job, window.core)]
        fixed = (
            region
            for read in around
            for region in (
                *self.regions(read, PAIRS, CONFIDENCE, PAIR_AFFINES, COARSE, *LEVEL),
                *fixed_regions(job, PAIRS, CONFIDENCE, *PLACES, *LEVEL, start=read.start, stop=read.stop),
            )
        )
        return Footprint(
            reads=(
                *self.regions(window.read, *arrays),
                *_level_regions(self, window.read),
                *self.regions(window.core, *LEVEL),
                *fixed,
                RELAX_STATISTICS.region(job.fit),
            ),
            writes=self.regions(window.core, *result_arrays(job)),
        )


def grown_split_tasks(job: Job) -> Iterator[JobTask]:
    """Yield the tasks for the affine parts of the pairs of appended sections."""
    for start in _blocks(job, first=0 if job.grown is None else job.grown.registered):
        yield GrownSplitTask(**compose_fields(job, f"affine-z{start:06d}", stop=start + GROWN_DEPTH), start=start)


def grown_level_tasks(job: Job) -> Iterable[JobTask]:
    """Yield the tasks for the affine level of appended sections."""
    for start in _blocks(job, first=0 if job.grown is None else job.grown.registered):
        yield GrownLevelTask(**compose_fields(job, f"level-z{start:06d}", stop=_reach(start)), start=start)


def grown_section_tasks(job: Job) -> Iterator[JobTask]:
    """Yield the tasks for the fields of appended sections, and of the last ones of the fit."""
    for start in _blocks(job, first=0 if job.grown is None else job.grown.solved):
        core = range(start, min(start + GROWN_DEPTH, job.shape[0]))
        yield GrownSectionsTask(
            **compose_fields(
                job,
                f"grown-z{start:06d}",
                pixels=job.section_pixels * len(core),
                clusters=clusters_at(job, core),
                stop=_reach(start),
            ),
            start=start,
        )


def grown_level(job: Job, sections: range) -> LevelRows:
    """Return the affine level of some sections, solved for without others, by the statistics of the fit."""
    affines, weights = PAIR_AFFINES.read(job, z=sections), PAIR_AFFINE_WEIGHTS.read(job, z=sections)
    affines[pairs_leading_out(sections, steps=pair_steps(job))] = np.nan
    with AFFINE_STATISTICS.reading(job) as record:
        report = AffineReport.from_json(record)
    gross, coarse = COARSE_GROSS.read(job, z=sections), COARSE.read(job, z=sections)
    places = np.array([compose_affine(outer=invert_affine(g), inner=a) for g, a in zip(gross, coarse, strict=True)])
    return solved_level(
        LocalPairs(affines, weights, places),
        offset=_displacement(job, report.jumps, sections),
        shape_yx=job.shape_yx,
        thickness=job.thickness,
        known=KnownStatistics(
            variances=report.variances,
            certainty=report.certainty,
            jumps=tuple(jump.z - sections.start for jump in report.jumps if jump.z in sections[1:]),
        ),
    )


def _displacement(job: Job, jumps: Sequence[JumpRecord], sections: range) -> Float64Array:
    """Return how jumps have displaced some sections, seen from where the fit sees no displacement.

    Of the volume, and of some sections alone, the longest piece between jumps is the one that counts as undisplaced.
    """
    inside = [jump.z - sections.start for jump in jumps if jump.z in sections[1:]]
    here = sections.start + longest_piece(inside, count=len(sections))
    there = longest_piece([jump.z for jump in jumps], count=job.deepest)
    offset = np.zeros(6)
    for jump in jumps:
        share = int(jump.z <= here) - int(jump.z <= there)
        offset += share * jump.parameters(shape_yx=section_extent(job.grid))
    return offset


def _level_regions(task: GrownTask, sections: range) -> tuple[Region, ...]:
    return (
        *task.regions(sections, PAIR_AFFINES, PAIR_AFFINE_WEIGHTS, COARSE, COARSE_GROSS),
        AFFINE_STATISTICS.region(task.job.fit),
    )


def _blocks(job: Job, *, first: int) -> range:
    return range(0) if job.grown is None else range(first, job.shape[0], GROWN_DEPTH)


def _reach(start: int) -> int:
    return start + GROWN_DEPTH + GROWN_AHEAD
