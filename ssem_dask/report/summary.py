"""The first part of a report: what was aligned, how long it took, how good it seems, what failed."""

from dataclasses import dataclass

import numpy as np

from ssem_dask.report.report_data import ReportData
from ssem_dask.types import AnyArray
from ssem_dask.units import duration, micrometres, number, plural, si


@dataclass(frozen=True, slots=True)
class Fact:
    """One tile of the summary."""

    name: str
    value: str
    more: str = ""
    alarm: bool = False
    """Whether something is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage in the table of stages, each cell as text."""

    stage: str
    tasks: str
    """Number of tasks by outcome."""
    figures: tuple[str, ...]
    """Elapsed time, worker time, throughput, bytes read, bytes written, workers, retried tasks."""


def summary_facts(data: ReportData) -> list[Fact]:
    """Return the tiles that say how good a run is, most important first."""
    ledger, state = data.ledger, data.run.state
    failures = plural(ledger.failed_count, "task") if ledger.failed_count else "no task"
    return [
        Fact("State", state, f"{failures} failed", alarm=state != "complete"),
        *_attention_facts(data),
        *_error_facts(data),
        *_quality_facts(data),
        *_contrast_facts(data),
    ]


def size_facts(data: ReportData) -> list[Fact]:
    """Return the tiles that say what was aligned, and how long it took."""
    z, y, x = data.shape
    ledger = data.ledger
    pixels = z * y * x
    is_complete = data.run.state == "complete"
    throughput = si(pixels / ledger.busy_seconds, "px/s") if ledger.busy_seconds > 0 and is_complete else "–"
    workers = len({worker for stage in ledger.stages.values() for worker in stage.workers})
    return [
        Fact(
            "Sections",
            f"{z:,}",
            f"{data.section_thickness:g} nm thick, {z * data.section_thickness / 1000:.3g} µm in total",
        ),
        Fact(
            "Section size",
            f"{x:,} × {y:,}",
            f"px (x × y), {micrometres(x, data.pixel_size)} × {micrometres(y, data.pixel_size)} µm at "
            f"{data.pixel_size:g} nm",
        ),
        Fact("Volume", si(pixels, "px")),
        Fact("Neighbours", str(data.run.neighbours), "previous sections with which each section is registered"),
        Fact(
            "Time",
            duration(ledger.busy_seconds),
            f"computing; {duration(ledger.elapsed_seconds)} from the first start to the last end",
        ),
        Fact("Throughput", throughput, f"whole volume, all stages, {plural(workers, 'worker')}"),
    ]


def _attention_facts(data: ReportData) -> list[Fact]:
    """Return how many sections need a look."""
    if data.attention is None:
        return []
    count = len(data.attention.records)
    value = f"{count:,} of {data.shape[0]:,}" if count else "none"
    return [Fact("Sections that need a look", value, "see the list above" if count else "", alarm=count > 0)]


def _contrast_facts(data: ReportData) -> list[Fact]:
    """Return what was done to grey values."""
    if data.contrast is None:
        return []
    gain = data.contrast.gain[data.contrast.matched]
    kept = int((~data.contrast.matched).sum())
    clipped = sum(stage.clipped for stage in data.ledger.stages.values())
    more = f"gains of the sections; {plural(kept, 'section')} left as they came, {plural(clipped, 'pixel')} clipped"
    return [Fact("Contrast was matched", f"{gain.min():.2f} to {gain.max():.2f}", more)]


def rms_uncertainty(data: ReportData) -> float:
    """Return the root mean square of the sections' uncertainty, px.

    A section without a place counts with its whole distortion, of which nothing was undone.
    """
    values = data.sections["uncertainty"].astype(np.float64)
    if data.attention is not None and data.attention.unplaced and np.isfinite(data.lost_px):
        lost = list(data.attention.unplaced)
        values[lost] = np.fmax(values[lost], data.lost_px)
    known = values[np.isfinite(values)]
    return float(np.sqrt((known**2).mean())) if known.size else float("nan")


def _quality_facts(data: ReportData) -> list[Fact]:
    columns = data.sections
    facts = []
    if np.isfinite(columns["cpc"]).any():
        facts.append(
            Fact(
                "Similarity (CPC)",
                f"{number(_median(columns['cpc_before']), 2)} → {number(_median(columns['cpc']), 2)}",
                "adjacent sections, median: before → after alignment; good is a clear rise, not 1",
            )
        )
    if np.isfinite(columns["uncertainty"]).any():
        value = rms_uncertainty(data)
        has_lost = data.attention is not None and bool(data.attention.unplaced)
        lost = ", those that were lost with their whole distortion" if has_lost else ""
        facts.append(
            Fact(
                "Uncertainty",
                f"{number(value, 2)} px",
                f"{number(value * data.pixel_size, 2)} nm, rms of the sections{lost}; good is less than the width of "
                "a membrane, some 10 nm",
            )
        )
    elif np.isfinite(columns["motion_median"]).any():
        facts.append(
            Fact(
                "Residual motion",
                f"{number(_median(columns['motion_median']), 2)} px",
                "between adjacent sections, including natural motion; good is low",
            )
        )
    fold_rate = columns["fold_rate"]
    if np.isfinite(fold_rate).any():
        folded = int((fold_rate > 0).sum())
        facts.append(
            Fact(
                "Folds by the field",
                plural(folded, "section") if folded else "none",
                f"mean fold rate {np.nanmean(fold_rate):.2g}; good is none" if folded else "tissue folded over itself",
                alarm=folded > 0,
            )
        )
    return facts


def _error_facts(data: ReportData) -> list[Fact]:
    """Return errors against a known truth, if there is one."""
    evaluation = data.evaluation
    if evaluation is None or not data.has_truth or "aligned" not in {row.name for row in evaluation.rows}:
        return []
    return [
        Fact(
            name,
            f"{number(evaluation.value('observed', metric))} → {number(evaluation.value('aligned', metric))} px",
            "against the known truth: before → after alignment; good is low",
        )
        for name, metric in (("True jitter", "jitter_median"), ("True drift", "drift_max"))
    ]


def stage_rows(data: ReportData) -> list[StageRow]:
    """Return a row per stage: outcomes, time, throughput, bytes."""
    rows = []
    for name, stage in data.ledger.stages.items():
        elapsed = stage.elapsed_seconds
        rows.append(
            StageRow(
                stage=name,
                tasks=", ".join(f"{n:,} {outcome.replace('_', ' ')}" for outcome, n in sorted(stage.counts.items())),
                figures=(
                    duration(elapsed),
                    duration(stage.worker_seconds),
                    si(stage.pixels / elapsed, "px/s") if elapsed > 0 and stage.pixels else "–",
                    si(stage.bytes_read, "B"),
                    si(stage.bytes_written, "B"),
                    str(len(stage.workers)),
                    f"{stage.retried:,}",
                ),
            )
        )
    return rows


def _median(values: AnyArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
