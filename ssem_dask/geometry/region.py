"""Regions of stored arrays, as mip-0 boxes: what a task reads and what it writes.

Law: a task depends on another one exactly if a region that it reads overlaps a region that the other writes. The tasks
to repeat after a change therefore follow from geometry, and no list of dependencies is kept anywhere.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div

_BUCKET_SECTIONS = 8
"""Sections per bucket of a `RegionSet`."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box of one array of a run, or of its source."""

    name: str
    """Path inside the run, for example `fields/pairs`; `source` is the source volume."""
    box: Box
    """mip-0 px, whatever the array contains; axes that the array lacks are whole."""

    def overlaps(self, other: "Region") -> bool:
        """Check whether the two have a pixel in common."""
        return self.name == other.name and _overlap(self.box, other.box)


@dataclass(frozen=True, slots=True)
class Footprint:
    """All that a task reads and writes."""

    reads: tuple[Region, ...]
    writes: tuple[Region, ...]

    def writes_any_of(self, sections: range) -> bool:
        """Check whether the task writes something of these sections."""
        return any(r.box.start[0] < sections.stop and sections.start < r.box.stop[0] for r in self.writes)


class RegionSet:
    """A set of regions with a fast test for overlap, whose cost does not grow with the volume.

    Consecutive boxes whose union is a box are stored as that one. Tasks in their order, however many, therefore take a
    few boxes per bucket of sections.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int], list[Box]] = defaultdict(list)
        self._last: dict[str, list[Box]] = {}
        """Latest boxes of each name, which the next one may extend; all of one range of buckets."""

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def add(self, regions: Iterable[Region]) -> None:
        """Add regions."""
        for region in regions:
            box, last = region.box, self._last.setdefault(region.name, [])
            buckets = _buckets(box)
            if last and _buckets(last[-1]) != buckets:
                last.clear()
            merged = 0
            while last:
                union = _union(last[-1], box)
                if union is None:
                    break
                box = union
                last.pop()
                merged += 1
            last.append(box)
            for bucket in buckets:
                boxes = self._buckets[region.name, bucket]
                del boxes[len(boxes) - merged :]  # only boxes that were added last are extended
                boxes.append(box)

    def overlaps_any(self, regions: Iterable[Region]) -> bool:
        """Check whether any of `regions` has a pixel in common with any of the set."""
        if not self._buckets:
            return False
        return any(
            _overlap(region.box, box)
            for region in regions
            for bucket in _buckets(region.box)
            for box in self._buckets.get((region.name, bucket), ())
        )


def _union(a: Box, b: Box) -> Box | None:
    """Return the union of two boxes if it is a box, else None."""
    if a.contains(b):
        return a
    differing = [i for i in range(3) if a.start[i] != b.start[i] or a.stop[i] != b.stop[i]]
    if len(differing) == 1 and a.stop[differing[0]] == b.start[differing[0]]:
        return Box(a.start, b.stop, a.mip)
    return None


def _overlap(a: Box, b: Box) -> bool:
    return all(
        max(low, other_low) < min(high, other_high)
        for low, high, other_low, other_high in zip(a.start, a.stop, b.start, b.stop, strict=True)
    )


def _buckets(box: Box) -> range:
    return range(box.start[0] // _BUCKET_SECTIONS, ceil_div(box.stop[0], _BUCKET_SECTIONS))
