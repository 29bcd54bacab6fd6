"""Keeps the number of a run's batch jobs: looks now and then, and replaces what ended.

A job that ends before any of its workers reported is broken rather than unlucky: replacing such ones slows down, and
while no worker has ever reported it stops after a few.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ssem_dask.runtime.clusters.job_record import JobRecord
from ssem_dask.runtime.clusters.slurm_cluster import ReplacingCluster
from ssem_dask.runtime.clusters.slurm_commands import live_jobs
from ssem_dask.units import plural

_BROKEN_JOBS = 3
_LONGEST_PAUSE_SECONDS = 600.0


class Keeper:
    """A thread beside the run."""

    def __init__(
        self,
        cluster: ReplacingCluster,
        *,
        jobs: int,
        record: JobRecord,
        seconds: float,
        logs: Path,
        note: Callable[[str], None],
    ) -> None:
        """Take charge of a cluster that has no jobs yet.

        Args:
            cluster: submits the jobs.
            jobs: how many there shall be.
            record: told of every job id.
            seconds: between two looks.
            logs: folder of the jobs' output.
            note: told of every job that is replaced.
        """
        self._cluster, self._jobs, self._record, self._logs = cluster, jobs, record, logs
        self._seconds, self._note = seconds, note
        self._reported: set[str] = set()
        self._broken = 0
        self._pause_until = 0.0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="slurm jobs", daemon=True)
        self.failure: str | None = None
        """Why there will be no workers, once that is certain."""

    def start(self) -> None:
        """Submit the jobs, and watch them until `stop`."""
        self._cluster.scale(jobs=self._jobs)
        self._thread.start()

    def resize(self, jobs: int) -> None:
        """Submit further jobs, or cancel some."""
        self._note(f"slurm: {self._jobs} → {plural(jobs, 'job')}")
        with self._lock:
            self._jobs = jobs
            self._cluster.scale(jobs=jobs)

    def stop(self) -> None:
        """Replace nothing any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        with self._lock:
            self._replace()

    def _replace(self) -> None:
        submitted = self._cluster.job_ids()  # before squeue: a job of a moment later must not count as ended
        self._record.keep(job for job in submitted.values() if job)
        self._reported.update(name for name in submitted if self._cluster.has_workers_of(name))
        live = live_jobs(self._record.name)
        if live is None or self.failure or time.monotonic() < self._pause_until:
            return
        ended = [name for name, job in submitted.items() if job not in live]
        broken = [name for name in ended if name not in self._reported]
        if any(name in self._reported for name in submitted if name not in ended):
            self._broken = 0
        if broken:
            self._broken += len(broken)
            self._pause_until = time.monotonic() + min(_LONGEST_PAUSE_SECONDS, self._seconds * 2.0**self._broken)
        if self._broken >= _BROKEN_JOBS and not self._reported:
            self.failure = f"{self._broken} jobs ended before a worker reported{self._last_words(submitted)}"
            return
        self._cluster.replace(ended, jobs=self._jobs)
        if ended:
            ids = ", ".join(submitted[name] or "(not submitted)" for name in ended)
            self._note(f"slurm: {ids} ended before the run did; replaced")

    def _last_words(self, submitted: dict[str, str | None]) -> str:
        """The last line that one of the jobs wrote."""
        for job in submitted.values():
            path = self._logs / f"{self._record.name}-{job}.err"
            lines = path.read_text(errors="replace").split("\n") if path.exists() else []
            for line in reversed(lines):
                if line.strip():
                    return f" ({path}: {line.strip()})"
        return f" (their output, if any, is in {self._logs})"
