"""Which tasks must run again because other tasks run again.

Law: an entry of the ledger is valid only as long as everything that its task read is valid. So before a task runs
again, the entries of all tasks that read what it writes are marked stale, those of the last stages first. Whatever is
killed in between, a result made from old data is never mistaken for a result of the new data.

Dependencies follow from the footprints of the tasks. An entry whose data was damaged after its task had ended well
(`restore`) is only rewritten, which makes nothing stale: a read of damaged data fails, so no result was computed from
it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from ssem_dask.geometry.region import Footprint, Region, RegionSet
from ssem_dask.stages.array_rows.fixed_arrays import FIXED_PREFIX
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import Ledger, page_of
from ssem_dask.task import Outcome, Task, TaskReport, without_fixes
from ssem_dask.units import plural

TaskFilter: TypeAlias = Callable[[Task, TaskReport | None, Footprint], bool]
"""Whether the user wants a task to run again, by its entry in the ledger and its footprint."""


class EntryState(Enum):
    """State of a task's ledger entry, compared with the present plan of the run."""

    ABSENT = auto()
    """The task has no entry, or a torn one."""
    DONE = auto()
    """The task ended well, with the present configuration, weights and source."""
    OUTDATED = auto()
    """The task ended well, but configuration, weights or source have changed since."""
    FAILED = auto()
    """The task failed, with the present configuration, weights and source."""
    DAMAGED = auto()
    """The task ended well, with the present configuration, weights and source, but its data was damaged later."""
    PENDING = auto()
    """Any other entry: stale, or failed with another configuration, weights or source. The task runs in any case."""


class EntryUpdate(NamedTuple):
    """A change to one ledger entry. There may be millions, so it holds only the values that change."""

    key: str
    outcome: Outcome
    digest: str | None = None
    """None: unchanged. This holds for the fields below as well."""
    changes: dict[str, Any] | None = None
    restore: bool | None = None

    def applied(self, entry: TaskReport | None) -> TaskReport:
        """Return the entry with the change applied; None: there is none yet."""
        entry = entry or TaskReport(key=self.key, digest="", outcome=self.outcome)
        return replace(
            entry,
            outcome=self.outcome,
            digest=entry.digest if self.digest is None else self.digest,
            changes=entry.changes if self.changes is None else self.changes,
            restore=entry.restore if self.restore is None else self.restore,
        )


class Classification(NamedTuple):
    """How one task is affected."""

    chosen: bool
    """Whether the user chose it."""
    changed: bool
    """Whether it is redone because configuration, weights or source have changed."""
    dependent: bool
    """Whether it is redone only because it reads what other tasks write again."""
    redone: bool
    """Whether what it writes may change, so that its readers must run again."""
    update: EntryUpdate | None
    """Change to its ledger entry; None: the entry stays."""


@dataclass(slots=True)
class Invalidation:
    """The tasks that must run again, and the ledger updates that say so."""

    chosen: list[str] = field(default_factory=list)
    """Keys of the tasks that the user chose."""
    changed: list[str] = field(default_factory=list)
    """Keys of tasks that ended well with another configuration, other weights or another content of the source."""
    dependent: list[str] = field(default_factory=list)
    """Keys of tasks that ended well and run again only because they read what other tasks write again."""
    obsolete: list[str] = field(default_factory=list)
    """Keys of entries whose tasks the run no longer has."""
    updates: list[list[EntryUpdate]] = field(default_factory=list)
    """Changes to ledger entries, one list per generation."""

    def keys(self) -> dict[str, list[str]]:
        """Return the keys of the affected tasks by the reason why they run again."""
        return {"chosen": self.chosen, "changed": self.changed, "dependent": self.dependent}

    @property
    def remark(self) -> str:
        """One line on the tasks that run again although they ended; empty if there are none."""
        chosen, changed, dependent = (len(keys) for keys in self.keys().values())
        if not chosen and not changed:
            return ""
        return (
            f"Recomputing {plural(chosen, 'chosen task')}, {changed} that ended with another configuration, weights, "
            f"source or fixes, and {dependent} that depend on recomputed results."
        )

    def record(self, key: str, classification: Classification) -> None:
        """Add one task of the current generation."""
        if classification.chosen:
            self.chosen.append(key)
        if classification.changed:
            self.changed.append(key)
        if classification.dependent:
            self.dependent.append(key)
        if classification.update is not None:
            self.updates[-1].append(classification.update)


