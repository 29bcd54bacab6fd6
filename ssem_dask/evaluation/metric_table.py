"""The table of all metrics of an evaluation: names, units, and which values are good."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ssem_dask.errors import PlanError
from ssem_dask.storage.evaluation_file import EvaluationRow, Metric


def _metrics() -> Iterator[Metric]:
    yield Metric("jitter_median", "px", "low", "difference of the alignment error between adjacent sections, median")
    yield Metric("jitter_p95", "px", "low", "jitter, 95th percentile")
    yield Metric("jitter_p99", "px", "low", "jitter, 99th percentile")
    yield Metric("jitter_rms", "px", "low", "jitter, root mean square divided by √2")
    yield Metric("jitter_sound_median", "px", "low", "jitter between adjacent undamaged sections, median")
    yield Metric("jitter_sound_p95", "px", "low", "jitter between adjacent undamaged sections, 95th percentile")
    yield Metric("drift_max", "px", "low", "largest median distance from the middle section's alignment error")
    yield Metric("drift_affine_removed", "px", "low", "drift without the best affine map of each section")
    yield Metric("drift_trend_removed", "px", "low", "drift without the linear trend along z")
    yield Metric("drift_slope", "", "low", "log-log slope of drift against distance: 0.5 random walk, 0 bounded")
    yield Metric("recovery_median", "px", "low", "deformation that remains, relative to the undeformed run, median")
    yield Metric("recovery_p95", "px", "low", "deformation that remains, 95th percentile")
    yield Metric("injected_jitter_median", "px", "low", "null test: jitter injected into undeformed sections, median")
    yield Metric("injected_jitter_p95", "px", "low", "null test: injected jitter, 95th percentile")
    yield Metric("injected_drift_max", "px", "low", "null test: drift injected into undeformed sections")
    for name, overlap in (("dice", "Dice"), ("iou", "IoU")):
        yield Metric(f"{name}_mean", "", "high", f"{overlap} of labels in adjacent sections, plain mean")
        yield Metric(f"{name}_weighted", "", "high", f"{overlap} of labels in adjacent sections, mean weighted by size")
        yield Metric(f"{name}_mean_ratio", "", "one", f"{overlap}, plain mean relative to that of undeformed sections")
        yield Metric(f"{name}_weighted_ratio", "", "one", f"{overlap}, weighted mean relative to undeformed sections")
    yield Metric("ncc", "", "neither", "normalised cross-correlation of adjacent sections")
    yield Metric("cpc_64px", "", "neither", "chunked Pearson correlation of adjacent sections, 64 px")
    for size in (512, 1024, 2048):
        yield Metric(f"cpc_{size}nm", "", "neither", f"chunked Pearson correlation of adjacent sections, {size} nm")
    yield Metric("compared_share", "", "neither", "share of the pixels over which images and labels were compared")
    yield Metric("held_out_median", "px", "low", "distance of far pair fields from composed near ones, median")
    yield Metric("held_out_p95", "px", "low", "distance of far pair fields from composed near ones, 95th percentile")
    yield Metric("fold_rate", "", "low", "share of the section in which tissue is folded, |J| <= 0")
    yield Metric("strain_p99", "", "neither", "largest stretch or compression, 99th percentile")
    yield Metric("displacement_median", "px", "neither", "length of the field, median")
    yield Metric("elastic_median", "px", "neither", "length of the field without its best affine map, median")
    yield Metric("known", "", "high", "share of the field's nodes that are known")


METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _metrics()}
"""All metrics by name, in the order in which they are shown."""


def measured_metrics(rows: Sequence[EvaluationRow]) -> tuple[Metric, ...]:
    """Return the metrics that at least one row has, in the order in which they are shown.

    Raises:
        PlanError: a metric was measured that the table does not describe, so nobody would see it.
    """
    unknown = {name for row in rows for name in row.values} - set(METRICS)
    if unknown:
        raise PlanError(f"Measured, but not in METRICS of evaluation.metric_table: {', '.join(sorted(unknown))}.")
    return tuple(
        metric
        for name, metric in METRICS.items()
        if any(not math.isnan(row.values.get(name, math.nan)) for row in rows)
    )
