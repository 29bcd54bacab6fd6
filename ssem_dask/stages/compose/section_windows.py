"""Reading, solving and writing a window of sections: the steps that both variants of method `relax` share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import (
    HIGH_FREQUENCY_NODES,
    ElasticProblem,
    ElasticSolution,
    LowFrequencies,
    relax_elastic,
    solve_elastic,
)
from ssem_dask.composition.relax.local_level import LevelRows
from ssem_dask.composition.relax.node_weights import observed_mask
from ssem_dask.composition.relax.relative import SplitPairs
from ssem_dask.composition.relax.section_fields import join_affine_and_elastic, join_natural_motion, section_extent
from ssem_dask.composition.relax.uncertainty import affine_variance, elastic_variance
from ssem_dask.composition.separation.sequence import UNKNOWNS_PER_SECTION, Variances
from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.region import Region
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    NATURAL,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
    SECTION,
    UNCERTAINTY,
)
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import coarse_to_source, read_parts
from ssem_dask.stages.compose.layout import SectionWindow, fit_window, pair_steps, section_window, window_depth
from ssem_dask.stages.compose.method import named_sections
from ssem_dask.stages.fixed_rows import read_level, read_places
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import JobTask
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.task import Outcome, Result
from ssem_dask.types import BoolArray, Float64Array

AFFINE_ARRAYS = AFFINE_CORRECTION, AFFINE_NATURAL, AFFINE_VARIANCE
"""The affine level of all sections."""
_EVERYWHERE = slice(None), slice(None)


@dataclass(frozen=True, slots=True)
class SlabStatistics:
    """Statistics of the sections of one slab; of all sections, if there are no slabs."""

    sections: range
    variances: list[Variances] | None
    """Variances of the bands; None if they were not fitted."""
    certainty: float
    """P(displaced)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTask(JobTask):
    """A task of one window of sections."""

    window: int
    """Number of the window along z."""

    @property
    def sections(self) -> SectionWindow:
        """Sections that the task reads and writes."""
        return section_window(self.job, self.window)

    def core_regions(self, *arrays: RunArray) -> tuple[Region, ...]:
        """Return the regions of some arrays that belong to the window's core."""
        core = self.sections.core
        return tuple(array.region(self.job, core.start, core.stop) for array in arrays)

    def read_regions(self, *arrays: RunArray) -> tuple[Region, ...]:
        """Return the regions of some arrays that belong to the window's core and overlap."""
        read = self.sections.read
        return tuple(array.region(self.job, read.start, read.stop) for array in arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTask(WindowTask):
    """A task that fits the spectra of some sections."""

    @property
    def sections(self) -> SectionWindow:
        """Sections that the task reads."""
        return fit_window(self.job, self.window)


def result_arrays(job: Job) -> tuple[RunArray, ...]:
    """Return the arrays of the result."""
    return (SECTION, UNCERTAINTY, NATURAL) if job.compose.relax.keep_natural else (SECTION, UNCERTAINTY)


def create_shared(job: Job) -> None:
    """Create the affine level and the result."""
    for array in (PAIR_AFFINES, PAIR_AFFINE_WEIGHTS, *AFFINE_ARRAYS, *result_arrays(job)):
        array.create(job)


def elastic_problem(
    job: Job,
    split: SplitPairs,
    weights: Tensor,
    *,
    affine_correction: Float64Array,
    grid: Grid,
    certainty: float,
    low_frequencies: LowFrequencies | None = None,
) -> ElasticProblem:
    """Return the elastic problem of a window, as the run is configured."""
    return ElasticProblem(
        split=split,
        weights=weights,
        affine_correction=affine_correction,
        grid=grid,
        certainty=certainty,
        config=job.compose.relax,
        high_frequency_px=HIGH_FREQUENCY_NODES * job.spacing,
        low_frequencies=low_frequencies,
    )


def solve_window(problem: ElasticProblem, variances: list[Variances] | None) -> tuple[ElasticSolution, Tensor]:
    """Solve with the variances of the run, or with the window's own if there are none; one task at a time per GPU.

    Returns:
        The solution, and the variance `(z, y, x)` of its fields.
    """
    with computing_on(problem.weights.device):
        solution = relax_elastic(problem) if variances is None else solve_elastic(problem, variances)
        return solution, elastic_variance(solution.weights, variances=solution.variances, certainty=problem.certainty)


def solve_slabs(
    problem: ElasticProblem, *, sections: range, slabs: Sequence[SlabStatistics]
) -> tuple[ElasticSolution, Tensor]:
    """Solve for a window of sections, those of each slab by themselves and by their own statistics.

    Args:
        problem: of the window; pairs across borders are not used.
        sections: z of the window.
        slabs: statistics of all slabs.

    Returns:
        As of `solve_window`.
    """
    parts = []
    for slab in slabs:
        own = slice(max(slab.sections.start, sections.start), min(slab.sections.stop, sections.stop))
        if own.start < own.stop:
            rows = slice(own.start - sections.start, own.stop - sections.start)
            parts.append(solve_window(problem.within(rows, certainty=slab.certainty), slab.variances))
    if len(parts) == 1:
        return parts[0]
    solutions = [solution for solution, _ in parts]
    return ElasticSolution(
        fields=torch.cat([solution.fields for solution in solutions]),
        natural=torch.cat([solution.natural for solution in solutions]),
        variances=solutions[0].variances,
        weights=torch.cat([solution.weights for solution in solutions], dim=1),
    ), torch.cat([variance for _, variance in parts])


def read_depth(job: Job) -> int:
    """Return the largest number of sections that a window reads: its core and both overlaps."""
    return min(job.shape[0], window_depth(job) + 2 * job.compose.relax.overlap)


def solve_bytes(job: Job, *, nodes: int) -> int:
    """Return the memory of solving a window of sections of `nodes` nodes: copies of the observations, and unknowns."""
    k = pair_steps(job)
    return nodes * read_depth(job) * (k * 2 * 8 * 8 + k * 3 * 4 + k * 8 + UNKNOWNS_PER_SECTION * 2 * 4 * 3)


def write_sections(
    job: Job,
    sections: range,
    *,
    grid: Grid,
    inner: tuple[slice, slice] = _EVERYWHERE,
    nodes: tuple[slice, slice] = _EVERYWHERE,
    elastic: Tensor,
    natural: Tensor,
    variance: Tensor,
    level: LevelRows | None = None,
) -> int:
    """Join affine and elastic parts and write the fields of some sections; return the number of bytes.

    Args:
        job: the run.
        sections: z.
        grid: nodes that were solved for.
        inner: the part of them that is written.
        nodes: position of that part in the section's nodes.
        elastic: e `(z, 2, y, x)`.
        natural: `(z, 2, y, x)`.
        variance: `(z, y, x)`, of the elastic part. All three are on one device, which joins them.
        level: affine level of the sections without fixes; None: as it is stored.
    """
    fitted = (None, None, None) if level is None else (level.correction, level.natural, level.variance)
    correction = read_level(job, AFFINE_CORRECTION, sections, fitted=fitted[0])
    coarse, device = read_places(job, COARSE, sections), elastic.device
    spread = read_level(job, AFFINE_VARIANCE, sections, fitted=fitted[2])
    keeps = job.compose.relax.keep_natural
    affine = read_level(job, AFFINE_NATURAL, sections, fitted=fitted[1]) if keeps else None
    with computing_on(device):
        corrected = join_affine_and_elastic(elastic, affine=correction, grid=grid)
        variance = variance + affine_variance(spread, shape_yx=section_extent(job.grid), grid=grid, device=device)
        results = {SECTION: join_affine_and_elastic(corrected, affine=coarse, grid=grid), UNCERTAINTY: variance.sqrt_()}
        if affine is not None:
            results[NATURAL] = join_natural_motion(natural, affine=affine, grid=grid)
            results[NATURAL][: max(0, 1 - sections.start)] = torch.nan  # no section precedes the first
        for z, broken in read_parts(job, sections, fixes=job.fixes).items():
            i, positions = z - sections.start, grid.positions(device).double()
            where = coarse_to_source(coarse[i], broken, positions + corrected[i].double())
            results[SECTION][i] = (where - positions).float()
        parts = {array: values[..., *inner].cpu().numpy() for array, values in results.items()}
    y, x = nodes
    return sum(array.write(job, part, z=sections, y=y, x=x) for array, part in parts.items())


def read_pairs(job: Job, sections: range, *, nodes: tuple[slice, slice] = _EVERYWHERE) -> tuple[Tensor, Tensor]:
    """Read pair fields `(K, z, 2, y, x)` of the fit, and confidences, of some sections and nodes, to the device."""
    (y, x), k, device = nodes, slice(pair_steps(job)), compute_device()
    fields = PAIRS.read(job, k=k, z=sections, y=y, x=x)
    confidence = CONFIDENCE.read(job, k=k, z=sections, y=y, x=x)
    return torch.from_numpy(fields).to(device), torch.from_numpy(confidence).to(device)


def pairs_leading_out(sections: range, *, steps: int) -> BoolArray:
    """Return which pairs `(K, z)` of some sections with the 1st to `steps`-th section before lead out of them.

    Pairs of the volume's first sections lead nowhere; they are unknown already.
    """
    before, within = np.arange(1, steps + 1)[:, None], np.arange(len(sections))
    return np.asarray((within < before) & (sections.start > 0))


def sections_result(job: Job, window: SectionWindow, weights: Tensor, *, bytes_read: int, bytes_written: int) -> Result:
    """Return the result of a window's task: low quality if no pair field is known for some of its sections."""
    unobserved = [
        window.core.start + i for i, nodes in enumerate(observed_mask(weights)[window.core_in_read]) if not nodes.any()
    ]
    unobserved = [z for z in unobserved if not job.fixes.of(z).excluded]
    return Result(
        outcome=Outcome.LOW_QUALITY if unobserved else Outcome.OK,
        message=f"No neighbour could be registered for {named_sections(job, unobserved)}" if unobserved else "",
        bytes_read=bytes_read,
        bytes_written=bytes_written,
    )
