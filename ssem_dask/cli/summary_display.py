"""Display of a run's status: counts per stage, remarks, failed chunks, and the exit code."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ssem_dask.cli import console
from ssem_dask.task import TaskReport
from ssem_dask.units import plural

if TYPE_CHECKING:
    from ssem_dask.driver.run_status import Summary

_MAX_SHOWN = 20
"""Remarks, and failed chunks, that are shown; `--json` has them all."""


def show_summary(summary: "Summary", *, as_json: bool) -> None:
    """Show the status of a run; exit with code 1 if it is not complete."""
    if as_json:
        console.show_json(asdict(summary))
    else:
        _show_counts(summary)
        for report in summary.remarks[:_MAX_SHOWN]:
            console.note(f"{report.key}: {report.outcome}: {report.message}")
        if summary.failed:
            _show_failed(summary.failed)
    if summary.state != "complete":
        raise typer.Exit(1)


def _show_counts(summary: "Summary") -> None:
    outcomes = sorted({outcome for counts in summary.counts.values() for outcome in counts})
    rows = [[stage, *(str(counts.get(outcome, 0)) for outcome in outcomes)] for stage, counts in summary.counts.items()]
    console.table(f"{summary.output}: {summary.state}", columns=["stage", *outcomes], rows=rows)


def _show_failed(failed: list[TaskReport]) -> None:
    causes = Counter(str(report.cause) for report in failed)
    console.table(
        f"{plural(len(failed), 'chunk')} failed: {', '.join(f'{n} {cause}' for cause, n in sorted(causes.items()))}",
        columns=["chunk", "cause", "attempts", "seconds", "worker", "message"],
        rows=[
            [r.key, str(r.cause), str(r.attempts), f"{r.seconds:.1f}", r.worker, r.message] for r in failed[:_MAX_SHOWN]
        ],
    )
    if len(failed) > _MAX_SHOWN:
        console.note(f"… and {len(failed) - _MAX_SHOWN} more; --json lists all.")
