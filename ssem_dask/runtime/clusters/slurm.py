"""`--cluster slurm`: the scheduler runs in the driver, the workers in batch jobs that end with it."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dask
from dask.utils import parse_bytes
from distributed import Client
from distributed.security import Security
from distributed.utils import silence_logging_cmgr

from ssem_dask.errors import ConfigError
from ssem_dask.extras import require_extra
from ssem_dask.runtime.clusters.certificates import make_certificates
from ssem_dask.runtime.clusters.cluster_config import (
    SMALLER_TASKS,
    ClusterConfig,
    SlurmConfig,
    worker_processes,
    worker_threads,
)
from ssem_dask.runtime.clusters.job_record import JobRecord, cancel_orphaned_jobs, state_folder
from ssem_dask.runtime.clusters.security import named_security
from ssem_dask.runtime.clusters.slurm_commands import refuse_unacceptable, require_commands
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.pool import Pool
from ssem_dask.units import plural

if TYPE_CHECKING:
    from ssem_dask.runtime.clusters.keeper import Keeper

_WAIT_MINUTES = 24 * 60.0
_ALLOWED_DEATHS = 3
"""Workers that may die while they run a task before the task is suspected: jobs may also be preempted."""


class SlurmExecutor(DaskExecutor):
    """Runs tasks in batch jobs, and cancels the jobs when it is closed."""

    def __init__(
        self,
        client: Client,
        *,
        keeper: "Keeper",
        record: JobRecord,
        resources: Mapping[str, float],
        deadline: float | None,
        pool: Pool,
    ) -> None:
        super().__init__(client, resources=resources, deadline=deadline, pool=pool)
        self._keeper, self._record = keeper, record

    def close(self) -> None:
        """Stop the scheduler and cancel every job."""
        try:
            self._keeper.stop()
            # Dask may log workers that lose their scheduler during the shutdown as errors.
            with silence_logging_cmgr(logging.CRITICAL):
                super().close()
        finally:
            self._record.end()


def start_slurm(
    settings: ClusterConfig, *, workers: int | None, task_memory: int, note: Callable[[str], None]
) -> SlurmExecutor:
    """Submit jobs, and wait for the first worker.

    Args:
        settings: the `[cluster]` table; its name and workers are ignored.
        workers: number of workers, rounded up to whole jobs. None: one job.
        task_memory: bytes that the largest task holds; 0 if unknown.
        note: receives messages about the jobs.

    Raises:
        ConfigError: SLURM is not installed or refuses the jobs, a worker would be too small, or none reports in time.
    """
    config = settings.slurm
    require_commands()
    ctrl_c = signal.getsignal(signal.SIGINT)
    require_extra("slurm", purpose="--cluster slurm")
    try:
        from ssem_dask.runtime.clusters.dashboard import refuse_foreign_pages
        from ssem_dask.runtime.clusters.keeper import Keeper
        from ssem_dask.runtime.clusters.slurm_cluster import make_cluster
    finally:
        # Importing dask-jobqueue makes Ctrl-C end the process with exit code 0.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, ctrl_c)
    processes = worker_processes(config)
    jobs = math.ceil((workers or processes) / processes)
    refuse_small_jobs(config, task_memory=task_memory)
    orphans = cancel_orphaned_jobs()
    if orphans:
        note(f"slurm: cancelled {', '.join(orphans)}, left behind by a run that was killed")
    logs = Path(config.logs).expanduser() if config.logs else state_folder() / "logs"
    dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_DEATHS})
    record = JobRecord.begin()
    keeper, cluster, client = None, None, None
    try:
        cluster = make_cluster(config, name=record.name, security=_security(settings.tls, record), logs=logs)
        refuse_unacceptable(cluster.job_script())
        keeper = Keeper(cluster, jobs=jobs, record=record, seconds=config.check_seconds, logs=logs, note=note)
        client = Client(cluster)
        refuse_foreign_pages(cluster.scheduler)
        keeper.start()
        note(
            f"slurm: submitted {plural(jobs, 'job')} of {plural(processes, 'worker')} named {record.name}; "
            "waiting for the first"
        )
        _wait(client, keeper, minutes=settings.wait_minutes or _WAIT_MINUTES)
    except BaseException:
        for part, stop in ((keeper, "stop"), (client, "close"), (cluster, "close")):
            if part is not None:
                getattr(part, stop)()
        record.end()
        raise
    pool = Pool(partial(_resize, keeper, processes), workers or processes, settings.stage_workers)
    return SlurmExecutor(
        client, keeper=keeper, record=record, resources=settings.resources, deadline=settings.deadline, pool=pool
    )


def _resize(keeper: "Keeper", processes: int, workers: int) -> None:
    keeper.resize(math.ceil(workers / processes))


def _security(tls: str | None, record: JobRecord) -> Security:
    named = named_security(tls)
    if named is not None:
        return named
    temporary = record.folder / "tls"
    make_certificates(str(temporary), days=60)
    security = named_security(str(temporary))
    assert security is not None
    return security


def _wait(client: Client, keeper: "Keeper", *, minutes: float) -> None:
    deadline = time.monotonic() + 60 * minutes
    while not client.scheduler_info(n_workers=1)["workers"]:
        if keeper.failure:
            raise ConfigError(f"--cluster slurm: {keeper.failure}; fix [cluster.slurm] or the nodes.")
        if time.monotonic() > deadline:
            raise ConfigError(
                f"--cluster slurm: no job started within {minutes:g} min; see `squeue --me` for the reason, ask for "
                "less in [cluster.slurm], or set [cluster] wait_minutes higher."
            )
        time.sleep(0.5)


def refuse_small_jobs(config: SlurmConfig, *, task_memory: int) -> None:
    """Raise ConfigError if one of a job's threads has less memory than the largest task holds."""
    threads = worker_processes(config) * worker_threads(config)
    try:
        share = parse_bytes(config.memory) // threads
    except ValueError as error:
        raise ConfigError(f"[cluster.slurm] memory = {config.memory!r}: {error}; write for example '16 GB'.") from error
    if share < task_memory:
        raise ConfigError(
            f"[cluster.slurm] memory = {config.memory!r}: {share / 1e9:.2f} GB for each of a job's "
            f"{plural(threads, 'thread')}, but the largest task needs {task_memory / 1e9:.2f} GB; ask for more "
            f"memory or fewer cores, or {SMALLER_TASKS}."
        )
