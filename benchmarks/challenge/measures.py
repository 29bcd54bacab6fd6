"""Measures of the challenge, each as one figure of a method."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

Records: TypeAlias = Sequence[Mapping[str, Any]]
"""Records of the cells of one method: of `benchmarks.accuracy`, and of `benchmarks.spoilt` under `kind`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One column of the page; small is good in all of them."""

    name: str
    title: str
    unit: str
    meaning: str
    value: Callable[[Records], float]
    """Records of a method → figure; NaN if it is not known."""
    least: float
    """Difference that counts: smaller ones are a draw."""


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _metric(kind: str, name: str) -> Callable[[Records], float]:
    """Mean of a metric over the scenes of a kind: undeformed or warped."""

    def value(records: Records) -> float:
        return _mean(
            record["metrics"].get(name, math.nan)
            for record in records
            if record.get("state") == "done" and f"-{kind}" in record.get("scene", "")
        )

    return value


def _harm(records: Records) -> float:
    """Mean over the other sections, and not their median: a chain moves all that follow, and none before."""
    return _mean(_mean(r["harm"].values()) for r in records if r.get("state") == "done" and "harm" in r)


def _back(records: Records) -> float:
    """Mean distance at which spoilt sections that show their own tissue come back; infinity if one does not."""
    return _mean(median for r in records if r.get("state") == "done" for median, _ in r.get("back", {}).values())


def _seconds(records: Records) -> float:
    return _mean(
        record["cpu_seconds"]["whole"] / record["megapixels"]
        for record in records
        if record.get("state") == "done" and "cpu_seconds" in record
    )


MEASURES: Final = (
    Measure(
        "null",
        "null test",
        "px",
        "sections that are aligned already: how far they are moved against each other, median",
        _metric("undeformed", "injected_jitter_median"),
        0.05,
    ),
    Measure(
        "recovery",
        "recovery",
        "px",
        "known deformation: what of it remains between neighbours, median",
        _metric("warped", "recovery_median"),
        0.05,
    ),
    Measure(
        "recovery_p95",
        "recovery, worst places",
        "px",
        "the same, 95th percentile over places and sections",
        _metric("warped", "recovery_p95"),
        0.2,
    ),
    Measure(
        "slope",
        "drift slope",
        "",
        "growth of the error with the distance of sections, log-log: 0 is bounded, 0.5 a random walk, 1 a tilt",
        _metric("warped", "drift_slope"),
        0.05,
    ),
    Measure(
        "harm",
        "harm by a spoilt section",
        "px",
        "one section spoilt: how far the others move because of it, mean over the sections",
        _harm,
        0.05,
    ),
    Measure(
        "back",
        "return of a spoilt section",
        "px",
        "how far from its place a spoilt section ends that still shows its own tissue, median",
        _back,
        0.2,
    ),
    Measure("seconds", "time", "CPU s / Mpx", "CPU time on one core", _seconds, 0.02),
)
"""All of them, in the order of the page."""


def figures_of(records: Records) -> dict[str, float]:
    """Return all figures of a method; those that are not known are left out."""
    found = {measure.name: measure.value(records) for measure in MEASURES}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def compared(mine: Mapping[str, float], others: Iterable[Mapping[str, float]]) -> dict[str, tuple[int, int]]:
    """Return for each figure of a method how many others it beats, and how many beat it; draws count for neither."""
    rows = list(others)
    result = {}
    for measure in MEASURES:
        if measure.name not in mine:
            continue
        value = mine[measure.name]
        theirs = [row[measure.name] for row in rows if measure.name in row]
        better = sum(other > value + measure.least for other in theirs)
        worse = sum(other < value - measure.least for other in theirs)
        result[measure.name] = better, worse
    return result
