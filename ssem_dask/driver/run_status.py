"""Status of a run: task counts, failures and remarks, as the ledger records them.

`ssem-dask status` must start quickly, so this module imports neither stages nor a cluster.
"""

from dataclasses import dataclass, field, replace

from ssem_dask.runtime.exclusive_driver import lease_url
from ssem_dask.section_record import Attention
from ssem_dask.storage.attention import read_attention
from ssem_dask.storage.late_writes import overwritten, read_notes
from ssem_dask.storage.lease import is_held
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import read_state, stage_order
from ssem_dask.task import Outcome, TaskReport
from ssem_dask.units import plural

MEASURE = "measure"
"""Stage that names the sections; it cannot be imported here."""
_MAX_REPORTS = 1000
"""Remarks, and failures with their logs, that a summary holds."""


@dataclass(slots=True, repr=False)
class Summary:
    """Status of a run: while it runs, or after it has ended."""

    output: str
    state: str
    """`complete`, or `incomplete` if a task failed."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of tasks per stage and outcome, including those of earlier runs."""
    failed: list[TaskReport] = field(default_factory=list)
    remarks: list[TaskReport] = field(default_factory=list)
    """The first thousand tasks that ended as expected and have a message for the user."""
    reasons: list[str] = field(default_factory=list)
    """Why it is incomplete, beside failed tasks: one sentence per reason. Known only where the work was done."""
    choices: list[str] = field(default_factory=list)
    """Values chosen from the data before the run began, as in `Plan`; empty if they are no longer known."""
    again: dict[str, list[str]] = field(default_factory=dict)
    """Keys of the tasks that had ended or failed and had to be repeated when the run began: `chosen` by the user,
    `changed` because configuration, weights or source differ, and `dependent` on any of these."""
    clipped: int = 0
    """Pixels of which a change of contrast exceeded the range of the data type."""
    attention: Attention | None = None
    """Sections that a person should look at; None if they are not known, or if this is no run."""

    @property
    def verdict(self) -> str:
        """The result in one line, empty if nothing is known of it: `aligned; 3 of 20 sections need a look: …`."""
        if self.attention is None:
            return ""
        return self.attention.verdict(self.state)

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        verdict = f"; {self.verdict}" if self.verdict else ""
        return f"Summary({self.output!r}: {self.state}{failed}{verdict})"

    def _repr_html_(self) -> str:
        # Here, since `status` must start quickly.
        from ssem_dask.driver.notebook_html import as_html, middle_section

        lines = [f"{self.output}: {self.state}", *([self.verdict] if self.verdict else []), *self.reasons]
        if self.failed:
            first = self.failed[0]
            lines.append(f"{plural(len(self.failed), 'task')} failed, the first is {first.key}: {first.message}")
        return as_html(lines, middle_section(self.output))

    def add(self, report: TaskReport) -> None:
        """Count a task that ended, and keep its report if it failed or has a message."""
        counts = self.counts.setdefault(report.stage, {})
        counts[report.outcome] = counts.get(report.outcome, 0) + 1
        if report.clipped and report.outcome.is_done:
            self.clipped += report.clipped
        if report.outcome is Outcome.FAILED:
            # A hundred thousand tracebacks would not fit into memory; the ledger has them all.
            with_log = len(self.failed) < _MAX_REPORTS
            self.failed.append(report if with_log else replace(report, log="", files={}))
        elif report.message and report.outcome.is_done and len(self.remarks) < _MAX_REPORTS:
            self.remarks.append(report)


def run_status(output: str) -> Summary:
    """Return the status of a run, or of a warped or exported volume, according to its ledger.

    Raises:
        SourceError: nothing exists at `output`.
        OutputError: something else exists there.
    """
    state = read_state(output)
    summary = Summary(output=output, state=state)
    ledger = open_ledger(output)
    notes = read_notes(ledger)
    for report in ledger.reports(None):
        is_late = report.outcome.is_done and any(note.concerns(report) for note in notes)
        summary.add(overwritten(report) if is_late else report)
    summary.attention = current_attention(output, summary)
    order = {stage: i for i, stage in enumerate(stage_order(output))}
    summary.counts = dict(sorted(summary.counts.items(), key=lambda item: order.get(item[0], len(order))))
    if state == "running" and not is_held(lease_url(output)):
        summary.state = "incomplete"  # its driver is dead
    # An entry may have become stale, or been marked as damaged, after the run had ended.
    elif state == "complete" and (summary.failed or any(Outcome.STALE in stage for stage in summary.counts.values())):
        summary.state = "incomplete"
    return summary


def current_attention(output: str, summary: Summary) -> Attention | None:
    """Return the sections that need a look; None if the stage that names them has not ended, or must run again."""
    return read_attention(output) if is_finished(summary, MEASURE) else None


def is_finished(summary: Summary, stage: str) -> bool:
    """Return whether a stage has tasks, and all that it has begun ended well."""
    counts = summary.counts.get(stage, {})
    return bool(counts) and all(Outcome(outcome).is_done for outcome in counts)