def find_stale(
    job: Job,
    *,
    stages: Sequence[Stage],
    ledger: Ledger,
    changed_source: Iterable[Region] = (),
    selection: TaskFilter | None = None,
    overrides: dict[str, Any] | None = None,
    is_live: Callable[[str], bool] = lambda _page: True,
) -> Invalidation:
    """Find the tasks that must run again, without changing anything.

    Holds one page of the ledger at a time. Ends as soon as no page is left, so that a run that has barely begun, or is
    complete, takes little time.

    Args:
        job: the run by its present plan.
        stages: stages of the pipeline, in order.
        ledger: the run's ledger.
        changed_source: source regions that changed since they were read.
        selection: tasks that the user wants to run again; None: the user chose none.
        overrides: configuration values for the chosen tasks alone, by dotted key.
        is_live: whether the tasks of a page are looked at; those of any other page are known to be done.
    """
    invalidation, source_regions, redone = Invalidation(), RegionSet(), RegionSet()
    source_regions.add(changed_source)
    unread_pages = {stage.name: set(filter(is_live, ledger.pages(stage.name))) for stage in stages}
    begun = [i for i, stage in enumerate(stages) if unread_pages[stage.name]]
    # Overrides also hold for chosen tasks that have never run.
    last = len(stages) if selection is not None and overrides else begun[-1] + 1 if begun else 0
    for stage in stages[:last]:
        pages = unread_pages[stage.name]
        for generation in stage.generations(job):
            invalidation.updates.append([])
            for page, tasks in groupby(generation, key=lambda task: page_of(task.key)):
                if not is_live(page):
                    continue
                entries = ledger.entries(page) if page in pages else {}
                pages.discard(page)
                for task in tasks:
                    entry = entries.pop(task.key, None)
                    if selection is None and not source_regions and not redone and _is_done(task, entry):
                        continue  # nothing can invalidate it: skip its footprint, which is slow to compute
                    footprint = task.footprint()
                    classification = classify(
                        task,
                        entry,
                        source_changed=source_regions.overlaps_any(footprint.reads),
                        chosen=None if selection is None else selection(task, entry, footprint),
                        reads_redone=redone.overlaps_any(footprint.reads),
                        overrides=overrides or {},
                    )
                    if classification.redone:
                        redone.add(_changed_writes(task, entry, footprint, redone, classification))
                    invalidation.record(task.key, classification)
                invalidation.obsolete += sorted(entries)
                if selection is None and not any(unread_pages.values()):
                    return invalidation  # no entry is left that could depend on what is redone
        for page in sorted(pages):
            invalidation.obsolete += sorted(ledger.entries(page))
        pages.clear()
    return invalidation


def _changed_writes(
    task: Task, entry: TaskReport | None, footprint: Footprint, redone: RegionSet, classification: Classification
) -> Iterable[Region]:
    """Return what may change of what a task writes: all, or what fixes reach if nothing else has changed."""
    fitted_reads = (region for region in footprint.reads if not region.name.startswith(FIXED_PREFIX))
    only_fixes = (
        entry is not None
        and entry.outcome in (Outcome.STALE, Outcome.OK, Outcome.LOW_QUALITY, Outcome.NO_TISSUE)
        and without_fixes(entry.digest) == without_fixes(task.digest)
        and not classification.chosen
        and not redone.overlaps_any(fitted_reads)
    )
    return (
        (part for region in footprint.writes for part in task.reached_by_fixes(region))
        if only_fixes
        else footprint.writes
    )


def mark_stale(invalidation: Invalidation, ledger: Ledger) -> None:
    """Write an invalidation to the ledger, the last generations first."""
    for key in reversed(invalidation.obsolete):
        ledger.delete(key)
    for generation in reversed(invalidation.updates):
        for page, updates in groupby(generation, key=lambda update: page_of(update.key)):
            entries = ledger.entries(page)
            ledger.replace_all(update.applied(entries.get(update.key)) for update in updates)


