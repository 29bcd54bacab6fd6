"""Hotspots of a run: windows that failed, sections with a fault of their own, and windows whose values are outliers.

How far a value deviates is counted in robust standard deviations of the volume, 1.4826 · median absolute deviation
(Rousseeuw & Croux 1993, https://doi.org/10.1080/01621459.1993.10476408).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssem_dask.report.ledger_summary import FAILED
from ssem_dask.report.report_data import ReportData
from ssem_dask.section_record import Action, SectionRecord
from ssem_dask.types import Float64Array, ShapeZYX

_MAD_TO_SIGMA = 1.4826
_LEAST_TISSUE = 0.5
"""Share of a window that must show tissue for its values to mean something."""
_OUTLIER_SIGMA = 3.0
_SPOILT_SEVERITY = 1e3
"""Severity of a section that is certainly spoilt: above any outlier, below a failure."""
_FEWEST_MARKED = 3
"""Hotspots that viewers mark even if none is an outlier."""
_SEPARATION = 2
"""Sections around an outlier in which no other one of the same window is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hotspot:
    """One window of one section."""

    z: int
    row: int
    column: int
    severity: float
    """Robust standard deviations from the volume's median; infinite if the task failed."""
    reason: str
    """One sentence."""

    @property
    def is_outlier(self) -> bool:
        """Whether the window is outside the usual scatter of the volume."""
        return self.severity > _OUTLIER_SIGMA


@dataclass(frozen=True, slots=True)
class _Measure:
    column: str
    sign: float
    """+1 if large values are bad, -1 if small values are."""
    sentence: str


_MEASURES = (
    _Measure("similarity", -1.0, "Similarity to the previous section is {value:.2f} (volume median {median:.2f})."),
    _Measure(
        "motion",
        1.0,
        "Residual motion relative to the previous section is {value:.1f} px (volume median {median:.1f} px).",
    ),
    _Measure("confidence", -1.0, "Confidence of registration is {value:.2f} (volume median {median:.2f})."),
    _Measure("known", -1.0, "{value:.0%} of the nodes could be registered (volume median {median:.0%})."),
)


