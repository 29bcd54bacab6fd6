"""Which sections a change of the fixes reaches, while the statistics of the run stay as they were fitted.

The fixes of the fit are part of it: what was computed with them stays. A section of which the fixes say
something else now is *changed*. Changed sections near each other form a *cluster*, with the sections around that it
*reaches*. Only these are solved for again, by tasks of their own, which write into arrays of their own
(`fields/fixed_*`); whoever reads pairs, coarse affines or the affine level takes the rows of these arrays for what a
cluster has changed (`fixed_rows`). So the fit never has to be repeated, and fixes that are taken back leave no trace.

Within its reach a change counts in full near the changed sections, and fades to nothing at the ends.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ssem_dask.fixes.section_fixes import NO_FIXES, NOTHING, VolumeFixes
from ssem_dask.stages.job import Job

REACH = 8
"""Distance of a section from the nearest changed one at which nothing changes any more: pairs reach 3 sections, and
what they determine falls off within a few more."""
_FULL = 4
"""Distance up to which a change counts in full: as far as pairs reach, and one more."""
MARGIN = 8
"""Sections beyond the reach that are read to solve for it."""


@dataclass(frozen=True, slots=True)
class FixCluster:
    """Changed sections, and what they reach."""

    changed: tuple[int, ...]
    """Sections of which the fixes say something else than those of the fit, in order."""
    sections: range
    """Sections that may change: those nearer than `REACH` to a changed one."""
    read: range
    """Sections that are read to solve for them."""
    fixes: VolumeFixes
    """Fixes of the sections that are read: of the changed ones those that hold now, of all others those of the fit."""
    fitted: VolumeFixes
    """Fixes of the same sections that the fit has."""

    @property
    def digest(self) -> str:
        """Return a digest of the change."""
        return f"{self.fixes.digest() or 'none'}.{self.fitted.digest() or 'none'}"

    def weight(self, z: int) -> float:
        """Return how far a change counts in a section, 0 to 1."""
        distance = min(abs(z - each) for each in self.changed)
        if distance <= _FULL:
            return 1.0
        if distance >= REACH:
            return 0.0
        return math.cos(0.5 * math.pi * (distance - _FULL) / (REACH - _FULL)) ** 2

    @property
    def moved(self) -> tuple[int, ...]:
        """Return the changed sections whose place as a whole is found again."""
        now, before = self.fixes.placing(), self.fitted.placing()
        alone = replace(now, pairs={}), replace(before, pairs={})
        moved = set(alone[0].differing(alone[1]))
        for pair in now.pairs.keys() | before.pairs.keys():
            if now.pairs.get(pair) != before.pairs.get(pair):
                moved.add(pair[1])
        return tuple(sorted(moved & set(self.changed)))

    @property
    def redrawn(self) -> tuple[int, ...]:
        """Return the moved sections with lines now or before, whose parts are found again."""
        return tuple(z for z in self.moved if self.fixes.of(z).splits or self.fitted.of(z).splits)

    def pairs(self, *, steps: int, count: int) -> frozenset[tuple[int, int]]:
        """Return the pairs (k, z) whose fields are found again: of z with z - k.

        Args:
            steps: K.
            count: number of sections of the volume.
        """
        now, before = self.fixes.matching(), self.fitted.matching()
        without_points = replace(now, pairs={}), replace(before, pairs={})
        whole = set(without_points[0].differing(without_points[1])) | set(self.moved)
        found = {(k, z) for s in whole for k in range(1, steps + 1) for z in (s, s + k) if k <= z < count}
        for pair in now.pairs.keys() | before.pairs.keys():
            if now.pairs.get(pair) != before.pairs.get(pair) and abs(pair[0] - pair[1]) <= steps:
                found.add((abs(pair[0] - pair[1]), max(pair)))
        return frozenset(found)


def fix_clusters(job: Job) -> tuple[FixCluster, ...]:
    """Return the clusters of a run, in order; none if its fixes are those of its fit."""
    return clusters_between(job.fixes, job.fitted_fixes, count=job.shape[0])


def clusters_between(fixes: VolumeFixes, fitted: VolumeFixes, *, count: int) -> tuple[FixCluster, ...]:
    """Return the clusters of a volume of `count` sections, by the fixes that hold and by those of the fit."""
    return () if fixes == fitted else _clusters(_Key(fixes, fitted), count)


def pairs_of(clusters: Iterable[FixCluster], *, steps: int, count: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (k, z) that clusters have changed, in order; arguments as of `FixCluster.pairs`."""
    return tuple(sorted({pair for cluster in clusters for pair in cluster.pairs(steps=steps, count=count)}))


def clusters_at(job: Job, sections: range) -> tuple[FixCluster, ...]:
    """Return the clusters that reach any of some sections."""
    return tuple(c for c in fix_clusters(job) if c.sections.start < sections.stop and sections.start < c.sections.stop)


def clusters_digest(
    job: Job, stage: str, clusters: Iterable[FixCluster], fixes: VolumeFixes = NO_FIXES, *, stop: int = 0
) -> str:
    """Return the digest of a task that depends on clusters, and on other fixes besides; `stop` as in `task_digest`."""
    digest = job.task_digest(stage, fixes, stop=stop)
    for cluster in clusters:
        digest += f"+{cluster.digest}"
    return digest


@dataclass(frozen=True, slots=True)
class _Key:
    """Two sets of fixes, compared by their digests."""

    fixes: VolumeFixes
    fitted: VolumeFixes

    def __hash__(self) -> int:
        return hash((self.fixes.digest(), self.fitted.digest()))


@lru_cache(maxsize=8)
def _clusters(key: _Key, count: int) -> tuple[FixCluster, ...]:
    # Jumps, and the choice of a section shown in place of another, do not concern any fields.
    differing = {
        z for part in (VolumeFixes.placing, VolumeFixes.matching) for z in part(key.fixes).differing(part(key.fitted))
    }
    groups: list[list[int]] = []
    for z in sorted(z for z in differing if z < count):
        if groups and z - groups[-1][-1] < 2 * REACH:
            groups[-1].append(z)
        else:
            groups.append([z])
    return tuple(_cluster(group, key, count=count) for group in groups)


def _cluster(changed: list[int], key: _Key, *, count: int) -> FixCluster:
    sections = range(max(0, changed[0] - REACH + 1), min(count, changed[-1] + REACH))
    read = range(max(0, sections.start - MARGIN), min(count, sections.stop + MARGIN))
    own = set(changed)

    def held(pair: tuple[int, int]) -> VolumeFixes:
        return key.fixes if own.intersection(pair) else key.fitted

    pairs = {pair: held(pair).pairs.get(pair, ()) for pair in (*key.fixes.pairs, *key.fitted.pairs)}
    view = VolumeFixes(
        sections={z: fix for z in read if (fix := (key.fixes if z in own else key.fitted).of(z)) != NOTHING},
        pairs={pair: points for pair, points in sorted(pairs.items()) if points},
        file_digests={**key.fitted.file_digests, **key.fixes.file_digests},
    )
    return FixCluster(
        changed=tuple(changed),
        sections=sections,
        read=read,
        fixes=view.within(read),
        fitted=replace(key.fitted, kept_jumps=(), undone_jumps=()).within(read),
    )
