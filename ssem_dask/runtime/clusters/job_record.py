"""Record of a driver's batch jobs, written before the first one is submitted.

A driver that ends, also by Ctrl-C or a signal, cancels its jobs and removes its record. A driver that is killed cannot:
its record remains, and the next driver cancels the jobs that it names. The workers of a dead driver also end by
themselves, within the death timeout; the record is needed for jobs that have not started.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import psutil
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from ssem_dask.runtime.clusters.slurm_commands import cancel_jobs, live_jobs
from ssem_dask.storage.untrusted import read_hint

_CANCEL_SECONDS = 90.0  # above SLURM's usual KillWait of 30 s


@dataclass(frozen=True, slots=True)
class Driver:
    """A process, distinguished from any later one with the same id."""

    host: str
    pid: Annotated[int, Field(gt=0, lt=1 << 31)]
    started: float
    """Seconds since 1970."""
    job: str | None
    """SLURM job that the driver itself runs in."""

    @classmethod
    def this(cls) -> "Driver":
        """Return the driver in this process."""
        pid = os.getpid()
        started = psutil.Process(pid).create_time()
        return cls(host=socket.gethostname(), pid=pid, started=started, job=os.environ.get("SLURM_JOB_ID"))

    def is_known_to_be_dead(self) -> bool:
        """Return whether the process has certainly ended; False on another machine, where that is unknown."""
        if self.host != socket.gethostname():
            return False
        try:
            started = float(psutil.Process(self.pid).create_time())
        except psutil.NoSuchProcess:
            return True
        return abs(started - self.started) > 1.0


class _StoredRecord(TypedDict):
    name: str
    driver: Driver


_STORED = TypeAdapter(_StoredRecord)


class JobRecord:
    """Record of this driver's jobs: a folder with a file, and with the run's temporary certificates."""

    def __init__(self, folder: Path, *, name: str, driver: Driver) -> None:
        self.folder, self.name, self._driver = folder, name, driver
        self._ids: list[str] = []

    @classmethod
    def begin(cls) -> "JobRecord":
        """Write the record of a driver that has no jobs yet."""
        name = f"ssem-dask-{uuid4().hex[:10]}"
        record = cls(state_folder() / "runs" / name, name=name, driver=Driver.this())
        record.folder.mkdir(parents=True, mode=0o700)
        record._write()
        return record

    def keep(self, ids: Iterable[str]) -> None:
        """Add job ids."""
        new = [job for job in ids if job not in self._ids]
        if new:
            self._ids += new
            self._write()

    def end(self) -> bool:
        """Cancel the jobs, and delete the record once none is left; return False if some remain."""
        gone = cancel_jobs(self.name, seconds=_CANCEL_SECONDS)
        if gone:
            shutil.rmtree(self.folder, ignore_errors=True)
        return gone

    def _write(self) -> None:
        draft = self.folder / "jobs.json.new"
        draft.write_text(json.dumps({"name": self.name, "driver": asdict(self._driver), "ids": self._ids}, indent=1))
        draft.replace(self.folder / "jobs.json")


def cancel_orphaned_jobs() -> list[str]:
    """Cancel the jobs of drivers that have ended; return the ids of those that still waited or ran."""
    ended: list[str] = []
    for file in sorted((state_folder() / "runs").glob("*/jobs.json")):
        stored = read_hint(str(file), _STORED)
        if stored is None:
            continue  # another driver is writing or removing it
        record = JobRecord(file.parent, name=stored["name"], driver=stored["driver"])
        if record._driver.is_known_to_be_dead():
            live = live_jobs(record.name) or {}
            if record.end():
                ended += sorted(live)
    return ended


def state_folder() -> Path:
    """Return the folder for records and logs of batch jobs, which login and worker nodes share."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ssem-dask" / "slurm"
