"""Numbers as people read them."""

import math
from typing import Any


def si(value: float, unit: str) -> str:
    """With a metric prefix: 1 234 567 B → 1.23 MB."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """75 → 1 min 15 s; hours and days where it takes them."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, or – where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def micrometres(pixels: float, pixel_size: float) -> str:
    """A length in mip-0 px as µm."""
    return f"{pixels * pixel_size / 1000:.3g}"


def flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """A tree of plain values as dotted keys and values, in its order."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{above}.{key}" if above else key
        rows += flat(value, name) if isinstance(value, dict) else [(name, str(value))]
    return rows
