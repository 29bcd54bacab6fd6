"""The record of an evaluation, kept as `quality/evaluation.json`: one row per candidate, one column per metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ssem_dask.storage import location
from ssem_dask.storage.quality import read_record
from ssem_dask.storage.untrusted import understood

Better: TypeAlias = Literal["low", "high", "one", "neither"]

_FILE = "evaluation.json"
_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Metric:
    """Name, unit and meaning of a metric."""

    name: str
    unit: str
    better: Better
    """Good values: low, high, near 1, or neither (it is reported, but never used for ranking)."""
    meaning: str


@dataclass(frozen=True, slots=True)
class ErrorCurve:
    """Alignment error of each section that was compared; NaN if nothing could be compared."""

    z: Sequence[int]
    jitter: Sequence[float]
    """Median |c_z - c_z'| with z' the section compared before z, px."""
    drift: Sequence[float]
    """Median |c_z - c_z0| with z0 the middle of the compared sections, px."""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """Measured values of one candidate."""

    name: str
    values: Mapping[str, float]
    """Values by metric name; a metric that could not be measured is absent or NaN."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured values of one run."""

    run: str
    truth: str | None
    labels: str | None
    undeformed_run: str | None
    sections: int
    """Number of compared sections."""
    rows: tuple[EvaluationRow, ...]
    """`observed` (before alignment), `coarse` (rigid or affine only), `aligned`; `undeformed` if it is known."""
    metrics: tuple[Metric, ...]
    """Metrics that at least one row has, in the order in which they are shown."""
    notes: tuple[str, ...]
    """Metrics that could not be measured and why, and how to read the figures."""
    curves: Mapping[str, ErrorCurve] = field(default_factory=dict)
    """Error of each section, by row; empty without a truth."""
    verdict: str = ""
    """Whether the alignment is good, in a sentence."""
    in_doubt: tuple[str, ...] = ()
    """Metrics that mean little here."""

    def value(self, row: str, metric: str) -> float:
        """Return one figure; NaN if it was not measured."""
        values = next((r.values for r in self.rows if r.name == row), {})
        return values.get(metric, math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, with null for unknown ones."""
        return {
            "run": self.run,
            "truth": self.truth,
            "labels": self.labels,
            "undeformed_run": self.undeformed_run,
            "sections": self.sections,
            "verdict": self.verdict,
            "in_doubt": list(self.in_doubt),
            "rows": {
                row.name: {name: value if math.isfinite(value) else None for name, value in row.values.items()}
                for row in self.rows
            },
            "metrics": {m.name: {"unit": m.unit, "better": m.better, "meaning": m.meaning} for m in self.metrics},
            "notes": list(self.notes),
            "curves": {
                name: {"z": list(curve.z), "jitter": _to_json(curve.jitter), "drift": _to_json(curve.drift)}
                for name, curve in self.curves.items()
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Evaluation":
        """Return the record of JSON values, with NaN for unknown ones; any exception if they are no evaluation."""
        return cls(
            run=str(record["run"]),
            truth=record["truth"],
            labels=record["labels"],
            undeformed_run=record["undeformed_run"],
            sections=int(record["sections"]),
            rows=tuple(
                EvaluationRow(name, {metric: _from_json(value) for metric, value in values.items()})
                for name, values in record["rows"].items()
            ),
            metrics=tuple(
                Metric(name, metric["unit"], metric["better"], metric["meaning"])
                for name, metric in record["metrics"].items()
            ),
            notes=tuple(record["notes"]),
            curves={
                name: ErrorCurve(
                    z=tuple(curve["z"]),
                    jitter=tuple(_from_json(value) for value in curve["jitter"]),
                    drift=tuple(_from_json(value) for value in curve["drift"]),
                )
                for name, curve in (record.get("curves") or {}).items()
            },
            verdict=str(record.get("verdict") or ""),
            in_doubt=tuple(str(name) for name in record.get("in_doubt") or ()),
        )


def write_evaluation(evaluation: Evaluation, *, config_digest: str) -> None:
    """Keep an evaluation beside the run's quality tables, in place of the previous one.

    Args:
        evaluation: of a run.
        config_digest: digest of the configuration whose result was evaluated.

    Raises:
        OutputError: the file cannot be written.
    """
    url = location.join(evaluation.run, "quality", _FILE)
    record = {**evaluation.to_json(), "config_digest": config_digest}
    with location.writing(url):
        location.write_json(url, record)


def read_evaluation(run: str, *, config_digest: str) -> Evaluation | None:
    """Return the kept evaluation of a run; None if there is none, or only one of another configuration's result."""
    record = read_record(run, _FILE)
    if record is None or record.get("config_digest") != config_digest:
        return None
    return understood(lambda: Evaluation.from_json(record))


def _to_json(values: Sequence[float]) -> list[float | None]:
    return [round(value, _DECIMALS) if math.isfinite(value) else None for value in values]


def _from_json(value: float | None) -> float:
    return math.nan if value is None else float(value)
