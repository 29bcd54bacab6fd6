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
    """Regions that can be asked whether another one meets any of them; the cost does not grow with the volume.

    Boxes that come one after the other and make up a larger box are kept as that one, so that tasks in their order,
    however many, take a few boxes for each bucket of sections.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int], list[Box]] = defaultdict(list)
        self._last: dict[str, list[Box]] = {}
        """Of each name the latest boxes, which the next one may make larger; all of one range of buckets."""

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
                del boxes[len(boxes) - merged :]  # what may grow is what was added last
                boxes.append(box)

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


def _union(a: Box, b: Box) -> Box | None:
    """The box that two boxes make up together, if they do, or that one of them is."""
    if a.contains(b):
        return a
    differing = [i for i in range(3) if a.start[i] != b.start[i] or a.stop[i] != b.stop[i]]
    if len(differing) == 1 and a.stop[differing[0]] == b.start[differing[0]]:
        return Box(a.start, b.stop, a.mip)
    return None


def _meet(a: Box, b: Box) -> bool:
    return all(
        max(low, other_low) < min(high, other_high)
        for low, high, other_low, other_high in zip(a.start, a.stop, b.start, b.stop, strict=True)
    )


def _buckets(box: Box) -> range:
    return range(box.start[0] // _BUCKET, -(-box.stop[0] // _BUCKET))
