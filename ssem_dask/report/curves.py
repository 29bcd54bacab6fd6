"""The curves of a report: one value per section, with its unit and an explanation.

`size` sections become one point, which shows the worst of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ssem_dask.report.binning import BadEnd, keep_worst
from ssem_dask.report.chart import Chart, Line, Style
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE
from ssem_dask.report.report_data import ReportData
from ssem_dask.types import AnyArray, Float64Array

_Bad: TypeAlias = BadEnd | Literal["extreme"]
"""The bad end of a curve's values; `extreme`: the values of largest magnitude."""


@dataclass(frozen=True, slots=True)
class _Curve:
    label: str
    column: str
    """Column of `quality/sections`, or one of those that `_derived_columns` adds."""
    style: Style = "main"
    bad: _Bad = "low"
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChartSpec:
    id: str
    title: str
    unit: str
    text: str
    """Explanation; {probe} says where sections were compared."""
    curves: tuple[_Curve, ...]
    low: float | None = None


_QUALITY_CHARTS = (
    _ChartSpec(
        id="similarity",
        title="Similarity of adjacent sections",
        unit="correlation",
        text="Each section compared with the previous one, {probe}. NCC: normalised cross-correlation. CPC: chunked "
        "Pearson correlation, its mean over squares of 64 px, which is more sensitive to shifts of a few px. Tissue "
        "changes from section to section, so a value of 1 is not the aim.",
        curves=(
            _Curve("NCC after alignment", "ncc"),
            _Curve("CPC after alignment", "cpc", "second"),
            _Curve("NCC before alignment", "ncc_before", "before"),
            _Curve("CPC before alignment", "cpc_before", "before2"),
        ),
    ),
    _ChartSpec(
        id="uncertainty",
        title="Uncertainty and residual motion",
        unit="px",
        text="Uncertainty: posterior standard deviation of a section's field relative to its neighbours, according "
        "to the model that composed it. Residual motion: displacement between a section and the previous one that "
        "the pair fields still see after alignment. It includes the tissue's natural motion and the noise of "
        "registration as well as jitter.",
        curves=(
            _Curve("uncertainty (1 σ, per component)", "uncertainty", bad="high"),
            _Curve("residual motion, median", "motion_median", "second", "high"),
        ),
        low=0.0,
    ),
    _ChartSpec(
        id="drift",
        title="Accumulated motion along z",
        unit="px",
        text="The residual motion, summed from the middle section. Without a known truth, drift of the alignment "
        "cannot be distinguished from tissue that runs obliquely: the curve shows their sum, not an error.",
        curves=(_Curve("dy", "path_dy", bad="extreme"), _Curve("dx", "path_dx", "second", "extreme")),
    ),
    _ChartSpec(
        id="folds",
        title="Fold rate",
        unit="% of the area",
        text="Share of the section in which the field folds tissue over itself (Jacobian determinant |J| ≤ 0). "
        "It should be 0.",
        curves=(_Curve("|J| ≤ 0", "fold_rate", bad="high", factor=100),),
        low=0.0,
    ),
    _ChartSpec(
        id="strain",
        title="Strain",
        unit="%",
        text="Largest stretch or compression by the field, including its affine part; 99th percentile over the "
        "section.",
        curves=(_Curve("99th percentile", "strain_p99", bad="high", factor=100),),
        low=0.0,
    ),
    _ChartSpec(
        id="coverage",
        title="Coverage",
        unit="% of the area",
        text="Share of the aligned section that shows tissue, and share of the field's nodes that were registered "
        "with the previous section.",
        curves=(_Curve("tissue", "coverage", factor=100), _Curve("registered", "known", "second", factor=100)),
    ),
    _ChartSpec(
        id="confidence",
        title="Confidence of registration",
        unit="confidence",
        text="Mean confidence of the pair field with the previous section, over the nodes at which it is known.",
        curves=(_Curve("confidence", "confidence"),),
    ),
)

_ERROR_CURVES: tuple[tuple[str, str, Style], ...] = (
    ("aligned", "aligned", "main"),
    ("coarse", "coarse alignment only", "third"),
    ("observed", "before alignment", "before"),
)
_OUTCOME_CURVES: tuple[tuple[int, str, Style], ...] = (
    (FAILED, "failed", "main"),
    (LOW_QUALITY, "low quality", "second"),
    (NO_TISSUE, "no tissue", "third"),
    (NOT_DONE, "not done", "before"),
)


