"""dask-jobqueue's SLURM cluster, extended to replace jobs that ended.

dask-jobqueue submits the jobs that `scale` requests only once: a job that is cancelled, preempted, out of time, or dead
before its workers reported is not submitted again.
"""

import shlex
import sys
from itertools import count
from pathlib import Path
from typing import Any

from dask_jobqueue import SLURMCluster
from distributed.security import Security

from ssem_dask.runtime.clusters.cluster_config import SlurmConfig, worker_processes, worker_threads

DEATH_TIMEOUT_SECONDS = 60
"""Seconds without a scheduler after which a worker, and with it its job, ends by itself."""


class ReplacingCluster(SLURMCluster):  # type: ignore[misc]  # dask-jobqueue is untyped
    """A scheduler in this process, and jobs with workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._numbers = count()
        super().__init__(*args, **kwargs)

    def _new_worker_name(self, _number: int) -> str:
        # The scheduler refuses a second worker of the same name, and may learn late that the first one has ended.
        return f"{self._name}-{next(self._numbers)}"

    def job_ids(self) -> dict[str, str | None]:
        """Return the job id by job name; None if submitting failed."""
        return {str(name): job.job_id for name, job in list(self.workers.items())}

    def has_workers_of(self, name: str) -> bool:
        """Return whether a worker of a job has reported."""
        known = [str(worker["name"]) for worker in self.scheduler_info["workers"].values()]
        return any(worker == name or worker.startswith(f"{name}-") for worker in known)

    def replace(self, ended: list[str], *, jobs: int) -> None:
        """Forget jobs that ended, and submit until there are `jobs`."""

        async def swap() -> None:
            for name in ended:
                self.workers.pop(name, None)
                self.worker_spec.pop(name, None)
            self.scale(jobs=jobs)

        self.sync(swap)


def make_cluster(config: SlurmConfig, *, name: str, security: Security, logs: Path) -> ReplacingCluster:
    """Start the scheduler; submits no job yet.

    Args:
        config: the `[cluster.slurm]` table.
        name: name of the jobs.
        security: certificates in files that the nodes see too.
        logs: folder for the jobs' output.
    """
    processes = worker_processes(config)
    stagger = min(600.0, 6.0 * config.walltime_minutes)  # seconds; a tenth of the walltime
    lifetime = 60.0 * config.walltime_minutes - 2 * stagger
    arguments = ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]
    arguments += ["--dashboard-address", "127.0.0.1:0"]  # it is not encrypted
    if config.gpus:
        arguments += ["--resources", "GPU=1"]
        for preload in ("assign_gpu", "warm_gpu"):
            arguments += ["--preload", f"ssem_dask.runtime.clusters.{preload}"]
    return ReplacingCluster(
        name=name,
        job_name=name,
        queue=config.partition,
        account=config.account,
        walltime=str(config.walltime_minutes),
        cores=processes * worker_threads(config),
        processes=processes,
        job_cpu=config.cores,
        memory=config.memory,
        python=_python(config),
        interface=config.interface,
        security=security,
        worker_extra_args=arguments,
        death_timeout=DEATH_TIMEOUT_SECONDS,
        local_directory=config.scratch,
        log_directory=str(logs),
        job_script_prologue=[*(f"module load {shlex.quote(module)}" for module in config.modules), *config.prologue],
        job_extra_directives=[*([f"--gres=gpu:{config.gpus}"] if config.gpus else []), *config.directives],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )


def _python(config: SlurmConfig) -> str:
    if config.image is None:
        return shlex.quote(sys.executable)
    words = ["apptainer", "exec", *(["--nv"] if config.gpus else []), *config.image_options, config.image, "python"]
    return shlex.join(words)
