"""Parts of stored arrays, as mip-0 boxes: what a task reads and what it writes.

Law: a task depends on another one exactly if a region that it reads meets a region that the other writes. So what is to
be done again after a change follows from geometry, and no list of dependencies is kept anywhere.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ssem_dask.geometry.box import Box

_BUCKET = 8
"""Sections that a bucket of a `RegionSet` holds."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box of one array of a run, or of its source."""

    name: str
    """Path inside the run, for example `fields/pairs`; `source` is the source volume."""
    box: Box
    """mip-0 px, whatever the array holds; axes that the array lacks are whole."""

    def meets(self, other: "Region") -> bool:
        """Whether the two have a pixel in common."""
        return self.name == other.name and _meet(self.box, other.box)


@dataclass(frozen=True, slots=True)
class Footprint:
    """All that a task reads and writes."""

    reads: tuple[Region, ...]
    writes: tuple[Region, ...]

    def shows(self, sections: range) -> bool:
        """Whether the task writes something of these sections."""
        return any(r.box.start[0] < sections.stop and sections.start < r.box.stop[0] for r in self.writes)


class RegionSet:
    """Regions that can be asked whether another one meets any of them; the cost does not grow with the volume."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int], set[Box]] = defaultdict(set)

    def add(self, regions: Iterable[Region]) -> None:
        """Add regions."""
        for region in regions:
            for bucket in _buckets(region.box):
                self._buckets[region.name, bucket].add(region.box)

    def meets(self, regions: Iterable[Region]) -> bool:
        """Whether any of `regions` has a pixel in common with any of the set."""
        if not self._buckets:
            return False
        return any(
            _meet(region.box, box)
            for region in regions
            for bucket in _buckets(region.box)
            for box in self._buckets.get((region.name, bucket), ())
        )


def _meet(a: Box, b: Box) -> bool:
    return all(
        max(low, other_low) < min(high, other_high)
        for low, high, other_low, other_high in zip(a.start, a.stop, b.start, b.stop, strict=True)
    )


def _buckets(box: Box) -> range:
    return range(box.start[0] // _BUCKET, -(-box.stop[0] // _BUCKET))
