"""Which tasks are to be done again, because of what else is done again.

Law: an entry of the ledger stands only as long as everything that its task read stands. So before a task is done again,
the entries of all tasks that read what it writes are marked stale, those of the last stages first: whatever is killed
in between, no result is ever taken for one that was made from newer data than it was.

What depends on what follows from the stages' footprints. An entry that is only to be *restored* (its data was damaged
after it had ended well) makes nothing stale: nothing was ever read through a wrong checksum.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from ssem_dask.geometry.region import Footprint, Region, RegionSet
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.ledger import Ledger, page_of
from ssem_dask.task import Outcome, Task, TaskReport

Chosen: TypeAlias = Callable[[Task, TaskReport | None, Footprint], bool]
"""Whether the user wants a task done again, given its entry in the ledger and its footprint."""


class Mark(NamedTuple):
    """How an entry is to be changed; there may be millions, so nothing is held that the entry itself says."""

    key: str
    outcome: Outcome
    digest: str | None = None
    """None: as it is, and so below."""
    changes: dict[str, Any] | None = None
    restore: bool | None = None

    def applied(self, entry: TaskReport) -> TaskReport:
        """The entry as it is to be written."""
        return replace(
            entry,
            outcome=self.outcome,
            digest=entry.digest if self.digest is None else self.digest,
            changes=entry.changes if self.changes is None else self.changes,
            restore=entry.restore if self.restore is None else self.restore,
        )


@dataclass(slots=True)
class Again:
    """What is to be done again."""

    chosen: list[str] = field(default_factory=list)
    """Keys of the tasks that the user chose."""
    changed: list[str] = field(default_factory=list)
    """Tasks that ended well with another configuration, other weights or another content of the source."""
    dependent: list[str] = field(default_factory=list)
    """Tasks that ended well and are to be done again only since they read what others write again."""
    forgotten: list[str] = field(default_factory=list)
    """Entries of tasks that the run does not have any more."""
    marks: list[list[Mark]] = field(default_factory=list)
    """What is to be written into entries, a list a generation."""


def find_stale(
    job: Job,
    *,
    stages: Sequence[Stage],
    ledger: Ledger,
    changed: Iterable[Region] = (),
    chosen: Chosen | None = None,
    changes: dict[str, Any] | None = None,
) -> Again:
    """Find out what is to be done again; touches nothing.

    Holds one page of the ledger at a time, and ends as soon as no page is left, so that neither what was never begun
    nor what all stands takes long.

    Args:
        job: the run as it is to be.
        stages: of the pipeline, in order.
        ledger: of the run.
        changed: parts of the source that are not any more what they were.
        chosen: what the user wants done again; None: nothing.
        changes: configuration values that are to hold for the chosen tasks alone, by dotted key.
    """
    again, altered = Again(), RegionSet()
    altered.add(changed)
    pages = {stage.NAME: set(ledger.pages(stage.NAME)) for stage in stages}
    begun = [i for i, stage in enumerate(stages) if pages[stage.NAME]]
    redone = RegionSet()
    for stage in stages[: begun[-1] + 1] if begun else ():
        left = pages[stage.NAME]
        for generation in stage.generations(job):
            again.marks.append([])
            for page, tasks in groupby(generation, key=lambda task: page_of(task.key)):
                entries = ledger.entries(page) if page in left else {}
                left.discard(page)
                for task in tasks:
                    entry = entries.pop(task.key, None)
                    _judge(task, entry, stage.footprint, redone, altered, again, chosen, changes)
                again.forgotten += sorted(entries)
                if chosen is None and not any(pages.values()):
                    return again  # nothing is left that could stand on what is done again
        for page in sorted(left):
            again.forgotten += sorted(ledger.entries(page))
        left.clear()
    return again


def mark_stale(again: Again, ledger: Ledger) -> None:
    """Write down what was found, the last generations first."""
    for key in reversed(again.forgotten):
        ledger.delete(key)
    for marks in reversed(again.marks):
        for page, changed in groupby(marks, key=lambda mark: page_of(mark.key)):
            entries = ledger.entries(page)
            found = ((mark, entries.get(mark.key)) for mark in changed)
            ledger.replace_all(mark.applied(entry) for mark, entry in found if entry is not None)


def _judge(
    task: Task,
    entry: TaskReport | None,
    footprint_of: Callable[[Task], Footprint],
    redone: RegionSet,
    altered: RegionSet,
    again: Again,
    chosen: Chosen | None,
    changes: dict[str, Any] | None,
) -> None:
    current = entry is not None and entry.digest == task.digest
    if current and entry is not None and entry.outcome.stands and chosen is None and not altered and not redone:
        return
    footprint = footprint_of(task)
    current = current and not altered.meets(footprint.reads)
    stands = entry is not None and current and entry.outcome.stands
    wanted = chosen is not None and chosen(task, entry, footprint)
    reads_redone = redone.meets(footprint.reads)
    if wanted:
        again.chosen.append(task.key)
    restored = entry is not None and current and entry.restore
    # Where the user chooses, what failed and was not chosen stays as it is.
    left_alone = restored or (
        chosen is not None and entry is not None and current and entry.outcome is Outcome.FAILED and not wanted
    )
    if reads_redone or not (stands or left_alone) or (wanted and not restored):
        redone.add(footprint.writes)
    if entry is None:
        return
    if wanted and (stands or changes):
        # An entry that failed keeps its cause, so that the same command chooses it again if this one is interrupted.
        outcome = Outcome.STALE if stands else entry.outcome
        kept = {**(entry.changes if current else {}), **(changes or {})}
        again.marks[-1].append(Mark(task.key, outcome, digest=task.digest, changes=kept))
    elif entry.outcome.stands and not current:
        again.changed.append(task.key)
        again.marks[-1].append(Mark(task.key, Outcome.STALE, changes={}))
    elif stands and reads_redone:
        again.dependent.append(task.key)
        again.marks[-1].append(Mark(task.key, Outcome.STALE))
    elif entry.restore and reads_redone:
        again.marks[-1].append(Mark(task.key, Outcome.STALE, restore=False))