def find_hotspots(data: ReportData, *, count: int) -> list[Hotspot]:
    """Return at most `count` hotspots: windows that failed, sections with a fault of their own, then outliers.

    Each spoilt section is one hotspot, at the window that deviates most. Adjacent sections of a window, and the
    sections of a task that failed, count as one. Half of the list is kept for places that did not fail.
    """
    severity, measure = _outlier_severities(data)
    codes = data.ledger.window_codes
    depth = data.run.depth
    failed = _largest(
        np.where(codes == FAILED, np.inf, 0.0),
        count=count,
        sections_before=lambda z: z % depth,
        sections_after=lambda z: depth - 1 - z % depth,
    )
    spoilt = _spoilt_places(data, severity)
    severity = np.where(codes == FAILED, 0.0, severity)
    for record in () if data.attention is None else data.attention.records:
        # Values of the next section compare it with this one.
        severity[record.z : record.z + 2] = 0.0
    outliers = _largest(
        severity,
        count=count,
        sections_before=lambda _: _SEPARATION,
        sections_after=lambda _: _SEPARATION,
    )
    others = spoilt + [
        Hotspot(
            z=z,
            row=row,
            column=column,
            severity=float(severity[z, row, column]),
            reason=_explain(data, z=z, row=row, column=column, measure=_MEASURES[int(measure[z, row, column])]),
        )
        for z, row, column in outliers
    ]
    kept = min(len(others), max(count // 2, count - len(failed)))
    failures = [
        Hotspot(z=z, row=row, column=column, severity=np.inf, reason=_explain_failure(data, z, row, column))
        for z, row, column in failed[: count - kept]
    ]
    return failures + others[:kept]


def marked_hotspots(data: ReportData, *, count: int) -> list[Hotspot]:
    """Return the hotspots that viewers mark, at most `count`.

    Places within the usual scatter would only hide the rest: a small volume would be full of them.
    """
    hotspots = find_hotspots(data, count=count)
    return [hotspot for hotspot in hotspots if hotspot.is_outlier] or hotspots[:_FEWEST_MARKED]


def _spoilt_places(data: ReportData, severity: Float64Array) -> list[Hotspot]:
    """Return a place in each section with a fault of its own, the most certain first."""
    places = []
    for record in () if data.attention is None else data.attention.records:
        row, column = (int(i) for i in np.unravel_index(int(severity[record.z].argmax()), severity.shape[1:]))
        places.append(
            Hotspot(
                z=record.z,
                row=row,
                column=column,
                severity=_SPOILT_SEVERITY * record.certainty,
                reason=_explain_record(record),
            )
        )
    return sorted(places, key=lambda place: (-place.severity, place.z))


def _explain_record(record: SectionRecord) -> str:
    """Return what is wrong with a section, in a sentence."""
    fault = record.detail or record.kind.replace("_", " ")
    done = {Action.NOTHING: "aligned unchanged", Action.PUT_RIGHT: "put right", Action.LEFT_OUT: "left out"}
    return f"{fault[:1].upper()}{fault[1:]}; {done[record.action]} (certainty {record.certainty:.2f})."


def _largest(
    severity: Float64Array,
    *,
    count: int,
    sections_before: Callable[[int], int],
    sections_after: Callable[[int], int],
) -> list[ShapeZYX]:
    """Return the indices (z, row, column) of the largest values above 0.

    Each excludes `sections_before(z)` and `sections_after(z)` neighbouring sections of its window.
    """
    positions: list[ShapeZYX] = []
    excluded = np.zeros(severity.shape, dtype=bool)
    flat = severity.ravel()
    limit = min(flat.size, 50 * count + 1000)  # only these are sorted: a volume may have a hundred million windows
    candidates = np.argpartition(-flat, limit - 1)[:limit]
    for index in candidates[np.lexsort((candidates, -flat[candidates]))]:
        z, row, column = (int(i) for i in np.unravel_index(index, severity.shape))
        if len(positions) == count or not severity[z, row, column] > 0:
            break
        if not excluded[z, row, column]:
            excluded[max(0, z - sections_before(z)) : z + sections_after(z) + 1, row, column] = True
            positions.append((z, row, column))
    return positions


def _outlier_severities(data: ReportData) -> tuple[Float64Array, Float64Array]:
    """Return how far each window `(z, y, x)` deviates, and the index of the measure that deviates most."""
    shape = data.ledger.window_codes.shape
    worst, worst_measure = np.zeros(shape), np.zeros(shape)
    tissue = data.windows["coverage"] >= _LEAST_TISSUE
    tissue[1:] &= tissue[:-1]
    for i, measure in enumerate(_MEASURES):
        values = np.where(tissue, data.windows[measure.column], np.nan)
        known = values[np.isfinite(values)]
        if known.size < 3:
            continue
        median = float(np.median(known))
        # The median absolute deviation is 0 if half of the values are equal: then the plain scatter has to do.
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(known - median))) or float(known.std()) or 1.0
        deviation = np.nan_to_num(measure.sign * (values - median) / spread, nan=0.0)
        worst_measure = np.where(deviation > worst, i, worst_measure)
        worst = np.maximum(worst, deviation)
    return worst, worst_measure


def _explain(data: ReportData, *, z: int, row: int, column: int, measure: _Measure) -> str:
    """Return why a window is listed, in one sentence."""
    values = data.windows[measure.column]
    return measure.sentence.format(value=float(values[z, row, column]), median=float(np.nanmedian(values)))


def _explain_failure(data: ReportData, z: int, row: int, column: int) -> str:
    """Return why a window failed, in one sentence."""
    report = data.register_report(z=z, row=row, column=column)
    return "Registration failed." if report is None else f"Registration failed ({report.cause}): {report.message}"