def classify(
    task: Task,
    entry: TaskReport | None,
    *,
    source_changed: bool,
    chosen: bool | None,
    reads_redone: bool,
    overrides: dict[str, Any],
) -> Classification:
    """Decide how one task is affected.

    | entry    | chosen         | reads redone | redone | entry becomes                                   |
    |----------|----------------|--------------|--------|-------------------------------------------------|
    | ABSENT   | with overrides | any          | yes    | stale, with the overrides                       |
    | ABSENT   | any            | any          | yes    |                                                 |
    | DONE     | yes            | any          | yes    | stale, with the overrides                       |
    | DONE     | no             | yes          | yes    | stale (*dependent*)                             |
    | DONE     | no             | no           | no     | unchanged                                       |
    | OUTDATED | with overrides | any          | yes    | stale, with the overrides                       |
    | OUTDATED | any            | any          | yes    | stale, without overrides (*changed*)            |
    | FAILED   | with overrides | any          | yes    | failed, with the overrides                      |
    | FAILED   | yes or all     | any          | yes    | unchanged                                       |
    | FAILED   | no             | yes          | yes    | unchanged                                       |
    | FAILED   | no             | no           | no     | unchanged                                       |
    | DAMAGED  | with overrides | any          | yes    | failed, to be rewritten, with the overrides     |
    | DAMAGED  | any            | yes          | yes    | stale, no longer one that is only rewritten     |
    | DAMAGED  | any            | no           | no     | unchanged                                       |
    | PENDING  | with overrides | any          | yes    | the same outcome, with the overrides            |
    | PENDING  | any            | yes          | yes    | unchanged; stale if it was only to be rewritten |
    | PENDING  | any            | no           | yes    | unchanged                                       |

    The first row that fits holds. "All" means that the user chose nothing in particular (`chosen` is None), so that
    all failed tasks run again; otherwise a failed task that was not chosen is left unchanged.

    Args:
        task: the task by the present plan of the run.
        entry: its entry in the ledger; None: it has none.
        source_changed: whether part of the source that it reads has changed.
        chosen: whether the user chose it; None: the user made no choice.
        reads_redone: whether it reads something that another task writes again.
        overrides: configuration values for the chosen tasks alone.
    """
    current = entry is not None and entry.digest == task.digest and not source_changed
    state = _state(entry, current=current)
    overridden = bool(chosen and overrides)
    update = None
    if overridden or (entry is not None and chosen and state is EntryState.DONE):
        update = _chosen_update(task, entry, current=current, overrides=overrides)
    elif entry is not None:
        update = _induced_update(entry, state=state, reads_redone=reads_redone)
    return Classification(
        chosen=bool(chosen),
        changed=state is EntryState.OUTDATED and not overridden,
        dependent=state is EntryState.DONE and reads_redone and not chosen,
        redone=_is_redone(state, chosen=chosen, overridden=overridden, reads_redone=reads_redone),
        update=update,
    )


def _state(entry: TaskReport | None, *, current: bool) -> EntryState:
    """Return the state of an entry; `current`: made with the present configuration, weights and source."""
    if entry is None:
        return EntryState.ABSENT
    if entry.outcome.is_done:
        return EntryState.DONE if current else EntryState.OUTDATED
    if current and entry.restore:
        return EntryState.DAMAGED
    if current and entry.outcome is Outcome.FAILED:
        return EntryState.FAILED
    return EntryState.PENDING


def _is_done(task: Task, entry: TaskReport | None) -> bool:
    return entry is not None and entry.outcome.is_done and entry.digest == task.digest


def _is_redone(state: EntryState, *, chosen: bool | None, overridden: bool, reads_redone: bool) -> bool:
    """Return whether what a task writes may change; arguments as in `classify`."""
    if state is EntryState.DONE:
        return chosen is True or reads_redone
    if state is EntryState.FAILED:
        return chosen is not False or reads_redone
    if state is EntryState.DAMAGED:
        return overridden or reads_redone  # otherwise the same bytes are written again
    return True


def _chosen_update(task: Task, entry: TaskReport | None, *, current: bool, overrides: dict[str, Any]) -> EntryUpdate:
    """Return the change to the entry of a chosen task; it keeps earlier overrides if it is `current`."""
    if entry is None:  # it never ran: the entry keeps the overrides until it does
        return EntryUpdate(task.key, Outcome.STALE, digest=task.digest, changes=dict(overrides))
    # An entry that failed keeps its cause, so that the same command chooses it again if this one is interrupted.
    outcome = Outcome.STALE if entry.outcome.is_done else entry.outcome
    earlier = entry.changes if current else {}
    return EntryUpdate(task.key, outcome, digest=task.digest, changes={**earlier, **overrides})


def _induced_update(entry: TaskReport, *, state: EntryState, reads_redone: bool) -> EntryUpdate | None:
    """Return the change to an entry that follows from what else has changed, not from the user's choice."""
    if state is EntryState.OUTDATED:
        return EntryUpdate(entry.key, Outcome.STALE, changes={})
    if state is EntryState.DONE and reads_redone:
        return EntryUpdate(entry.key, Outcome.STALE)
    if entry.restore and reads_redone:
        return EntryUpdate(entry.key, Outcome.STALE, restore=False)
    return None
