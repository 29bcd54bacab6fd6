"""The elastic part of sections that fixes reach, on whole planes of nodes: what their changed pairs make of it.

As for the affine level (`composition.relax.local_level`), the sections around are solved for twice, with the pairs of
the fit and with those of now, and the difference counts the less the farther it is from the change.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import ElasticSolution
from ssem_dask.composition.relax.node_weights import node_weights
from ssem_dask.composition.relax.relative import SplitPairs, subtract_affines
from ssem_dask.field.device import compute_device
from ssem_dask.stages.array_rows.compose_arrays import AFFINE_CORRECTION, PAIR_AFFINES
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.compose.layout import pair_steps
from ssem_dask.stages.compose.level_fixes import changed_affines, typical_confidence
from ssem_dask.stages.compose.section_windows import elastic_problem, pairs_leading_out, read_pairs, solve_window
from ssem_dask.stages.compose.statistics import SPECTRA, read_statistics
from ssem_dask.stages.fix_clusters import FixCluster
from ssem_dask.stages.fixed_rows import MergedPairs, read_level
from ssem_dask.stages.job import Job


@dataclass(frozen=True, slots=True)
class Solved:
    """The elastic part of consecutive sections."""

    elastic: Tensor
    """e `(z, 2, y, x)`."""
    natural: Tensor
    """`(z, 2, y, x)`."""
    variance: Tensor
    """`(z, y, x)`."""

    @classmethod
    def of(cls, solution: ElasticSolution, variance: Tensor) -> "Solved":
        """Return what was solved for."""
        return cls(solution.fields, solution.natural, variance)

    def rows(self, sections: slice) -> "Solved":
        """Return a copy of some sections."""
        return Solved(*(values[sections].clone() for values in (self.elastic, self.natural, self.variance)))


@dataclass(frozen=True, slots=True)
class SolvedChange:
    """Sections before and after a change."""

    cluster: FixCluster
    before: Solved
    after: Solved
    """Both of the sections that the cluster reads."""

    def add_to(self, solved: Solved, sections: range) -> None:
        """Add the change to what the fit says of some sections; others stay as they are."""
        read = self.cluster.read
        for z in self.cluster.sections:
            weight = self.cluster.weight(z)
            if z not in sections or weight == 0.0:
                continue
            own, row = z - sections.start, z - read.start
            for target, before, after in zip(_parts(solved), _parts(self.before), _parts(self.after), strict=True):
                if z in self.cluster.moved:
                    target[own] = after[row]  # what the fit says of it belongs to another place
                else:
                    target[own] += weight * (after[row] - before[row])
            solved.variance[own].clamp_(min=0.0)


def solve_cluster(job: Job, cluster: FixCluster, *, fitted: Solved | None) -> SolvedChange:
    """Solve for the sections around a cluster, before and after its change.

    Args:
        job: the run.
        cluster: the change.
        fitted: what the fit says of the sections that the cluster reads, if it is known; None: it is solved for.
    """
    after = _solve(job, cluster, changed=True)
    return SolvedChange(cluster, _solve(job, cluster, changed=False) if fitted is None else fitted, after)


def read_window(job: Job, sections: range) -> tuple[Tensor, SplitPairs]:
    """Read weights and pair fields of some sections, without the pairs that lead out of them."""
    pairs, confidence = read_pairs(job, sections)
    affines = PAIR_AFFINES.read(job, z=sections)
    outside = pairs_leading_out(sections, steps=len(pairs))
    pairs[outside], affines[outside] = torch.nan, np.nan
    return node_weights(pairs, confidence), SplitPairs(affines, subtract_affines(pairs, affines, grid=job.grid))


def _solve(job: Job, cluster: FixCluster, *, changed: bool) -> Solved:
    """Solve for the sections that a cluster reads, with the pairs of the fit or with its own."""
    sections, clusters = cluster.read, (cluster,) if changed else ()
    variances, certainty = read_statistics(job, SPECTRA)
    steps, device = pair_steps(job), compute_device()
    pairs, confidence = (
        torch.from_numpy(
            MergedPairs.open(job, array, clusters=clusters)[slice(0, steps), slice(sections.start, sections.stop)]
        ).to(device)
        for array in (PAIRS, CONFIDENCE)
    )
    affines = PAIR_AFFINES.read(job, z=sections)
    if changed:
        affines = changed_affines(job, cluster, affines)
    outside = pairs_leading_out(sections, steps=len(pairs))
    pairs[outside], affines[outside] = torch.nan, torch.nan
    weights = node_weights(pairs, confidence, typical=typical_confidence(job, cluster))
    problem = elastic_problem(
        job,
        SplitPairs(affines, subtract_affines(pairs, affines, grid=job.grid)),
        weights,
        affine_correction=read_level(job, AFFINE_CORRECTION, sections, clusters=clusters),
        grid=job.grid,
        certainty=certainty,
    )
    return Solved.of(*solve_window(problem, variances))


def _parts(solved: Solved) -> tuple[Tensor, Tensor, Tensor]:
    return solved.elastic, solved.natural, solved.variance
