"""Half-open integer boxes (C2), axes (z, y, x) (C1)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ShapeYX, ShapeZYX


def _triple(values: Iterable[int]) -> ShapeZYX:
    z, y, x = values
    return z, y, x


@dataclass(frozen=True, slots=True)
class Box:
    """The pixels `start <= p < stop` of a volume at one mip.

    z counts sections; y and x count pixels of `mip`.
    """

    start: ShapeZYX
    stop: ShapeZYX
    mip: int = 0

    def __post_init__(self) -> None:
        (a, b, c), (d, e, f) = self.start, self.stop  # no loop, since millions of boxes are made
        if d < a or e < b or f < c:
            raise ValueError(f"Box: stop {self.stop} is before start {self.start}; give start <= stop on every axis.")

    @property
    def shape(self) -> ShapeZYX:
        """Extent (z, y, x)."""
        return _triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def shape_yx(self) -> ShapeYX:
        """Extent (y, x)."""
        return self.shape[1], self.shape[2]

    @property
    def start_yx(self) -> ShapeYX:
        """First pixel (y, x)."""
        return self.start[1], self.start[2]

    @property
    def size(self) -> int:
        """Number of pixels."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return (d - a) * (e - b) * (f - c)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box into an array of the whole volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def sections(self) -> range:
        """The z of the box."""
        return range(self.start[0], self.stop[0])

    def grown(self, *, before: ShapeZYX, after: ShapeZYX) -> "Box":
        """Grow by `before` and `after` pixels on the low and high side of each axis; may leave the volume."""
        start = _triple(a - h for a, h in zip(self.start, before, strict=True))
        stop = _triple(b + h for b, h in zip(self.stop, after, strict=True))
        return replace(self, start=start, stop=stop)

    def clipped(self, shape: ShapeZYX) -> "Box":
        """Clip to a volume of `shape` (at this box's mip); empty if it is outside."""
        (a, b, c), (d, e, f), (z, y, x) = self.start, self.stop, shape
        if a >= 0 and b >= 0 and c >= 0 and d <= z and e <= y and f <= x:
            return self
        start = min(max(a, 0), z), min(max(b, 0), y), min(max(c, 0), x)
        return Box(start, (max(min(d, z), start[0]), max(min(e, y), start[1]), max(min(f, x), start[2])), self.mip)

    def shifted(self, by: ShapeZYX) -> "Box":
        """Move by `by`."""
        start = _triple(a + d for a, d in zip(self.start, by, strict=True))
        stop = _triple(b + d for b, d in zip(self.stop, by, strict=True))
        return replace(self, start=start, stop=stop)

    def contains(self, other: "Box") -> bool:
        """Check whether `other` (same mip) is inside."""
        return all(a <= c for a, c in zip(self.start, other.start, strict=True)) and all(
            d <= b for b, d in zip(self.stop, other.stop, strict=True)
        )

    def at_mip(self, mip: int) -> "Box":
        """Return the smallest box at `mip` that covers this one."""
        if mip >= self.mip:
            scale = 2 ** (mip - self.mip)
            return Box(
                (self.start[0], self.start[1] // scale, self.start[2] // scale),
                (self.stop[0], ceil_div(self.stop[1], scale), ceil_div(self.stop[2], scale)),
                mip,
            )
        scale = 2 ** (self.mip - mip)
        return Box(
            (self.start[0], self.start[1] * scale, self.start[2] * scale),
            (self.stop[0], self.stop[1] * scale, self.stop[2] * scale),
            mip,
        )
