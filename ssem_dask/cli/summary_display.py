"""Display of a run's status: counts per stage, remarks, failed chunks, and the exit code."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ssem_dask.cli import console
from ssem_dask.errors import ConfigError
from ssem_dask.section_record import ANY_KIND, Kind, matching_records
from ssem_dask.task import TaskReport
from ssem_dask.units import plural, shortened

if TYPE_CHECKING:
    from ssem_dask.driver.run_status import Summary

_MAX_SHOWN = 20
"""Remarks, and failed chunks, that are shown; `--json` has them all."""
_MAX_LINES = 40
"""Lines of the table of failed chunks, whose messages may take many each."""


_SUMMED_UP = ("coarse/", "calibrate/", "register/")
"""Beginnings of the keys of tasks whose remarks the verdict sums up, or that say how something was computed."""


def show_summary(summary: "Summary", *, as_json: bool, fail_on: Sequence[str] = (), verbose: bool = False) -> None:
    """Show the status of a run; exit with code 1 if it is not complete, or has a section of a kind in `fail_on`.

    Args:
        summary: status of the run.
        as_json: show all of it as JSON.
        fail_on: kinds of sections.
        verbose: show what tasks remarked even if there is a verdict, which sums up most of it.
    """
    if as_json:
        console.show_json(_as_json(summary))
    else:
        _show_counts(summary)
        _show_remarks(summary, is_whole=verbose or not summary.verdict or _has_fixes(summary))
        if summary.clipped:
            console.note(
                f"{plural(summary.clipped, 'pixel')} clipped, since their changed contrast exceeds the data type"
            )
        if summary.failed:
            _show_failed(summary.failed)
        if summary.verdict:
            console.line(summary.verdict)
            _show_next(summary)
    fail_if_needed(summary, fail_on=fail_on)


def fail_if_needed(summary: "Summary", *, fail_on: Sequence[str] = ()) -> None:
    """Exit with code 1 if a run is not complete, or has a section of a kind in `fail_on`, which are named."""
    refused = [] if summary.attention is None else matching_records(summary.attention.records, fail_on)
    if refused:
        listed = shortened((record.describe() for record in refused), limit=_MAX_SHOWN)
        console.show_error(
            f"--fail-on {','.join(fail_on)}: {plural(len(refused), 'section')} of these kinds: {listed}."
        )
    if refused or summary.state != "complete":
        raise typer.Exit(1)


def parse_kinds(value: str | None) -> tuple[str, ...]:
    """Return the kinds of `--fail-on`; raise ConfigError if there is no such kind."""
    kinds = tuple(kind.strip() for kind in (value or "").split(",") if kind.strip())
    known = [ANY_KIND, *(kind for kind in Kind if kind is not Kind.OK)]
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or (value is not None and not kinds):
        raise ConfigError(f"--fail-on {value}: {', '.join(unknown) or 'nothing'} is no kind; give {', '.join(known)}.")
    return kinds


def _as_json(summary: "Summary") -> dict[str, Any]:
    """Return the summary as JSON values; `attention` is a list of records, null if they are not known."""
    record = {**asdict(summary), "attention": None, "pieces": [], "unplaced": [], "verdict": summary.verdict}
    record["proposals"] = []
    if summary.attention is None:
        return record
    from ssem_dask.fixes.proposals import proposals

    attention = summary.attention.to_json()
    proposed = [
        {"z": each.z, "reason": each.sentence, "done": each.is_done, "toml": each.toml}
        for each in proposals(summary.attention.records)
    ]
    return {
        **record,
        **{name: attention[name] for name in ("attention", "pieces", "unplaced")},
        "proposals": proposed,
    }


def _has_fixes(summary: "Summary") -> bool:
    """Return whether a run follows fixes of a person, who wants to know what became of them."""
    from ssem_dask.storage.run_group import read_run

    return bool(read_run(summary.output).fixes)


def _show_remarks(summary: "Summary", *, is_whole: bool) -> None:
    """Show all remarks of tasks, or those alone that the verdict does not sum up."""
    if is_whole:
        for report in summary.remarks[:_MAX_SHOWN]:
            console.note(f"{report.key}: {report.outcome}: {report.message}")
        return
    found = [report for report in summary.remarks if not report.key.startswith(_SUMMED_UP)]
    for report in found[:_MAX_SHOWN]:
        console.note(report.message)
    hidden = len(summary.remarks) - len(found)
    if hidden:
        console.note(f"{plural(hidden, 'further remark')} of tasks: status -v.")


def _show_next(summary: "Summary") -> None:
    """Name the commands that show the result."""
    run = shlex.quote(summary.output)
    has_spoilt = summary.attention is not None and bool(summary.attention.records)
    fix = f", and ssem-dask fix {run} to put sections right by hand" if has_spoilt else ""
    console.note(f"Next: ssem-dask report {run} (one page), ssem-dask view {run} (in the browser){fix}.")


def _show_counts(summary: "Summary") -> None:
    outcomes = sorted({outcome for counts in summary.counts.values() for outcome in counts})
    rows = [[stage, *(str(counts.get(outcome, 0)) for outcome in outcomes)] for stage, counts in summary.counts.items()]
    console.table(f"{summary.output}: {summary.state}", columns=["stage", *outcomes], rows=rows)


def _show_failed(failed: list[TaskReport]) -> None:
    causes = Counter(str(report.cause) for report in failed)
    count = console.table(
        f"{plural(len(failed), 'chunk')} failed: {', '.join(f'{n} {cause}' for cause, n in sorted(causes.items()))}",
        columns=["chunk", "cause", "attempts", "seconds", "worker", "message"],
        rows=[
            [r.key, str(r.cause), str(r.attempts), f"{r.seconds:.1f}", r.worker, r.message] for r in failed[:_MAX_SHOWN]
        ],
        most_lines=_MAX_LINES,
    )
    if len(failed) > count:
        console.note(f"… and {len(failed) - count} more; --json lists all.")
