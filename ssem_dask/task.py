"""A task: one unit of work of one stage, and how it ended.

A task is small, frozen and picklable: it carries URLs and boxes, never arrays. It owns whole shards of what it writes,
so no two tasks ever write the same file, and running it twice writes the same result.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_BOX_KEY = re.compile(r"/(?:mip\d+-)?z(\d+)-y(\d+)-x(\d+)$")


class Outcome(StrEnum):
    """How a task ended. Everything but `FAILED` and `STALE` is an expected ending, its output can be used as it is."""

    OK = "ok"
    NO_TISSUE = "no_tissue"
    LOW_QUALITY = "low_quality"
    FAILED = "failed"
    STALE = "stale"
    """It ended well, but what it was made from is made again, or the user asked for it: it is to be done again."""

    @property
    def stands(self) -> bool:
        """Whether the task need not be done again."""
        return self not in (Outcome.FAILED, Outcome.STALE)


class Cause(StrEnum):
    """Why a task failed."""

    BAD_INPUT = "bad_input"
    """What it reads is missing, damaged or not what it should be."""
    OUT_OF_MEMORY = "out_of_memory"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    WORKER_LOST = "worker_lost"
    """Its workers died, also when it ran alone; killed for memory looks the same."""
    TIMEOUT = "timeout"
    """It did not end before its deadline, twice."""
    IO = "io"
    """A disk, a network or a store did not do its part."""
    BUG = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Base of the stages' tasks."""

    key: str
    """Unique in the run: `stage/…`; names the ledger entry."""
    output: str
    """URL of the run's Zarr group."""
    digest: str
    """Digest of all that decides the result: a ledger entry with another digest is stale."""
    pixels: int
    """Source pixels (mip 0) that the task covers; the unit of the progress rate."""
    attempt: int = 1
    """How often it has been started, this time included; times that ended with its worker's death do not count."""
    lost: int = 0
    """How often its worker died, or was preempted, before this time."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Configuration values that hold for this task alone: (dotted key, value)."""

    @property
    def stage(self) -> str:
        """Name of the stage the task belongs to."""
        return self.key.split("/", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a stage's `run` returns: an expected ending, with one line for the user where there is something to say."""

    outcome: Outcome = Outcome.OK
    message: str = ""
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """The ledger's record of one ended task."""

    key: str
    digest: str
    outcome: Outcome
    cause: Cause | None = None
    message: str = ""
    attempts: int = 1
    """How often the task ran until this end; a worker's death is not an attempt of the task's."""
    lost: int = 0
    """How often the task's worker died or was preempted."""
    worker: str = ""
    """host:process that ran it."""
    started: str = ""
    """UTC time, ISO 8601."""
    seconds: float = 0.0
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    files: dict[str, int] = field(default_factory=dict)
    """Files that it wrote, by their path in the run, and their bytes."""
    log: str = ""
    """Last lines of the traceback of a failed task."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Configuration values that held for this task alone, by dotted key."""
    restore: bool = False
    """It ended well, but what it wrote was damaged afterwards: it is written again, and what was made from it stands,
    since nothing can be read through a wrong checksum."""

    @property
    def stage(self) -> str:
        """Name of the stage the task belonged to."""
        return self.key.split("/", 1)[0]


def box_key(stage: str, start: tuple[int, int, int], *, mip: int | None = None) -> str:
    """Return the key of a task that covers a box.

    Args:
        stage: name of its stage.
        start: first (z, y, x) of the box.
        mip: its scale level, if the stage has boxes at several levels.
    """
    level = "" if mip is None else f"mip{mip}-"
    return f"{stage}/{level}z{start[0]:06d}-y{start[1]:07d}-x{start[2]:07d}"


def box_start(key: str) -> tuple[int, int, int] | None:
    """Return the start (z, y, x) that `box_key` put into a key, or None if the key is not of that form."""
    match = _BOX_KEY.search(key)
    if match is None:
        return None
    z, y, x = (int(number) for number in match.groups())
    return z, y, x
