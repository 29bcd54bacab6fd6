"""Numbers and lists as people read them."""

import math
from collections.abc import Iterable
from typing import Any


def si(value: float, unit: str) -> str:
    """Return a value with a metric prefix: 1 234 567 B → 1.23 MB."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 75 → 1 min 15 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or – if it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun: 1 section, 2,000 sections.

    Args:
        count: number of things.
        noun: singular.
        nouns: plural, if it is not the singular with an s.
    """
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def shortened(items: Iterable[object], *, limit: int, separator: str = ", ") -> str:
    """Return the first `limit` items as one line, with an ellipsis if there are more."""
    shown = [str(item) for item in items]
    return separator.join(shown[:limit]) + (" …" if len(shown) > limit else "")


def micrometres(pixels: float, pixel_size: float) -> str:
    """Return a length in µm, given in mip-0 px of `pixel_size` nm."""
    return f"{pixels * pixel_size / 1000:.3g}"


def flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Return the leaves of a nested mapping as (dotted key, value) in its order."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{above}.{key}" if above else key
        rows += flat(value, name) if isinstance(value, dict) else [(name, str(value))]
    return rows
