"""Arrays of the fit with the rows that fixes have changed (`fix_clusters`)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.geometry.region import Region
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_GROSS, COARSE_INVERTED, COARSE_STATE
from ssem_dask.stages.array_rows.compose_arrays import AFFINE_CORRECTION, AFFINE_NATURAL, AFFINE_VARIANCE
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS, SUPPORT
from ssem_dask.stages.fix_clusters import FixCluster, clusters_at, fix_clusters, pairs_of
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.types import AnyArray

PLACES = COARSE, COARSE_GROSS, COARSE_INVERTED, COARSE_STATE
"""Arrays that say where sections are as a whole."""
FIELDS = PAIRS, CONFIDENCE, SUPPORT
LEVEL = AFFINE_CORRECTION, AFFINE_NATURAL, AFFINE_VARIANCE


def create_fixed(job: Job, *arrays: RunArray) -> None:
    """Create the arrays of what fixes have changed of some arrays, if they have changed anything."""
    for array in arrays if fix_clusters(job) else ():
        FIXED[array].create(job)


def fixed_regions(job: Job, *arrays: RunArray, start: int, stop: int) -> tuple[Region, ...]:
    """Return the regions of what fixes have changed that are read together with sections `start <= z < stop`."""
    reached = clusters_at(job, range(max(0, start), min(stop, job.shape[0])))
    return tuple(FIXED[array].region(job, start, stop) for array in arrays) if reached else ()


def read_places(
    job: Job, array: RunArray, sections: range, *, clusters: Iterable[FixCluster] | None = None
) -> AnyArray:
    """Read an array of `PLACES`: the rows of some sections.

    Args:
        job: the run.
        array: the array.
        sections: z.
        clusters: those whose changes hold; None: all.
    """
    return _with_rows(job, array, sections, _moved, clusters)


def read_level(
    job: Job,
    array: RunArray,
    sections: range,
    *,
    clusters: Iterable[FixCluster] | None = None,
    fitted: AnyArray | None = None,
) -> AnyArray:
    """Read an array of the affine level: the rows of some sections.

    Args:
        job: the run.
        array: the array.
        sections: z.
        clusters: as of `read_places`.
        fitted: rows without the changes; None: those that are stored.
    """
    return _with_rows(job, array, sections, lambda cluster: cluster.sections, clusters, fitted)


def changed_pairs(job: Job, clusters: Iterable[FixCluster] | None = None) -> frozenset[tuple[int, int]]:
    """Return the pairs (k, z) that clusters have changed; None: all clusters."""
    chosen = fix_clusters(job) if clusters is None else clusters
    return frozenset(pairs_of(chosen, steps=job.register.neighbours, count=job.shape[0]))


@dataclass(frozen=True, slots=True)
class MergedPairs:
    """`fields/pairs`, their confidences or their support, with the pairs that fixes have changed; read only."""

    fitted: ZarrArray
    fixed: ZarrArray | None
    changed: frozenset[tuple[int, int]]
    """(k, z) of the pairs that are read from `fixed`."""

    @classmethod
    def open(cls, job: Job, array: RunArray, *, clusters: Iterable[FixCluster] | None = None) -> "MergedPairs":
        """Open one of `FIELDS`; clusters as of `read_places`."""
        changed = changed_pairs(job, clusters)
        return cls(array.open(job), FIXED[array].open(job) if changed else None, changed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the array."""
        return tuple(self.fitted.shape)

    def __getitem__(self, index: tuple[int | slice, ...]) -> AnyArray:
        """Read a part; the first two indices are k - 1, a number or a slice of step 1, and a slice of z."""
        values = np.array(self.fitted[index])
        k, z, *rest = index
        for row, step in _numbers(k, self.shape[0]):
            for column, section in _numbers(z, self.shape[1]):
                if self.fixed is not None and (step + 1, section) in self.changed:
                    at = (column,) if isinstance(k, int) else (row, column)
                    values[at] = self.fixed[step, section, *rest]
        return values


def _moved(cluster: FixCluster) -> Iterable[int]:
    return cluster.moved


def _with_rows(
    job: Job,
    array: RunArray,
    sections: range,
    rows: Callable[[FixCluster], Iterable[int]],
    clusters: Iterable[FixCluster] | None,
    fitted: AnyArray | None = None,
) -> AnyArray:
    values = np.array(array.read(job, z=sections) if fitted is None else fitted)
    chosen = clusters_at(job, sections) if clusters is None else clusters
    for z in sorted({z for cluster in chosen for z in rows(cluster) if z in sections}):
        values[z - sections.start] = FIXED[array].read(job, z=z)
    return values


def _numbers(index: int | slice, count: int) -> Iterator[tuple[int, int]]:
    if isinstance(index, int):
        yield 0, index
    else:
        yield from enumerate(range(*index.indices(count)))
