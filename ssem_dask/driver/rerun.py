"""Rerun: recompute selected parts of a run and everything that depends on them, and nothing else.

The user selects tasks, or all that failed or became outdated. What depends on them follows from the tasks' footprints.
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from ssem_dask.config.schema import make_config
from ssem_dask.driver.integrity import verify
from ssem_dask.driver.invalidation import Invalidation, find_stale
from ssem_dask.driver.ledger_check import check_ledger
from ssem_dask.driver.overrides import refuse_layout_overrides, with_overrides
from ssem_dask.driver.pipeline import Plan, plan, resume
from ssem_dask.driver.run_fixes import GivenFixes, stored_fixes
from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.driver.source_fingerprints import changed_sections, read_fingerprints
from ssem_dask.driver.stored_metadata import find_metadata_damage
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.geometry.region import Footprint
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages.fix_clusters import fix_clusters
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.late_writes import mark_overwritten
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import exists, is_local
from ssem_dask.storage.run_group import read_state, read_writable_run, record_damage, update_run
from ssem_dask.storage.run_source import asking_for_source
from ssem_dask.task import Cause, Outcome, Task, TaskReport
from ssem_dask.units import plural

_MAX_DAMAGE = 1000
"""Sentences on damaged files that are shown and kept."""
_QUICK_TASKS, _QUICK_PIXELS = 100, 40 << 20
"""Tasks of a rerun, and pixels of the sections that fixes reach, up to which no workers are started. A task takes some
ms, and a megapixel about half a second; workers take 5 to 10 s to start, and all cores meanwhile."""
_NO_END = 1 << 60
"""End of a range of sections that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A `TaskFilter` from the user's options: the tasks that match all of them."""

    failed: bool = False
    causes: tuple[Cause, ...] = ()
    """Causes of failure; tasks that failed because of any of them match."""
    stages: tuple[str, ...] = ()
    sections: range | None = None
    """Sections; tasks that write part of any of them match."""
    chunks: tuple[str, ...] = ()
    """Keys of tasks."""

    @property
    def is_empty(self) -> bool:
        """Whether the user gave no option."""
        return self == Selection()

    def __call__(self, task: Task, entry: TaskReport | None, footprint: Footprint) -> bool:
        """Return whether a task matches."""
        if (self.failed or self.causes) and (entry is None or entry.outcome is not Outcome.FAILED):
            return False
        return (
            (not self.causes or (entry is not None and entry.cause in self.causes))
            and (not self.stages or task.stage in self.stages)
            and (self.sections is None or footprint.writes_any_of(self.sections))
            and (not self.chunks or task.key in self.chunks)
        )


@dataclass(frozen=True, slots=True)
class RerunPlan:
    """A rerun that was checked and counted."""

    plan: Plan
    selection: Selection | None
    """Tasks that the user chose; None: no choice, every task that is not done runs."""
    overrides: dict[str, Any]
    """Configuration values for the chosen tasks alone, by dotted key."""
    invalidation: Invalidation
    """Affected tasks, according to the current ledger."""
    only_fixes: bool = False
    """Whether nothing has changed since the run was complete but fixes that leave its statistics as they were."""

    @property
    def is_quick(self) -> bool:
        """Whether all tasks have run before workers would have started: some fixes of sections that are not large."""
        job = self.plan.job
        affected = sum(len(keys) for keys in self.invalidation.keys().values())
        clusters = {c.sections for each in (job, replace(job, fixes=job.previous_fixes)) for c in fix_clusters(each)}
        pixels = sum(len(sections) for sections in clusters) * job.section_pixels
        return self.only_fixes and affected <= _QUICK_TASKS and pixels <= _QUICK_PIXELS


def stored_plan(output: str) -> Plan:
    """Return the plan of an existing run, from the attributes of its group.

    Raises:
        SourceError: there is no run, or its source is gone.
        OutputError: something else is there, or a run of another format, whose tasks this version does not know.
    """
    record = read_writable_run(output)
    tree = {**record.config, "source": record.source, "output": output}
    return plan(make_config(tree, where=f"Run {output}"), source_identity=record.source_identity)


