"""Doing parts of a run again: what failed, what the user names, what a changed configuration concerns — and whatever
depends on it, which follows from the footprints of the tasks; nothing else.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from ssem_dask.driver.integrity import verify
from ssem_dask.driver.invalidation import Again, find_stale
from ssem_dask.driver.overrides import changed_config, refuse_layout
from ssem_dask.driver.pipeline import STAGES, Plan, carry_on, plan
from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.driver.source_fingerprints import changed_sections, source_stamps
from ssem_dask.errors import ConfigError
from ssem_dask.geometry.region import Footprint
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import read_run, update_run
from ssem_dask.task import Cause, Outcome, Task, TaskReport

_ENDLESS = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tasks the user wants done again: those that fit everything that is given."""

    failed: bool = False
    causes: tuple[Cause, ...] = ()
    """Those that failed of one of these."""
    stages: tuple[str, ...] = ()
    sections: range | None = None
    """Those that write something of these sections."""
    chunks: tuple[str, ...] = ()
    """Keys of tasks."""

    @property
    def given(self) -> bool:
        """Whether anything was given."""
        return self != Selection()

    def __call__(self, task: Task, entry: TaskReport | None, footprint: Footprint) -> bool:
        """Whether a task fits."""
        if (self.failed or self.causes) and (entry is None or entry.outcome is not Outcome.FAILED):
            return False
        return (
            (not self.causes or (entry is not None and entry.cause in self.causes))
            and (not self.stages or task.stage in self.stages)
            and (self.sections is None or footprint.shows(self.sections))
            and (not self.chunks or task.key in self.chunks)
        )


@dataclass(frozen=True, slots=True)
class RerunPlan:
    """What a rerun will do."""

    plan: Plan
    chosen: Selection | None
    """None: nothing is chosen, all that is not done is done."""
    changes: dict[str, Any]
    """For the chosen tasks alone."""
    again: Again
    """What it comes to, as the ledger stands now."""


def plan_rerun(output: str, selection: Selection, *, changes: dict[str, Any] | None = None) -> RerunPlan:
    """Find out what is to be done again; touches nothing.

    Args:
        output: URL of the run.
        selection: what to do again; an empty one: all that failed, was never done, or is not any more what the
            configuration, the weights or the source say.
        changes: configuration values by dotted key. With a selection they hold for the chosen tasks alone, else for
            the run.

    Raises:
        SourceError: there is no run.
        ConfigError: a key or a stage is unknown, a value is out of range, or a change does not fit the selection.
    """
    changes = changes or {}
    attributes = read_run(output)
    tree = {**attributes["given"], "output": output}
    if selection.given:
        refuse_layout(changes)
        changed_config(tree, changes)
        planned = plan(changed_config(tree, {}))
    else:
        planned = plan(changed_config(tree, changes))
    _check(selection, sections=planned.job.shape[0])
    chosen = selection if selection.given else None
    own = changes if selection.given else {}
    ledger = open_ledger(output)
    changed = [] if chosen else changed_sections(planned.job, source_stamps(planned.job))
    again = find_stale(planned.job, stages=STAGES, ledger=ledger, changed=changed, chosen=chosen, changes=own)
    unknown = sorted(set(selection.chunks) - set(again.chosen))
    if unknown:
        raise ConfigError(
            f"--chunk {unknown[0]}: the run has no such task, or it does not fit the other options; "
            "'ssem-dask status --json' lists keys."
        )
    return RerunPlan(planned, chosen, own, again)


def run_again(planned: RerunPlan, *, executor: Executor, observer: Observer, allow_missing: bool = False) -> Summary:
    """Do what `plan_rerun` found; errors as in `pipeline.run`.

    What had never been done is done as well: the run goes on as far as it can.
    """
    with exclusive_driver(planned.plan.job.output, executor) as guarded:
        return carry_on(
            planned.plan,
            planned.chosen,
            executor=guarded,
            observer=observer,
            allow_missing=allow_missing,
            changes=planned.changes,
        )


def verify_run(output: str, *, executor: Executor, observer: Observer) -> Summary:
    """Read all that a run has written, and mark what is damaged or gone as failed, so that it is written again.

    Args:
        output: URL of the run.
        executor: reads.
        observer: told of what is damaged.

    Returns:
        How the run stands; `failed` holds what is damaged, and what had failed before.

    Raises:
        SourceError: there is no run.
        OutputError: a driver is at work on it.
    """
    planned = plan_rerun(output, Selection()).plan
    with exclusive_driver(output, executor) as guarded:
        for report in verify(planned.job, stages=STAGES, executor=guarded):
            if report.restore:
                observer.note(f"{report.key}: {report.message}")
        summary = run_status(output)
        update_run(output, state=summary.state)
    return summary


def parse_sections(text: str) -> range:
    """`100:120` (half-open), `100:`, `:120` or `100`.

    Raises:
        ConfigError: it is none of these.
    """
    start, colon, stop = text.partition(":")
    with contextlib.suppress(ValueError):
        first = int(start) if start else 0
        last = first + 1 if not colon else int(stop) if stop else _ENDLESS
        if 0 <= first < last and text.strip(": "):
            return range(first, last)
    raise ConfigError(f"--sections {text}: must be one section or a range such as 100:120, whose end is not meant.")


def _check(selection: Selection, *, sections: int) -> None:
    names = [stage.NAME for stage in STAGES]
    for stage in selection.stages:
        if stage not in names:
            raise ConfigError(f"--stage {stage}: there is no such stage; choose from {', '.join(names)}.")
    if selection.sections is not None and selection.sections.start >= sections:
        raise ConfigError(
            f"--sections begins at {selection.sections.start}, but the sections are 0 to {sections - 1}; give some."
        )
