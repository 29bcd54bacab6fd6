"""The record of an evaluation: one row per candidate, one column per metric."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from ssem_dask.evaluation.error_curves import ErrorCurve

Better: TypeAlias = Literal["low", "high", "one", "neither"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is named, measured and read."""

    name: str
    unit: str
    better: Better
    """Which values are good: low, high, those near 1, or neither (it is reported, never ranked by)."""
    meaning: str


def _metrics() -> Iterator[Metric]:
    yield Metric("jitter_median", "px", "low", "jump of the alignment error between adjacent sections")
    yield Metric("jitter_p95", "px", "low", "its 95th percentile")
    yield Metric("jitter_p99", "px", "low", "its 99th percentile")
    yield Metric("jitter_rms", "px", "low", "J: its rms, divided by √2")
    yield Metric("jitter_sound_median", "px", "low", "jitter between adjacent sections that are both undamaged")
    yield Metric("jitter_sound_p95", "px", "low", "its 95th percentile")
    yield Metric("drift_max", "px", "low", "largest median distance from the middle section's alignment error")
    yield Metric("drift_affine_removed", "px", "low", "the same without the best affine map of each section")
    yield Metric("drift_trend_removed", "px", "low", "the same without the linear trend along z")
    yield Metric("drift_slope", "", "low", "log-log slope of drift against distance: 0.5 random walk, 0 bounded")
    yield Metric("recovery_median", "px", "low", "what was not undone of the deformation, against the undeformed run")
    yield Metric("recovery_p95", "px", "low", "its 95th percentile")
    yield Metric("injected_jitter_median", "px", "low", "null test: jitter injected into undeformed sections")
    yield Metric("injected_jitter_p95", "px", "low", "its 95th percentile")
    yield Metric("injected_drift_max", "px", "low", "null test: drift injected into undeformed sections")
    for name, what in (("dice", "Dice"), ("iou", "IoU")):
        yield Metric(f"{name}_mean", "", "high", f"{what} of equal labels in adjacent sections, plain mean")
        yield Metric(f"{name}_weighted", "", "high", f"{what} of equal labels in adjacent sections, weighted by size")
        yield Metric(f"{name}_mean_ratio", "", "one", "the plain mean relative to the undeformed sections'")
        yield Metric(f"{name}_weighted_ratio", "", "one", "the weighted mean relative to the undeformed sections'")
    yield Metric("ncc", "", "neither", "normalised correlation of adjacent sections")
    yield Metric("cpc_64px", "", "neither", "chunked Pearson correlation of adjacent sections, 64 px")
    for size in (512, 1024, 2048):
        yield Metric(f"cpc_{size}nm", "", "neither", f"chunked Pearson correlation of adjacent sections, {size} nm")
    yield Metric("compared_share", "", "neither", "share of the pixels over which images and labels were compared")
    yield Metric("held_out_median", "px", "low", "distance of far pair fields from the composition of near ones")
    yield Metric("held_out_p95", "px", "low", "its 95th percentile")
    yield Metric("fold_rate", "", "low", "share of the section where tissue is folded, |J| <= 0")
    yield Metric("strain_p99", "", "neither", "99th percentile of the largest stretch or squeeze")
    yield Metric("displacement_median", "px", "neither", "median length of the field")
    yield Metric("elastic_median", "px", "neither", "the same without the best affine map of each section")
    yield Metric("known", "", "high", "share of the field's nodes that are known")


METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _metrics()}
"""All metrics by name, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """What was measured of one candidate."""

    name: str
    values: Mapping[str, float]
    """By metric name; a metric that could not be measured is left out or NaN."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of one run."""

    run: str
    truth: str | None
    labels: str | None
    undeformed_run: str | None
    sections: int
    """Sections that were compared."""
    rows: tuple[EvaluationRow, ...]
    """`observed` (as they came), `coarse` (rigid or affine only), `aligned`; `undeformed` where it is known."""
    notes: tuple[str, ...]
    """What could not be measured and why, and what to know when reading the figures."""
    curves: Mapping[str, ErrorCurve] = field(default_factory=dict)
    """By row the error of each section; empty without a truth."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that at least one row has, in the order in which they are shown."""
        return tuple(
            metric
            for name, metric in METRICS.items()
            if any(not math.isnan(row.values.get(name, math.nan)) for row in self.rows)
        )

    def value(self, row: str, metric: str) -> float:
        """One figure; NaN if it was not measured."""
        found = next((r for r in self.rows if r.name == row), None)
        return math.nan if found is None else found.values.get(metric, math.nan)

    def to_json(self) -> dict[str, Any]:
        """JSON: as the record, with null for what could not be measured."""
        return {
            "run": self.run,
            "truth": self.truth,
            "labels": self.labels,
            "undeformed_run": self.undeformed_run,
            "sections": self.sections,
            "rows": {
                row.name: {name: value if math.isfinite(value) else None for name, value in row.values.items()}
                for row in self.rows
            },
            "metrics": {m.name: {"unit": m.unit, "better": m.better, "meaning": m.meaning} for m in self.metrics},
            "notes": list(self.notes),
            "curves": {
                name: {"z": list(curve.z), "jitter": _finite(curve.jitter), "drift": _finite(curve.drift)}
                for name, curve in self.curves.items()
            },
        }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values]
