"""Keep the number of a run's batch jobs constant: poll SLURM, and replace jobs that ended.

A job that ends before any of its workers reported is broken rather than unlucky. Replacing such jobs slows down by
exponential backoff, and stops after a few of them if no worker has ever reported.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ssem_dask.runtime.clusters.job_record import JobRecord
from ssem_dask.runtime.clusters.slurm_cluster import ReplacingCluster
from ssem_dask.runtime.clusters.slurm_commands import live_jobs
from ssem_dask.units import plural

_MAX_BROKEN_JOBS = 3
_LONGEST_PAUSE_SECONDS = 600.0


class Keeper:
    """A thread that replaces batch jobs while a run is driven."""

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
            jobs: number of jobs to keep.
            record: stores every job id.
            seconds: seconds between two polls.
            logs: folder of the jobs' output.
            note: receives a message about every job that is replaced.
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
        """Reason why there will be no workers; None while there may be."""

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
        """Stop replacing jobs."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            with self._lock:
                self._replace()

    def _replace(self) -> None:
        submitted = self._cluster.job_ids()  # before squeue: a job submitted in between must not count as ended
        self._record.keep(job for job in submitted.values() if job)
        self._reported.update(name for name in submitted if self._cluster.has_workers_of(name))
        live = live_jobs(self._record.name)
        if live is None or self.failure or time.monotonic() < self._pause_until:
            return
        ended = [name for name, job in submitted.items() if job not in live]
        self._count_broken(submitted, ended)
        if self._broken >= _MAX_BROKEN_JOBS and not self._reported:
            self.failure = f"{self._broken} jobs ended before a worker reported{self._last_log_line(submitted)}"
            return
        self._cluster.replace(ended, jobs=self._jobs)
        if ended:
            ids = ", ".join(submitted[name] or "(not submitted)" for name in ended)
            self._note(f"slurm: {ids} ended before the run did; replaced")

    def _count_broken(self, submitted: Iterable[str], ended: list[str]) -> None:
        """Count the jobs that ended before a worker reported, and pause before the next replacement."""
        if any(name in self._reported for name in submitted if name not in ended):
            self._broken = 0
        broken = [name for name in ended if name not in self._reported]
        if broken:
            self._broken += len(broken)
            self._pause_until = time.monotonic() + min(_LONGEST_PAUSE_SECONDS, self._seconds * 2.0**self._broken)

    def _last_log_line(self, submitted: dict[str, str | None]) -> str:
        """Return the last line that one of the jobs wrote to its log."""
        for job in submitted.values():
            path = self._logs / f"{self._record.name}-{job}.err"
            lines = path.read_text(errors="replace").split("\n") if path.exists() else []
            for line in reversed(lines):
                if line.strip():
                    return f" ({path}: {line.strip()})"
        return f" (their output, if any, is in {self._logs})"
