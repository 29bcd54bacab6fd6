"""The curves of a report: what was measured of each section, with its unit and what it means.

`size` sections become one point, which shows the worst of them.
"""

import numpy as np

from ssem_dask.report.binning import worst_of
from ssem_dask.report.chart import Chart, Line
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY, NO_TISSUE, NOT_DONE
from ssem_dask.report.report_data import Material
from ssem_dask.types import AnyArray, Float64Array


def true_errors(material: Material, size: int) -> list[Chart]:
    """Jitter and drift against a known truth; empty charts without one."""
    curves = material.curves
    lines: dict[str, list[Line]] = {"jitter": [], "drift": []}
    for name, label, look in (
        ("aligned", "aligned", "main"),
        ("coarse", "rigid only", "third"),
        ("observed", "as they came", "before"),
    ):
        if name not in curves:
            continue
        for what, found in lines.items():
            values = np.full(material.shape[0], np.nan)
            values[curves[name]["z"]] = [np.nan if v is None else v for v in curves[name][what]]
            found.append(_line(label, values, look, size, bad="high"))
    return [
        Chart(
            id="true-jitter",
            title="True jitter",
            unit="px",
            text="Median jump of the alignment error from the section before, against the known truth.",
            lines=lines["jitter"],
            low=0.0,
        ),
        Chart(
            id="true-drift",
            title="True drift",
            unit="px",
            text="Median distance of the alignment error from that of the middle section, against the known truth.",
            lines=lines["drift"],
            low=0.0,
        ),
    ]


def measured(material: Material, size: int) -> list[Chart]:
    """What can be known without a truth, and in words what it does not mean."""
    column = material.sections
    path = _path(material)
    probe = "in the middle of the sections" if material.info is None else _probe_words(material)

    def line(label: str, values: AnyArray, look: str = "main", bad: str = "low") -> Line:
        return _line(label, values, look, size, bad=bad)

    return [
        Chart(
            id="similarity",
            title="Similarity of adjacent sections",
            unit="correlation",
            text=f"Each section with the one before, {probe}. NCC: normalised correlation; CPC: its mean over squares "
            "of 64 px, which shifts of a few px lower. Tissue changes from section to section, so 1 is not the aim.",
            lines=[
                line("NCC aligned", column["ncc"]),
                line("CPC aligned", column["cpc"], "second"),
                line("NCC as they came", column["ncc_before"], "before"),
                line("CPC as they came", column["cpc_before"], "before2"),
            ],
        ),
        Chart(
            id="jitter",
            title="Estimated jitter",
            unit="px",
            text="Uncertainty: how far the field of a section may be off against the course of its neighbours, by the "
            "model that composed it. Motion left: what the pair fields see between a section and the one before after "
            "alignment; it holds the tissue's natural motion and the noise of registration as well as jitter.",
            lines=[
                line("uncertainty (1 σ, per component)", column["uncertainty"], bad="high"),
                line("motion left, median", column["motion_median"], "second", bad="high"),
            ],
            low=0.0,
        ),
        Chart(
            id="drift",
            title="Course of the tissue along z",
            unit="px",
            text="The motion left, summed up from the middle section. Without a truth, drift of the alignment and the "
            "oblique course of the tissue cannot be told apart: this is their sum, not an error.",
            lines=[
                line("dy", path[0], bad="extreme"),
                line("dx", path[1], "second", bad="extreme"),
            ],
        ),
        Chart(
            id="folds",
            title="Fold rate",
            unit="% of the area",
            text="Share of the section where the field folds tissue over itself, |J| ≤ 0. It should be 0.",
            lines=[line("|J| ≤ 0", column["fold_rate"] * 100, bad="high")],
            low=0.0,
        ),
        Chart(
            id="strain",
            title="Strain",
            unit="%",
            text="99th percentile over the section of the largest stretch or squeeze by the field, affine part too.",
            lines=[line("p99", column["strain_p99"] * 100, bad="high")],
            low=0.0,
        ),
        Chart(
            id="coverage",
            title="Coverage",
            unit="% of the area",
            text="Share of the aligned section that shows tissue; share of the field's nodes that were registered with "
            "the section before.",
            lines=[
                line("tissue", column["coverage"] * 100),
                line("registered", column["known"] * 100, "second"),
            ],
        ),
        Chart(
            id="confidence",
            title="Confidence of registration",
            unit="confidence",
            text="Mean confidence of the pair field with the section before, where it is known.",
            lines=[line("confidence", column["confidence"])],
        ),
    ]


def outcomes(material: Material, size: int) -> Chart:
    """How the register windows of each section ended."""
    codes = material.ended.windows.reshape(material.shape[0], -1)
    wanted = ((FAILED, "failed", "main"), (LOW_QUALITY, "low quality", "second"), (NO_TISSUE, "no tissue", "third"))
    lines = [
        _line(label, (codes == code).mean(axis=1) * 100, look, size, bad="high")
        for code, label, look in (*wanted, (NOT_DONE, "not done", "before"))
    ]
    return Chart(
        id="outcome",
        title="Outcome of registration",
        unit="% of the windows",
        text="Share of the windows that failed, were of low quality, contain no tissue, or are not done yet.",
        lines=lines,
        low=0.0,
    )


def _path(material: Material) -> Float64Array:
    """(2, z): the motion left summed up from the middle section, px; a section where it is unknown adds nothing."""
    steps = np.stack([material.sections["motion_dy"], material.sections["motion_dx"]]).astype(np.float64)
    known = np.isfinite(steps)
    path = np.cumsum(np.where(known, steps, 0.0), axis=1)
    # The motion points from a section to the one before, so tissue runs against it.
    path = path[:, material.shape[0] // 2, None] - path
    return path if known.any() else np.full_like(path, np.nan)


def _probe_words(material: Material) -> str:
    assert material.info is not None
    probe = material.info.probe
    pixel = material.pixel_size * 2**probe.mip
    height, width = (n * pixel / 1000 for n in probe.shape_yx)
    return f"in the middle {width:.3g} × {height:.3g} µm at {pixel:.3g} nm per px"


def _line(label: str, values: AnyArray, look: str, size: int, *, bad: str) -> Line:
    if size == 1:
        shown = np.asarray(values, dtype=np.float64)
    elif bad == "extreme":
        low, high = worst_of(values, size=size, bad="low"), worst_of(values, size=size, bad="high")
        shown = np.where(np.abs(low) > np.abs(high), low, high)
    else:
        shown = worst_of(values, size=size, bad=bad)
    return Line(label=label, values=[float(f"{v:.4g}") if np.isfinite(v) else None for v in shown], look=look)
