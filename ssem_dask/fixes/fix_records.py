"""The tables of `fixes.toml` as records.

Coordinates are px of the source at mip 0, or nm if the file says `unit = "nm"`; y before x (C1). Sections are counted
from 0, and ranges of them are half-open. A record holds what the file says; `section_fixes` derives from all records
what holds for each section.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, field_validator, model_validator

from ssem_dask.types import ConfigBase

Line: TypeAlias = tuple[tuple[float, float], ...]
"""Points (y, x) of a polygon or polyline."""
Fill: TypeAlias = Literal["blank", "nearest", "between"]
ACTIONS = "exclude", "turn", "invert", "place", "swap"
_RANGE = re.compile(r"(\d+):(\d+)")
_MIN_AREA = 1e-3
"""Area of a mapped unit square below which a map counts as not invertible."""


class FixRecord(ConfigBase):
    """Base of the tables."""

    model_config = ConfigDict(populate_by_name=True)

    def given(self) -> dict[str, Any]:
        """Return the keys that the file gives, by their names there."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class SectionFix(FixRecord):
    """A table `[[section]]` about one section, or about each of several."""

    z: int | None = Field(default=None, ge=0)
    """The section."""
    sections: str | None = None
    """Several sections, such as "12:15" (half-open), instead of `z`."""
    action: Literal["exclude", "turn", "invert", "place", "swap"] | None = None
    """`exclude`: takes no part; `turn`: was mounted turned or mirrored; `invert`: has inverted contrast; `place`: is
    where `affine` says; `swap`: has changed places with another section."""
    fill: Fill | None = None
    """Content of the aligned volume in the place of an excluded section: nothing, the nearest section, or a mixture of
    the nearest ones on both sides. None: `blank`."""
    angle: float | None = None
    """Degrees by which the section must be turned to match its neighbours, counter-clockwise as shown on a screen."""
    mirror: bool = False
    """Whether it must be mirrored, left to right, before it is turned."""
    affine: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Map aligned → source, rows of y and x, as in `fields/coarse`."""
    other: int | None = Field(default=None, alias="with", ge=0)
    """The section that it has changed places with."""
    mask: tuple[Line, ...] | str | None = None
    """Polygons that show no tissue, or an image file of the section whose pixels other than 0 show none."""
    split: tuple[Line, ...] | None = None
    """Lines along folds or cracks, whose sides may move apart."""

    @field_validator("mask", mode="before")
    @classmethod
    def _mask(cls, value: object) -> object:
        return value if value is None or isinstance(value, str) else _lines(value, least=3, what="polygon")

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return None if value is None else _lines(value, least=2, what="line")

    @field_validator("affine", mode="before")
    @classmethod
    def _affine(cls, value: object) -> object:
        if value is None:
            return None
        rows = _rows(value, width=3, what="[[a, b, c], [d, e, f]]")
        if len(rows) != 2:
            raise ValueError("wanted are two rows, [[a, b, c], [d, e, f]]")
        (a, b, _), (d, e, _) = rows
        if abs(a * e - b * d) < _MIN_AREA:
            raise ValueError("the map cannot be inverted; wanted are rows [[a, b, c], [d, e, f]] of y and x")
        return rows

    @field_validator("angle")
    @classmethod
    def _angle(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a number of degrees")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.z is None) == (self.sections is None):
            raise ValueError('give either z = 12 or sections = "12:15"')
        if self.sections is not None and not len(_parsed_range(self.sections)):
            raise ValueError(f'sections = {self.sections!r} must be a half-open range such as "12:15"')
        for key, action in (("fill", "exclude"), ("angle", "turn"), ("mirror", "turn"), ("affine", "place")):
            if getattr(self, key) not in (None, False) and self.action != action:
                raise ValueError(f'{key} belongs to action = "{action}"; add it, or leave {key} out')
        if self.other is not None and self.action != "swap":
            raise ValueError('with belongs to action = "swap"; add it, or leave with out')
        if self.action == "turn" and self.angle is None and not self.mirror:
            raise ValueError('action = "turn" needs angle = degrees, mirror = true, or both')
        if self.action == "place" and self.affine is None:
            raise ValueError('action = "place" needs affine = [[a, b, c], [d, e, f]]')
        if self.action == "swap" and (self.other is None or self.z is None):
            raise ValueError('action = "swap" needs z and with, one section each')
        if self.action is None and self.mask is None and self.split is None:
            raise ValueError("says nothing about the section; give an action, a mask or a split")
        return self

    @property
    def range(self) -> range:
        """Return the sections that the table is about."""
        if self.z is not None:
            return range(self.z, self.z + 1)
        return _parsed_range(self.sections or "")


class PairFix(FixRecord):
    """A table `[[pair]]`: the same structures in two sections."""

    fixed: int = Field(ge=0)
    moving: int = Field(ge=0)
    points: tuple[tuple[float, float, float, float], ...]
    """(y, x) in section `fixed` and (y, x) in section `moving` of each structure."""
    sd: float = Field(default=5.0, gt=0)
    """Standard deviation of a point, per component."""

    @field_validator("points", mode="before")
    @classmethod
    def _points(cls, value: object) -> object:
        rows = _rows(value, width=4, what="[y fixed, x fixed, y moving, x moving]")
        if not rows:
            raise ValueError("holds no point; add [y fixed, x fixed, y moving, x moving], or leave the table out")
        return rows

    @model_validator(mode="after")
    def _two_sections(self) -> Self:
        if self.fixed == self.moving:
            raise ValueError(f"fixed and moving are both section {self.fixed}; give two sections")
        return self


class JumpFix(FixRecord):
    """A table `[[jump]]`: whether the tissue jumps before a section, or the sections do."""

    z: int = Field(ge=1)
    """First section after the jump."""
    action: Literal["keep", "undo"]
    """`undo`: all later sections were displaced, which is undone; `keep`: the tissue is so, and is left alone."""


Fix: TypeAlias = SectionFix | PairFix | JumpFix


class Fixes(FixRecord):
    """The content of a file `fixes.toml`."""

    unit: Literal["px", "nm"] = "px"
    """Unit of all coordinates and of `sd`: source px at mip 0, or nm."""
    section: tuple[SectionFix, ...] = ()
    pair: tuple[PairFix, ...] = ()
    jump: tuple[JumpFix, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the file fixes nothing."""
        return not (self.section or self.pair or self.jump)

    def tables(self) -> Iterable[tuple[str, int, Fix]]:
        """Yield every table with its name and its number, counted from 1."""
        for name in ("section", "pair", "jump"):
            for number, table in enumerate(getattr(self, name), start=1):
                yield name, number, table

    def in_px(self, pixel_size: float) -> "Fixes":
        """Return the same fixes in source px at mip 0.

        Args:
            pixel_size: nm per px.
        """
        if self.unit == "px":
            return self
        scale = 1.0 / pixel_size
        return Fixes(
            section=tuple(_scaled_section(each, scale) for each in self.section),
            pair=tuple(
                each.model_copy(
                    update={
                        "points": tuple(tuple(v * scale for v in point) for point in each.points),
                        "sd": each.sd * scale,
                    }
                )
                for each in self.pair
            ),
            jump=self.jump,
        )


