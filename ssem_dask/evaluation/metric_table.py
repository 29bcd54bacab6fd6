"""The table of all metrics of an evaluation: names, units, and which values are good."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ssem_dask.storage.evaluation_file import EvaluationRow, Metric


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


def measured_metrics(rows: Sequence[EvaluationRow]) -> tuple[Metric, ...]:
    """Return the metrics that at least one row has, in the order in which they are shown."""
    return tuple(
        metric
        for name, metric in METRICS.items()
        if any(not math.isnan(row.values.get(name, math.nan)) for row in rows)
    )