def error_charts(data: ReportData, size: int) -> list[Chart]:
    """Return jitter and drift against a known truth; without one the charts are empty."""
    curves = {} if data.evaluation is None else data.evaluation.curves
    jitter: list[Line] = []
    drift: list[Line] = []
    for name, label, style in _ERROR_CURVES:
        if name in curves:
            curve = curves[name]
            for lines, errors in ((jitter, curve.jitter), (drift, curve.drift)):
                values = np.full(data.shape[0], np.nan)
                values[list(curve.z)] = errors
                lines.append(_line(label, values, style, size, bad="high"))
    return [
        Chart(
            id="true-jitter",
            title="True jitter",
            unit="px",
            text="Median difference of the alignment error between a section and the previous one, measured against "
            "the known truth.",
            lines=jitter,
            low=0.0,
        ),
        Chart(
            id="true-drift",
            title="True drift",
            unit="px",
            text="Median difference of the alignment error between a section and the middle section, measured "
            "against the known truth.",
            lines=drift,
            low=0.0,
        ),
    ]


def quality_charts(data: ReportData, size: int) -> list[Chart]:
    """Return the measures that need no known truth."""
    columns: Mapping[str, AnyArray] = {**data.sections, **_derived_columns(data)}
    probe = _describe_probe(data)
    return [
        Chart(
            id=spec.id,
            title=spec.title,
            unit=spec.unit,
            text=spec.text.format(probe=probe),
            lines=[_line(c.label, columns[c.column] * c.factor, c.style, size, bad=c.bad) for c in spec.curves],
            low=spec.low,
        )
        for spec in _QUALITY_CHARTS
    ]


def contrast_charts(data: ReportData, size: int) -> list[Chart]:
    """Return gain and offset of each section; none if the contrast of sections was not matched."""
    if data.contrast is None:
        return []
    table = data.contrast
    kept = "Sections without a value keep their grey values."
    return [
        Chart(
            id="contrast",
            title="Contrast: gain",
            unit="factor",
            text="Factor by which the contrast of each section was multiplied to fit that of its neighbours. The "
            f"aligned volume has gain × source + offset. {kept}",
            lines=[_line("gain", np.where(table.matched, table.gain, np.nan), "main", size, bad="extreme")],
        ),
        Chart(
            id="grey-level",
            title="Contrast: grey level",
            unit="grey value",
            text=f"Middle grey value of each section, before and after its contrast was matched. {kept}",
            lines=[
                _line("after matching", table.changed_level, "main", size, bad="extreme"),
                _line("before matching", table.level, "before", size, bad="extreme"),
            ],
        ),
    ]


def outcome_chart(data: ReportData, size: int) -> Chart:
    """Return the outcomes of the register windows of each section."""
    codes = data.ledger.window_codes.reshape(data.shape[0], -1)
    met = [curve for curve in _OUTCOME_CURVES if (codes == curve[0]).any()]
    return Chart(
        id="outcome",
        title="Outcome of registration",
        unit="% of the windows",
        text="Share of the windows that failed, were of low quality, contain no tissue, or are not done yet; only what "
        "occurs is drawn.",
        lines=[
            _line(label, (codes == code).mean(axis=1) * 100, style, size, bad="high")
            for code, label, style in met or _OUTCOME_CURVES
        ],
        low=0.0,
    )


def _derived_columns(data: ReportData) -> dict[str, Float64Array]:
    """Return the residual motion accumulated from the middle section, px, `(z,)` per component.

    A section whose motion is unknown adds nothing.
    """
    steps = np.stack([data.sections["motion_dy"], data.sections["motion_dx"]]).astype(np.float64)
    known = np.isfinite(steps)
    path = np.cumsum(np.where(known, steps, 0.0), axis=1)
    # The motion points from a section to the previous one, so the tissue runs in the opposite direction.
    path = path[:, data.shape[0] // 2, None] - path
    path = path if known.any() else np.full_like(path, np.nan)
    return {"path_dy": path[0], "path_dx": path[1]}


def _describe_probe(data: ReportData) -> str:
    """Return where sections were compared, for a sentence."""
    if data.quality is None:
        return "in the middle of the sections"
    probe = data.quality.probe
    pixel = data.pixel_size * 2**probe.mip
    height, width = (n * pixel / 1000 for n in probe.shape_yx)
    return f"in the central {width:.3g} × {height:.3g} µm at {pixel:.3g} nm per px"


def _line(label: str, values: AnyArray, style: Style, size: int, *, bad: _Bad) -> Line:
    if size == 1:
        binned = np.asarray(values, dtype=np.float64)
    elif bad == "extreme":
        low, high = keep_worst(values, size=size, bad="low"), keep_worst(values, size=size, bad="high")
        binned = np.where(np.abs(low) > np.abs(high), low, high)
    else:
        binned = keep_worst(values, size=size, bad=bad)
    return Line(label=label, values=[float(f"{v:.4g}") if np.isfinite(v) else None for v in binned], style=style)
