"""What a chart of a report is, as plain data; the page draws it. All share one axis, the section."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve; `values` are unknown where they are None."""

    label: str
    values: Sequence[float | None]
    look: str
    """`main`, `second`, `third`, or `before` (thin and dashed): how it is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over the sections."""

    id: str
    title: str
    unit: str
    text: str
    """What is shown, in a sentence or two."""
    lines: Sequence[Line]
    low: float | None = None
    """Where the axis begins, if that is fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Sections × windows."""

    id: str
    title: str
    unit: str
    low: float
    high: float
    image: str
    """data: URI of a PNG: a level or a code for each window (row) and section (column)."""
    rows: int
    columns: int
    windows: int
    """Windows in a row of the picture."""
    across: int
    """Windows along x: window i is row i // across, column i % across."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A reslice: sections along x."""

    id: str
    title: str
    image: str
    extent: float
    """µm along y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """All of them; `bin` sections are one column, section `z[i]` the first of column i."""

    z: Sequence[int]
    bin: int
    curves: Sequence[Chart] = field(default_factory=list)
    maps: Sequence[HeatMap] = field(default_factory=list)
    cuts: Sequence[Cut] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
