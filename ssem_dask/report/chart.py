"""The charts of a report as plain data, which the page draws. All share one axis, the section."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Style: TypeAlias = Literal["main", "second", "third", "before", "before2"]
"""Style of a curve; `before` and `before2` are thin and pale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    values: Sequence[float | None]
    """One value per column; None is unknown."""
    style: Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over the sections."""

    id: str
    title: str
    unit: str
    text: str
    """Explanation of the curves in a sentence or two."""
    lines: Sequence[Line]
    low: float | None = None
    """Value at which the axis begins; None: chosen by the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Sections × windows."""

    id: str
    title: str
    unit: str
    low: float
    high: float
    image: str
    """`data:` URI of a PNG: a level or a code for each window (row) and section (column)."""
    rows: int
    columns: int
    windows: int
    """Windows in a row of the picture."""
    across: int
    """Windows along x: window i is row i // across, column i % across."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reslice:
    """A cut across the sections, which run along x."""

    id: str
    title: str
    image: str
    extent: float
    """µm along y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A section that is marked in every chart."""

    column: int
    """Column of the charts."""
    text: str
    """Its fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """All charts of a page; `bin` sections are one column, and section `z[i]` is the first of column i."""

    z: Sequence[int]
    bin: int
    thickness: float
    """µm per section."""
    borders: Sequence[int] = ()
    """First section of each slab but the first."""
    constants: Sequence[str] = ()
    """A line about each chart that would show nothing but flat curves, and is left out."""
    curves: Sequence[Chart] = field(default_factory=list)
    maps: Sequence[HeatMap] = field(default_factory=list)
    reslices: Sequence[Reslice] = field(default_factory=list)
    marks: Sequence[Mark] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return the charts as plain values, for JSON."""
        return asdict(self)