def _scaled_section(fix: SectionFix, scale: float) -> SectionFix:
    def scaled(lines: tuple[Line, ...]) -> tuple[Line, ...]:
        return tuple(tuple((y * scale, x * scale) for y, x in line) for line in lines)

    changes: dict[str, Any] = {}
    if fix.affine is not None:
        changes["affine"] = tuple((a, b, shift * scale) for a, b, shift in fix.affine)
    if fix.split is not None:
        changes["split"] = scaled(fix.split)
    if fix.mask is not None and not isinstance(fix.mask, str):
        changes["mask"] = scaled(fix.mask)
    return fix.model_copy(update=changes)


def _parsed_range(text: str) -> range:
    match = _RANGE.fullmatch(text.replace(" ", ""))
    return range(int(match[1]), int(match[2])) if match else range(0)


def _rows(value: object, *, width: int, what: str) -> list[tuple[float, ...]]:
    """Return rows of numbers; ValueError if they are none."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"wanted is a list of {what}")
    for row in value:
        if not isinstance(row, list | tuple) or len(row) != width or not all(map(_is_number, row)):
            raise ValueError(f"{_shown(row)} is no {what}")
    return [tuple(float(number) for number in row) for row in value]


def _lines(value: object, *, least: int, what: str) -> tuple[Line, ...]:
    """Return polygons or polylines; ValueError if they are none."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"wanted is a list of {what}s, each a list of points [y, x]")
    lines: list[Line] = []
    for line in value:
        points = _rows(line, width=2, what="point [y, x]")
        if len(points) < least:
            raise ValueError(f"a {what} has {len(points)} points, but needs {least}")
        lines.append(tuple((y, x) for y, x in points))
    return tuple(lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
