"""The worst places of a run: windows of a section that failed, or that stand out from the others.

How far a value stands out is counted in robust standard deviations (1.4826 · median absolute deviation) of the volume.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY
from ssem_dask.report.report_data import Material
from ssem_dask.types import Float32Array, Float64Array

_ROBUST = 1.4826
_TISSUE = 0.5  # share of a window that must show tissue for its values to mean something
_STANDS_OUT = 3.0
_APART = 2  # sections between two places of one window


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One window of one section."""

    z: int
    row: int
    column: int
    severity: float
    """Robust standard deviations from the volume's median; infinite where a task failed."""
    reason: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class _Measure:
    column: str
    sign: float
    """+1 where large values are bad, -1 where small ones are."""
    words: str


_MEASURES = (
    _Measure(
        "similarity",
        -1.0,
        "similarity with the section before is {value:.2f}, in half of the volume above {half:.2f}",
    ),
    _Measure(
        "motion",
        1.0,
        "motion left against the section before is {value:.1f} px, in half of the volume below {half:.1f} px",
    ),
    _Measure("confidence", -1.0, "confidence is {value:.2f}, in half of the volume above {half:.2f}"),
    _Measure("known", -1.0, "{value:.0%} of the nodes could be registered, in half of the volume more than {half:.0%}"),
)


def worst_places(material: Material, *, count: int) -> list[Place]:
    """At most `count` places, the worst first; none where nothing was measured and nothing failed.

    Neighbouring sections of a window, and the sections of a task that failed, count as one place. Half of the places
    are kept for windows that ended well and stand out all the same, as far as there are any.
    """
    severity, which = _severities(material)
    codes = material.ended.windows
    ended_badly = (codes == FAILED) | (codes == LOW_QUALITY)
    bad = np.where(codes == FAILED, np.inf, np.where(codes == LOW_QUALITY, 1e3, 0.0))
    depth = int(material.attributes["config"]["register"]["sections"])
    ended = _largest(bad, count=count, before=lambda z: z % depth, after=lambda z: depth - 1 - z % depth)
    others = _largest(
        np.where(ended_badly, 0.0, severity), count=count, before=lambda _: _APART, after=lambda _: _APART
    )
    kept = min(len(others), max(count // 2, count - len(ended)))
    return [
        Place(
            z=z,
            row=row,
            column=column,
            severity=float(max(bad[z, row, column], severity[z, row, column])),
            reason=_reason(material, z, row, column, measure=int(which[z, row, column])),
        )
        for z, row, column in ended[: count - kept] + others[:kept]
    ]


def _largest(
    severity: Float64Array, *, count: int, before: Callable[[int], int], after: Callable[[int], int]
) -> list[tuple[int, int, int]]:
    """Indices (z, row, column) of the largest values above 0; each keeps out the sections about it in its window."""
    found: list[tuple[int, int, int]] = []
    taken = np.zeros(severity.shape, dtype=bool)
    flat = severity.ravel()
    limit = min(flat.size, 50 * count + 1000)  # only these are sorted: a volume may have a hundred million windows
    candidates = np.argpartition(-flat, limit - 1)[:limit]
    for index in candidates[np.lexsort((candidates, -flat[candidates]))]:
        z, row, column = (int(i) for i in np.unravel_index(index, severity.shape))
        if len(found) == count or not severity[z, row, column] > 0:
            break
        if not taken[z, row, column]:
            taken[max(0, z - before(z)) : z + after(z) + 1, row, column] = True
            found.append((z, row, column))
    return found


def _severities(material: Material) -> tuple[Float64Array, Float64Array]:
    """How far each window `(z, y, x)` stands out, and by which measure."""
    shape = material.ended.windows.shape
    worst, which = np.zeros(shape), np.zeros(shape)
    tissue = material.windows["coverage"] >= _TISSUE
    tissue[1:] &= tissue[:-1]
    for i, measure in enumerate(_MEASURES):
        values = np.where(tissue, material.windows[measure.column], np.nan)
        known = values[np.isfinite(values)]
        if known.size < 3:
            continue
        half = float(np.median(known))
        spread = _ROBUST * float(np.median(np.abs(known - half))) or float(known.std()) or 1.0
        out = np.nan_to_num(measure.sign * (values - half) / spread, nan=0.0)
        which = np.where(out > worst, i, which)
        worst = np.maximum(worst, out)
    return worst, which


def _reason(material: Material, z: int, row: int, column: int, *, measure: int) -> str:
    code = material.ended.windows[z, row, column]
    if code in (FAILED, LOW_QUALITY):
        report = material.register_report(z=z, row=row, column=column)
        if code == FAILED:
            cause = "." if report is None else f" ({report.cause}): {report.message}"
            return f"Registration failed{cause}"
        return (report and report.message) or "Registration was of low quality."
    found = _MEASURES[measure]
    values: Float32Array = material.windows[found.column]
    words = found.words.format(value=float(values[z, row, column]), half=float(np.nanmedian(values)))
    return words[0].upper() + words[1:] + "."


def stands_out(place: Place) -> bool:
    """Whether the place is more than the usual scatter."""
    return place.severity > _STANDS_OUT
