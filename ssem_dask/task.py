"""A task: one unit of work of one stage, what it reads and writes, and how it ended.

A task is small, frozen and picklable: it carries URLs and boxes, never arrays. It owns whole shards of what it writes,
so no two tasks ever write the same file, and running it twice on one kind of device writes the same result.

Definitions, used by all of the package:

- A task is *done* if its ledger entry has the digest of the current configuration and `Outcome.is_done`: its outcome is
  neither failed nor stale. Every other task is *pending*.
- An entry is *stale* if it was marked so: something that its task read is recomputed, or the user asked for it.
- An entry with another digest is *outdated*: it was made by another configuration, and counts as none.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands such as `status` read the ledger without loading numpy
    from ssem_dask.geometry.region import Footprint, Region

_BOX_KEY = re.compile(r"/(?:mip\d+-)?z(\d+)-y(\d+)-x(\d+)$")


class Outcome(StrEnum):
    """The ending of a task. Every outcome but `FAILED` and `STALE` is expected, and its output is usable."""

    OK = "ok"
    NO_TISSUE = "no_tissue"
    LOW_QUALITY = "low_quality"
    FAILED = "failed"
    STALE = "stale"
    """The task ended well but must run again: something that it read is recomputed, or the user asked for it."""

    @property
    def is_done(self) -> bool:
        """Whether the task need not run again, as long as its digest is the current one."""
        return self not in (Outcome.FAILED, Outcome.STALE)


class Cause(StrEnum):
    """The reason why a task failed."""

    BAD_INPUT = "bad_input"
    """An input is missing, damaged or of the wrong kind."""
    OUT_OF_MEMORY = "out_of_memory"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    WORKER_LOST = "worker_lost"
    """Every worker that ran the task died, also one that ran it alone. A worker killed for memory looks the same."""
    TIMEOUT = "timeout"
    """The task missed its deadline twice."""
    IO = "io"
    """A disk, a network or a store failed."""
    SUPERSEDED = "superseded"
    """Another driver has taken the run over: the task wrote nothing, or wrote over the result of the newer driver."""
    BUG = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """One unit of work. A subclass says what it does (`run`) and, beside it, what it reads and writes (`footprint`)."""

    key: str
    """Unique key in the run, `stage/…`. It names the ledger entry."""
    output: str
    """URL of the Zarr group that the task writes to and that holds the ledger."""
    digest: str
    """Digest of the configuration that determines the result: a ledger entry with another digest is outdated."""
    pixels: int
    """Source pixels (mip 0) that the task covers; the unit of the progress rate."""
    uses_gpu: bool = False
    """Whether the task computes on a GPU if its worker has one."""
    attempt: int = 1
    """Number of starts, this one included. A start that ended with the worker's death does not count."""
    lost: int = 0
    """Number of times that the task's worker died, or was preempted, before this start."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Configuration values that hold for this task alone: (dotted key, value)."""

    @property
    def stage(self) -> str:
        """Name of the task's stage."""
        return self.key.split("/", 1)[0]

    @abstractmethod
    def run(self) -> "Result":
        """Read, compute, write."""

    @abstractmethod
    def footprint(self) -> "Footprint":
        """Return what the task reads and writes. It may name more than the task reads, never less."""

    def reached_by_fixes(self, region: "Region") -> "tuple[Region, ...]":
        """Return the parts of a region that the task writes that may change if nothing but the user's fixes has."""
        return (region,)

    def files(self) -> dict[str, int]:
        """Return the files that the task has written, as path below `output` → bytes; empty if they are not recorded.

        A recorded file is deleted before a retry, since writing a part of a torn shard would read it first.
        """
        return {}

    def damage(self, files: dict[str, int]) -> str:
        """Read everything that the task has written.

        Args:
            files: files listed in the task's ledger entry, with their bytes.

        Returns:
            A sentence on the first missing or damaged file; empty if there is none.
        """
        del files
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An expected ending of `Task.run`, with one line for the user if there is something to report."""

    outcome: Outcome = Outcome.OK
    message: str = ""
    bytes_read: int = 0
    bytes_written: int = 0
    clipped: int = 0
    """Pixels of which a change of contrast exceeded the range of the data type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """The ledger's record of one ended task."""

    key: str
    digest: str
    outcome: Outcome
    cause: Cause | None = None
    message: str = ""
    attempts: int = 1
    """Number of starts up to this end. A start that ended with the worker's death does not count."""
    lost: int = 0
    """Number of times that the task's worker died or was preempted."""
    worker: str = ""
    """host:process that ran the task."""
    started: str = ""
    """UTC time, ISO 8601."""
    seconds: float = 0.0
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    clipped: int = 0
    """Pixels of which a change of contrast exceeded the range of the data type."""
    files: dict[str, int] = field(default_factory=dict)
    """Files that the task wrote: path in the run → bytes."""
    log: str = ""
    """Last lines of the traceback of a failed task."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Configuration values that held for this task alone, by dotted key."""
    restore: bool = False
    """Whether the task ended well but its output was damaged afterwards. The output is written again. Results made from
    it stay valid, since nothing can be read through a wrong checksum."""

    @property
    def stage(self) -> str:
        """Name of the task's stage."""
        return self.key.split("/", 1)[0]


def stage_part(digest: str) -> str:
    """Return the part of a task's digest that is that of its stage; the rest is the volume's end and fixes."""
    return without_fixes(digest).partition("~")[0]


def without_fixes(digest: str) -> str:
    """Return a task's digest without the part that is that of fixes of the user."""
    return digest.partition("+")[0]


def box_name(start: tuple[int, int, int], *, mip: int | None = None) -> str:
    """Return the name of a task that covers a box; its key is `stage/name`.

    Args:
        start: first (z, y, x) of the box.
        mip: its scale level, if the stage has boxes at several levels.
    """
    level = "" if mip is None else f"mip{mip}-"
    return f"{level}z{start[0]:06d}-y{start[1]:07d}-x{start[2]:07d}"


def box_start(key: str) -> tuple[int, int, int] | None:
    """Return the start (z, y, x) that `box_name` put into a key, or None if the key is not of that form."""
    match = _BOX_KEY.search(key)
    if match is None:
        return None
    z, y, x = (int(number) for number in match.groups())
    return z, y, x