def plan_rerun(
    output: str,
    selection: Selection,
    *,
    overrides: dict[str, Any] | None = None,
    source: str | None = None,
    fixes: GivenFixes | None = None,
    refit: bool = False,
) -> RerunPlan:
    """Find the tasks that a rerun affects, without changing anything.

    Args:
        output: URL of the run.
        selection: tasks to run again. An empty one: all that failed, never ran, or no longer agree with the
            configuration, the weights or the source.
        overrides: configuration values by dotted key. With a selection they hold for the chosen tasks alone, else for
            the run.
        source: URL to which the source was moved; None: where the run has recorded it.
        fixes: fixes that hold from now on; None: those that the run has.
        refit: whether statistics are fitted again with the fixes.

    Raises:
        SourceError: there is no run, or its source is gone.
        ConfigError: a key or a stage is unknown, a value is out of range, or an override does not fit the selection.
    """
    overrides = overrides or {}
    record = read_writable_run(output)
    place = record.source if source is None else source
    if is_local(place) and not exists(place):
        raise SourceError(f"{output}: its source {place} is not there; if it was moved, give its place with --source.")
    tree = {**record.given, "source": place, "output": output}
    if not selection.is_empty and (fixes is not None or refit):
        raise ConfigError(
            "--fixes and --refit change the whole run; leave out --failed, --cause, --stage, --sections and --chunk."
        )
    with asking_for_source(place, given=source):
        if selection.is_empty:
            planned = plan(
                with_overrides(tree, overrides), source_identity=record.source_identity, fixes=fixes, refit=refit
            )
        else:
            refuse_layout_overrides(overrides)
            with_overrides(tree, overrides)  # refuses unknown keys before anything is written
            planned = plan(with_overrides(tree, {}), source_identity=record.source_identity)
    _check(selection, sections=planned.job.shape[0])
    chosen = None if selection.is_empty else selection
    task_overrides = {} if selection.is_empty else overrides
    changed = [] if chosen else changed_sections(planned.job, read_fingerprints(planned.job))
    invalidation = find_stale(
        planned.job,
        stages=STAGES,
        ledger=open_ledger(output),
        changed_source=changed,
        selection=chosen,
        overrides=task_overrides,
    )
    unknown = sorted(set(selection.chunks) - set(invalidation.chosen))
    if unknown:
        raise ConfigError(
            f"--chunk {unknown[0]}: the run has no such task, or it does not match the other options; "
            "'ssem-dask status --json' lists keys."
        )
    only_fixes = (
        chosen is None
        and not overrides
        and not changed
        and record.state == "complete"
        and record.config_digest == planned.digest
        and stored_fixes(output).fitted == planned.fixes.fitted
    )
    return RerunPlan(planned, chosen, task_overrides, invalidation, only_fixes)


def execute_rerun(
    planned: RerunPlan, *, executor: Executor, observer: Observer, allow_missing: bool = False
) -> Summary:
    """Run the tasks that `plan_rerun` found, and those that never ran; errors as in `pipeline.run`."""
    with exclusive_driver(planned.plan.job.output, executor) as guarded:
        return resume(
            planned.plan,
            planned.selection,
            executor=guarded,
            observer=observer,
            allow_missing=allow_missing,
            overrides=planned.overrides,
        )


def verify_run(output: str, *, executor: Executor, observer: Observer, source: str | None = None) -> Summary:
    """Prove that a run is whole, and mark damaged or missing results as failed, so that they are written again.

    What must exist follows from the table of arrays, the configuration and the tasks, not from what is found. So four
    things are compared or read: the record of the run with its copy, the metadata of every array and group, the entries
    of the ledger with its pages and with the plan, and every chunk.

    Args:
        output: URL of the run.
        executor: executor that reads.
        observer: notified of each damaged result.
        source: URL of the source volume; None: where the run has recorded it.

    Returns:
        The status of the run. `failed` holds the damaged tasks, and those that had failed before. `reasons` holds a
        sentence for each damaged file that belongs to no single task. If there is any, the run is incomplete until the
        next `rerun`.

    Raises:
        SourceError: there is no run.
        OutputError: a driver is at work on it.
    """
    planned = plan_rerun(output, Selection(), source=source).plan
    damage = Damage(observer)
    for line in record_damage(output):
        damage.add(line)
    job, ledger = planned.job, open_ledger(output)
    with exclusive_driver(output, executor) as guarded:
        mark_overwritten(ledger)
        complete = read_state(output) == "complete"
        for line in find_metadata_damage(job, stages=planned.stages, ledger=ledger, complete=complete):
            damage.add(line)
        for line in check_ledger(job, stages=planned.stages, ledger=ledger, complete=complete):
            damage.add(line)
        for report in verify(job, stages=planned.stages, executor=guarded):
            if report.restore:
                observer.note(f"{report.key}: {report.message}")
        summary = run_status(output)
        if damage.lines:
            summary.state, summary.reasons = "incomplete", damage.lines
        update_run(output, state=summary.state)
    damage.note_rest()
    return summary


class Damage:
    """Sentences on damaged files, of which the first are shown and kept."""

    def __init__(self, observer: Observer) -> None:
        self.lines: list[str] = []
        self._observer = observer
        self._more = 0

    def add(self, line: str) -> None:
        """Add a sentence."""
        if len(self.lines) < _MAX_DAMAGE:
            self._observer.note(line)
            self.lines.append(line)
        else:
            self._more += 1

    def note_rest(self) -> None:
        """Say how many there are besides."""
        if self._more:
            self._observer.note(f"… and {plural(self._more, 'damaged file')} more.")


def parse_sections(text: str) -> range:
    """Read `100:120` (half-open), `100:`, `:120` or `100`.

    Raises:
        ConfigError: the text is none of these.
    """
    start, colon, stop = text.partition(":")
    with contextlib.suppress(ValueError):
        first = int(start) if start else 0
        last = first + 1 if not colon else int(stop) if stop else _NO_END
        if 0 <= first < last and text.strip(": "):
            return range(first, last)
    raise ConfigError(f"--sections {text}: must be one section, or a half-open range such as 100:120.")


def _check(selection: Selection, *, sections: int) -> None:
    names = [stage.name for stage in STAGES]
    for stage in selection.stages:
        if stage not in names:
            raise ConfigError(f"--stage {stage}: there is no such stage; choose from {', '.join(names)}.")
    if selection.sections is not None and selection.sections.start >= sections:
        raise ConfigError(
            f"--sections: begins at {selection.sections.start}, but the volume's sections are 0 to {sections - 1}; "
            "choose sections of the volume."
        )
