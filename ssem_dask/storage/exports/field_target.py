"""Target of an export of fields: both directions of all sections, in the form that another tool reads.

Laws: the sections of one call of `write` consist of whole files, so two tasks never write the same file, and writing
them again replaces the files. The file that readers open first is written last (`finish`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage.ngff06 import FieldPlacement
from ssem_dask.types import BoolArray, Float32Array, Float64Array, ShapeZYX

Direction = Literal["to_source", "to_aligned"]
DIRECTIONS: tuple[Direction, ...] = ("to_source", "to_aligned")
MARGIN = 1
"""Nodes added on every side. Outside of a field readers clamp, take 0 or refuse, and the outermost nodes of a section
are half a spacing within its frame."""
TASK_BYTES = 1 << 28
"""Bytes of fields that a task writes, unless one section has more."""
MAX_DEPTH = 8
"""Sections of a task at most."""
RESIDUAL_COLUMNS = ("mean", "p99", "largest")


@dataclass(frozen=True, slots=True)
class DirectedField:
    """The field of one section in one direction, as it is exported."""

    values: Float32Array
    """`(2, y, x)` (dy, dx), mip-0 px, a value at every node, with `MARGIN` nodes on every side."""
    known: BoolArray
    """`(y, x)` nodes whose value is none that was filled in."""


@dataclass(frozen=True, slots=True)
class SectionExport:
    """Everything that is exported of one section."""

    to_source: DirectedField
    to_aligned: DirectedField | None
    """Inverse of the field; None if the target takes none."""
    affine: Float64Array | None
    """`(2, 3)` affine map, aligned → source, that fits the field best; None if it is unknown."""
    residual: tuple[float, float, float]
    """How far a point of the source is from its place after both fields, px: values of `RESIDUAL_COLUMNS`; NaN if
    nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldTarget(ABC):
    """Fields to be written in another form."""

    FORM: ClassVar[str]
    """Name of the form."""
    INVERTS: ClassVar[bool]
    """Whether the inverse of each field is written."""

    url: str
    shape: ShapeZYX
    """(z, y, x) of the aligned volume and of the source, mip 0."""
    spacing: int
    """mip-0 px between the nodes of `fields/section`."""
    inverse_spacing: int
    """mip-0 px between the nodes of the inverse fields."""
    pixel_size: float
    """nm per mip-0 px."""
    section_thickness: float
    """nm per section."""

    @abstractmethod
    def prepare(self) -> None:
        """Create everything that `write` needs, unless it exists; OutputError if the location cannot be written."""

    @abstractmethod
    def reopen(self) -> None:
        """Delete what readers open first, before values change; do nothing if it is not there."""

    @abstractmethod
    def write(self, sections: Sequence[SectionExport], *, start: int) -> None:
        """Write the sections of one task, of which `start` is the first; OutputError if that is impossible."""

    @abstractmethod
    def finish(self) -> None:
        """Write what readers open first, after all sections."""

    def placement(self, direction: Direction) -> FieldPlacement:
        """Return the positions of the nodes of a direction."""
        return FieldPlacement(
            spacing=self.spacing if direction == "to_source" else self.inverse_spacing,
            margin=MARGIN,
            pixel_size=self.pixel_size,
            section_thickness=self.section_thickness,
        )

    def nodes(self, direction: Direction) -> tuple[int, int]:
        """Return the number of nodes (y, x) of a direction, those of the margin included."""
        spacing = self.placement(direction).spacing
        y, x = (ceil_div(n, spacing) + 2 * MARGIN for n in self.shape[1:])
        return y, x

    @property
    def section_bytes(self) -> int:
        """Bytes of the fields of one section."""
        return sum(int(np.prod(self.nodes(direction))) * 12 for direction in DIRECTIONS)

    @property
    def depth(self) -> int:
        """Sections that one task writes: a power of two."""
        depth = 1
        while 2 * depth * self.section_bytes <= TASK_BYTES and depth < min(MAX_DEPTH, self.shape[0]):
            depth *= 2
        return depth

    @property
    def task_sections(self) -> list[range]:
        """Sections of each task."""
        return [range(start, min(start + self.depth, self.shape[0])) for start in range(0, self.shape[0], self.depth)]
