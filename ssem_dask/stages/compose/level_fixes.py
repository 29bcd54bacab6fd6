"""The affine level of sections that fixes reach, by the statistics of the fit (`composition.relax.local_level`)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.local_level import LevelRows, LocalPairs, updated_level
from ssem_dask.composition.relax.node_weights import median_confidence, node_weights
from ssem_dask.composition.relax.relative import pair_affine_weights, split_pairs
from ssem_dask.composition.relax.relax_report import AffineReport
from ssem_dask.composition.separation.affine_separation import KnownStatistics
from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.field.device import compute_device, computing_on
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_GROSS
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
)
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.compose.layout import pair_steps
from ssem_dask.stages.compose.method import compose_fields
from ssem_dask.stages.fix_clusters import FixCluster, fix_clusters
from ssem_dask.stages.fixed_rows import LEVEL, PLACES, fixed_regions, read_places
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import AFFINE_STATISTICS
from ssem_dask.stages.stage import FIX_TASKS, JobTask
from ssem_dask.task import Result
from ssem_dask.types import BoolArray, Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFixesTask(JobTask):
    """The affine level of the sections that one cluster of fixes reaches."""

    cluster: FixCluster

    @torch.inference_mode()
    def run(self) -> Result:
        """Solve for the sections with the pairs of the fit and with those of now; write what the difference makes."""
        job, cluster = self.job, self.cluster
        read, own = cluster.read, cluster.sections
        affines, weights = PAIR_AFFINES.read(job, z=read), PAIR_AFFINE_WEIGHTS.read(job, z=read)
        changed = changed_affines(job, cluster, affines), _changed_weights(job, cluster, weights)
        with AFFINE_STATISTICS.reading(job) as record:
            report = AffineReport.from_json(record)
        level = updated_level(
            LevelRows(*(array.read(job, z=read) for array in (AFFINE_CORRECTION, AFFINE_NATURAL, AFFINE_VARIANCE))),
            before=LocalPairs(affines, weights, _places(job, read, ())),
            after=LocalPairs(*changed, _places(job, read, (cluster,))),
            weight=np.array([cluster.weight(z) for z in read]),
            moved=moved_rows(cluster, read),
            shape_yx=job.shape_yx,
            thickness=job.thickness,
            known=KnownStatistics(
                variances=report.variances,
                certainty=report.certainty,
                jumps=tuple(jump.z - read.start for jump in report.jumps if jump.z in read[1:]),
            ),
        )
        rows = slice(own.start - read.start, own.stop - read.start)
        written = sum(
            FIXED[array].write(job, values[rows], z=own)
            for array, values in (
                (AFFINE_CORRECTION, level.correction),
                (AFFINE_NATURAL, level.natural),
                (AFFINE_VARIANCE, level.variance),
            )
        )
        return Result(bytes_read=affines.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read pairs, places and affine level around the cluster; write the level of the sections that it reaches."""
        job, read, own = self.job, self.cluster.read, self.cluster.sections
        arrays = PAIR_AFFINES, PAIR_AFFINE_WEIGHTS, CONFIDENCE, COARSE, COARSE_GROSS, *LEVEL
        return Footprint(
            reads=(
                *(array.region(job, read.start, read.stop) for array in arrays),
                *fixed_regions(job, PAIRS, CONFIDENCE, *PLACES, start=read.start, stop=read.stop),
                AFFINE_STATISTICS.region(job),
            ),
            writes=tuple(FIXED[array].region(job, own.start, own.stop) for array in LEVEL),
        )


def level_fix_tasks(job: Job) -> Iterator[LevelFixesTask]:
    """Yield the task of each cluster."""
    for cluster in fix_clusters(job):
        name = f"{FIX_TASKS}-affines-z{cluster.sections.start:06d}"
        yield LevelFixesTask(**compose_fields(job, name, clusters=[cluster]), cluster=cluster)


def moved_rows(cluster: FixCluster, sections: range) -> BoolArray:
    """Return which of some sections have changed their place as a whole."""
    return np.isin(np.arange(sections.start, sections.stop), cluster.moved)


def typical_confidence(job: Job, cluster: FixCluster) -> float:
    """Return the usual confidence of neighbours around a cluster, as the fit has it."""
    return median_confidence(torch.from_numpy(CONFIDENCE.read(job, k=0, z=cluster.read)))


def changed_affines(job: Job, cluster: FixCluster, affines: Float64Array) -> Float64Array:
    """Return affine parts `(K, z, 2, 3)` of the pairs around a cluster, those of changed pairs as they are now.

    Args:
        job: the run.
        cluster: the changes.
        affines: of the fit.
    """
    out = affines.copy()
    for at, fields, weights in _changed_pairs(job, cluster):
        with computing_on(fields.device):
            out[at] = split_pairs(fields, weights, grid=job.grid).affine[0, 0]
    return out


def _changed_weights(job: Job, cluster: FixCluster, weights: Float64Array) -> Float64Array:
    """Return the weights `(K, z)` of affine parts around a cluster, those of changed pairs as they are now."""
    out = weights.copy()
    for at, fields, nodes in _changed_pairs(job, cluster):
        with computing_on(fields.device):
            out[at] = pair_affine_weights(nodes, grid=job.grid)[0, 0]
    return out


def _changed_pairs(job: Job, cluster: FixCluster) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """Yield index (k - 1, row), field `(1, 1, 2, y, x)` and weights of the nodes of each pair that has changed."""
    changed = cluster.pairs(steps=pair_steps(job), count=job.shape[0])
    typical = typical_confidence(job, cluster)
    for k, z in sorted(changed):
        if z not in cluster.read:
            continue
        fields, confidence = (
            torch.from_numpy(FIXED[array].read(job, k=k - 1, z=z)).to(compute_device())[None, None]
            for array in (PAIRS, CONFIDENCE)
        )
        yield (k - 1, z - cluster.read.start), fields, node_weights(fields, confidence, typical=typical)


def _places(job: Job, sections: range, clusters: tuple[FixCluster, ...]) -> Float64Array:
    """Return the places of sections, without what happened to them as a whole."""
    gross, coarse = (read_places(job, array, sections, clusters=clusters) for array in (COARSE_GROSS, COARSE))
    return np.stack([compose_affine(outer=invert_affine(g), inner=a) for g, a in zip(gross, coarse, strict=True)])
