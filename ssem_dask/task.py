"""A task: one unit of work of one stage, and how it ended.

A task is small, frozen and picklable: it carries URLs and boxes, never arrays. It owns whole shards of what it writes,
so no two tasks ever write the same file, and running it twice writes the same result.
"""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a task ended. Everything but `FAILED` is an expected ending, and its output can be used as it is."""

    OK = "ok"
    NO_TISSUE = "no_tissue"
    LOW_QUALITY = "low_quality"
    FAILED = "failed"


class Cause(StrEnum):
    """Why a task failed."""

    BAD_INPUT = "bad_input"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    IO = "io"
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
    worker: str = ""
    started: str = ""
    """UTC time, ISO 8601."""
    seconds: float = 0.0
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    log: str = ""
    """Last lines of the traceback of a failed task."""

    @property
    def stage(self) -> str:
        """Name of the stage the task belonged to."""
        return self.key.split("/", 1)[0]
