"""Lengths with units, as image formats spell them, and the sizes of a voxel that follow from them.

This is the only place that turns units into nm. Every format hands over what its file says per axis.
"""

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ssem_dask.errors import SourceError

Length: TypeAlias = tuple[Any, Any]
"""Value and unit of an axis as a file has them: (0.05, "um")."""

_TOLERANCE = 1e-3
"""Relative difference of lengths that counts as none: formats round, and ImageJ stores pixels per unit."""
_NM_PER_PREFIX = {"pico": 1e-3, "nano": 1.0, "micro": 1e3, "mikro": 1e3, "milli": 1e6, "centi": 1e7, "deci": 1e8}
_METRES = re.compile(rf"({'|'.join(_NM_PER_PREFIX)})?[ -]?(?:meter|metre|metro)s?")
_NM_PER_SYMBOL = {
    "pm": 1e-3,
    "a": 0.1,
    "å": 0.1,
    "angstrom": 0.1,
    "angstroem": 0.1,
    "ångström": 0.1,
    "nm": 1.0,
    "um": 1e3,
    "μ": 1e3,
    "μm": 1e3,
    "\ufffdm": 1e3,  # a µ that was decoded in the wrong encoding
    "micron": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "dm": 1e8,
    "m": 1e9,
    "in": 2.54e7,
    "inch": 2.54e7,
    "inche": 2.54e7,  # the plural without its s
    '"': 2.54e7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Size of a voxel, as far as a file reports it."""

    pixel_size: float | None = None
    """nm per pixel in y and x; None if it is unknown or the file contradicts itself."""
    section_thickness: float | None = None
    """nm per section; None if it is unknown or the file contradicts itself."""
    pixel_conflict: str | None = None
    """Clause that names both pixel sizes of a file that has two; None if it has one or none."""
    thickness_conflict: str | None = None
    """Clause that names both thicknesses of files that have two."""


UNKNOWN_SIZES = Sizes()
"""Sizes of a file that reports none."""


def length_in_nm(value: Any, *, unit: Any) -> float | None:
    """Return a length in nm; None if the unit is not a known length or the value is not a positive number."""
    factor = _nm_per_unit(unit)
    try:
        number = float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return number * factor if factor is not None and number > 0 and math.isfinite(number) else None


def sizes_of(axes: Mapping[str, Length]) -> Sizes:
    """Return the sizes that follow from the lengths of the axes "z", "y" and "x", each of which may be missing."""
    z, y, x = (length_in_nm(axes[name][0], unit=axes[name][1]) if name in axes else None for name in "zyx")
    if y is not None and x is not None and not lengths_agree(y, x):
        return Sizes(section_thickness=z, pixel_conflict=f"pixels are {y:.6g} nm high and {x:.6g} nm wide, not square")
    return Sizes(pixel_size=x if x is not None else y, section_thickness=z)


def sizes_of_all(sizes: Iterable[tuple[str, Sizes]]) -> Sizes:
    """Return the sizes on which all files of a volume agree.

    Args:
        sizes: name and sizes of each file; a file without sizes agrees with every other.
    """
    pixel: tuple[str, float] | None = None
    thickness: tuple[str, float] | None = None
    pixel_conflict, thickness_conflict = None, None
    for name, size in sizes:
        if size.pixel_conflict is not None:
            pixel_conflict = pixel_conflict or f"in {name} {size.pixel_conflict}"
        pixel, found = _agreed(pixel, name, size.pixel_size, what="pixels")
        pixel_conflict = pixel_conflict or found
        thickness, found = _agreed(thickness, name, size.section_thickness, what="sections")
        thickness_conflict = thickness_conflict or found
    return Sizes(
        pixel_size=pixel[1] if pixel is not None and pixel_conflict is None else None,
        section_thickness=thickness[1] if thickness is not None and thickness_conflict is None else None,
        pixel_conflict=pixel_conflict,
        thickness_conflict=thickness_conflict,
    )


def known_sizes(
    where: str, stored: Sizes, *, pixel_size: float | None, section_thickness: float | None
) -> dict[str, float]:
    """Return the pixel size and section thickness of a volume as arguments of `VolumeInfo`; errors as `known_size`."""
    pixel = known_size(
        where,
        "pixel size",
        "--pixel-size",
        given=pixel_size,
        stored=stored.pixel_size,
        conflict=stored.pixel_conflict,
    )
    thickness = known_size(
        where,
        "section thickness",
        "--section-thickness",
        given=section_thickness,
        stored=stored.section_thickness,
        conflict=stored.thickness_conflict,
    )
    return {"pixel_size": pixel, "section_thickness": thickness}


def known_size(
    where: str, what: str, option: str, *, given: float | None, stored: float | None, conflict: str | None = None
) -> float:
    """Return a size in nm, `given` before `stored`.

    Args:
        where: the volume, for messages.
        what: the size.
        option: command-line option that gives it.
        given: size that the user gave.
        stored: size that the source has.
        conflict: clause that names two sizes of a source that contradicts itself.

    Raises:
        SourceError: the size is unknown or not positive.
    """
    size = stored if given is None else given
    if size is None and conflict is not None:
        raise SourceError(f"{where}: {conflict}, but a volume has one {what}; give it in nm ({option}).")
    if size is None:
        raise SourceError(f"{where}: its {what} is unknown; give it in nm ({option}).")
    if not (size > 0 and math.isfinite(size)):
        raise SourceError(f"{where}: its {what} is {size} nm, but it must be positive; give it in nm ({option}).")
    return float(size)


def lengths_agree(a: float, b: float) -> bool:
    """Return whether two lengths are equal within the rounding of file formats."""
    return abs(a - b) <= _TOLERANCE * max(a, b)


def _agreed(
    known: tuple[str, float] | None, name: str, length: float | None, *, what: str
) -> tuple[tuple[str, float] | None, str | None]:
    if length is None:
        return known, None
    if known is None:
        return (name, length), None
    if lengths_agree(known[1], length):
        return known, None
    return known, f"{what} are {known[1]:.6g} nm in {known[0]}, but {length:.6g} nm in {name}"


def _nm_per_unit(unit: Any) -> float | None:
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = html.unescape(html.unescape(text))
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    # NFKC makes one letter of the two that look like µ, and of the two that look like Å.
    text = unicodedata.normalize("NFKC", text.replace("Â", "")).casefold().strip(" \t\r\n\0.'()[]")
    metres = _METRES.fullmatch(text)
    if metres is not None:
        return _NM_PER_PREFIX[metres[1]] if metres[1] else 1e9
    return _NM_PER_SYMBOL.get(text, _NM_PER_SYMBOL.get(text.removesuffix("s")) if len(text) > 3 else None)
