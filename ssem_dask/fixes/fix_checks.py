"""Fixes against the volume that they are for, and against each other: one sentence about the first thing wrong."""

from collections.abc import Iterator

from ssem_dask.errors import ConfigError
from ssem_dask.fixes.fix_records import Fixes, Line, PairFix, SectionFix
from ssem_dask.types import ShapeZYX

_PLACES = "turn", "place"
"""Actions that say where a section is; each section has one of them at most."""


def check_fixes(fixes: Fixes, *, shape: ShapeZYX, pixel_size: float, where: str = "fixes") -> None:
    """Check fixes.

    Args:
        fixes: content of a file.
        shape: (z, y, x) of the volume.
        pixel_size: nm per px.
        where: name of the file, for messages.

    Raises:
        ConfigError: a section or a point is outside the volume, or two tables contradict each other.
    """
    scale = 1.0 if fixes.unit == "px" else 1.0 / pixel_size
    for name, number, fix in fixes.tables():
        place = f"Fixes {where}: [[{name}]] number {number}"
        if isinstance(fix, SectionFix):
            _check_sections(place, [fix.range.stop - 1, fix.other], shape=shape)
            for line in _lines(fix):
                _check_points(place, line, scale=scale, shape=shape, unit=fixes.unit)
            if fix.other is not None and fix.other == fix.z:
                raise ConfigError(f"{place}: section {fix.z} cannot change places with itself; give another section.")
        elif isinstance(fix, PairFix):
            _check_sections(place, [fix.fixed, fix.moving], shape=shape)
            points = tuple(point for p in fix.points for point in ((p[0], p[1]), (p[2], p[3])))
            _check_points(place, points, scale=scale, shape=shape, unit=fixes.unit)
        else:
            _check_sections(place, [fix.z], shape=shape)
    _check_actions(fixes, where=where)
    _check_excluded(fixes, where=where)
    _check_jumps(fixes, where=where)


def _check_sections(place: str, sections: list[int | None], *, shape: ShapeZYX) -> None:
    for z in sections:
        if z is not None and z >= shape[0]:
            raise ConfigError(
                f"{place}: names section {z}, but the volume's sections are 0 to {shape[0] - 1}; choose one of them."
            )


def _lines(fix: SectionFix) -> Iterator[Line]:
    if fix.mask is not None and not isinstance(fix.mask, str):
        yield from fix.mask
    yield from fix.split or ()


def _check_points(place: str, points: Line, *, scale: float, shape: ShapeZYX, unit: str) -> None:
    # A drawing may cross the border, but one that is outside everywhere has the wrong unit or order.
    _, *extent = shape
    spans = [(min(values), max(values)) for values in zip(*points, strict=True)]
    inside = all(low * scale <= n and high * scale >= 0 for (low, high), n in zip(spans, extent, strict=True))
    height, width = extent
    near = [-height <= y * scale <= 2 * height and -width <= x * scale <= 2 * width for y, x in points]
    outside = [point for point, is_near in zip(points, near, strict=True) if not inside or not is_near]
    if outside:
        y, x = outside[0]
        raise ConfigError(
            f"{place}: ({y:.6g}, {x:.6g}) {unit} is outside the section of {height / scale:.6g} × {width / scale:.6g} "
            f"{unit}; check unit = {unit!r}, and that y comes before x."
        )


def _check_actions(fixes: Fixes, *, where: str) -> None:
    """Refuse two tables that say different things of one section."""
    actions: dict[tuple[int, str], int] = {}
    for number, fix in enumerate(fixes.section, start=1):
        if fix.action is None:
            continue
        kind = "place" if fix.action in _PLACES else fix.action
        for z in (*fix.range, *(() if fix.other is None else (fix.other,))):
            earlier = actions.setdefault((z, kind), number)
            if earlier != number:
                first = fixes.section[earlier - 1].action
                raise ConfigError(
                    f"Fixes {where}: [[section]] number {number} has action {fix.action!r} for section {z}, but number "
                    f"{earlier} has {first!r}; leave one of them out."
                )


def _check_excluded(fixes: Fixes, *, where: str) -> None:
    """Refuse whatever is said of a section that takes no part."""
    excluded = {z: n for n, fix in enumerate(fixes.section, start=1) if fix.action == "exclude" for z in fix.range}
    for name, number, fix in fixes.tables():
        if isinstance(fix, SectionFix):
            said = fix.action != "exclude" or fix.mask is not None or fix.split is not None
            named = [*fix.range, *(() if fix.other is None else (fix.other,))] if said else []
        else:
            named = [fix.fixed, fix.moving] if isinstance(fix, PairFix) else []
        for z in named:
            if z in excluded:
                raise ConfigError(
                    f"Fixes {where}: [[{name}]] number {number} is about section {z}, which [[section]] number "
                    f"{excluded[z]} excludes; leave one of them out."
                )


def _check_jumps(fixes: Fixes, *, where: str) -> None:
    actions: dict[int, str] = {}
    for jump in fixes.jump:
        if actions.setdefault(jump.z, jump.action) != jump.action:
            raise ConfigError(
                f"Fixes {where}: the jump before section {jump.z} is to be kept and to be undone; leave one out."
            )
