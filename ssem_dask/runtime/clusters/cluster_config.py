"""The `[cluster]` table: where the tasks run. Nothing in it decides a result, so none of it is part of a digest."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.placement import GPU_THREADS
from ssem_dask.types import ConfigBase

OF_THIS_MACHINE = ("serial", "local", "local-gpu")
"""Clusters that need nothing but this machine."""
SMALLER_TASKS = "make tasks smaller ([register] window; for a warp [render] shard; for an export --chunk)"
"""Advice in messages about workers with too little memory."""


class SlurmConfig(ConfigBase):
    """Jobs that `--cluster slurm` submits. A job is a batch of workers on one node: one a GPU, or one a core."""

    partition: str | None = None
    """None: the site's default."""
    account: str | None = None
    """None: your default account."""
    walltime_minutes: int = Field(default=240, ge=1)
    """Time limit of a job. Its workers leave a little earlier, each at another time, and a new job takes its place."""
    cores: int = Field(default=4, ge=1)
    """CPU cores of a job."""
    memory: str = "16 GB"
    """Memory of a job, shared evenly by its workers."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a job, as `--gres=gpu:N`."""
    modules: tuple[str, ...] = ()
    """Environment modules that a job loads."""
    prologue: tuple[str, ...] = ()
    """Shell lines that a job runs before its workers."""
    image: str | None = None
    """Apptainer image that the workers run in; None: the Python that runs this command, which nodes must see."""
    image_options: tuple[str, ...] = ()
    """Words after `apptainer exec`, e.g. `["--bind", "/scratch"]`."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` options, e.g. `["--constraint=a100"]`."""
    interface: str | None = None
    """Network interface between scheduler and workers, e.g. `ib0`; None: the one of the default route."""
    scratch: str = "${TMPDIR:-/tmp}"
    """Folder on a node for what workers spill; the job's shell expands it."""
    logs: str | None = None
    """Folder for the jobs' output; None: `~/.local/state/ssem-dask/slurm/logs`."""
    check_seconds: float = Field(default=30.0, gt=0)
    """How often `squeue` is asked whether a job ended and must be replaced."""


class ClusterConfig(ConfigBase):
    """Where the tasks run; not part of the digest."""

    name: str = "local"
    """`serial`, `local`, `local-gpu`, `slurm`, or the address of a Dask scheduler (`tls://host:8786`)."""
    workers: int | None = Field(default=None, ge=1)
    """Workers; None: one a core with `local`, those of one job with `slurm`. With `local-gpu` the number of GPUs to
    use; None: all. A scheduler by address has its own."""
    gpu_workers: int | None = Field(default=None, ge=1)
    """Worker processes that share each GPU with `local-gpu`; None: one for each 5 cores that a GPU has, at most 3
    and no more than its memory holds: each has its own part of it, of three tasks as `plan` states them."""
    stage_workers: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    """Workers while a stage runs, where not `workers`, e.g. `{ register = 40, compose = 4 }`; for `local` and
    `slurm`."""
    tls: str | None = None
    """Folder made by `ssem-dask certs`; None: that of `$SSEM_DASK_TLS`, else what Dask's own configuration names."""
    resources: dict[str, float] = Field(default={})
    """Labels a worker must have to be given tasks, with the amount that a task takes, e.g. `{ GPU = 1 }`."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds that a task may run: then its worker is restarted and the task given out again; the second time it has
    failed. None: 20 times the longest of its stage so far, at least 10 min."""
    wait_minutes: float | None = Field(default=None, gt=0)
    """Longest wait for the first worker; None: 10 minutes, and a day with `slurm`, where jobs queue."""
    slurm: SlurmConfig = SlurmConfig()

    def remembered(self) -> dict[str, Any]:
        """What a run keeps of it: not the rest, which may hold what is no business of those who can read the run."""
        return {"name": self.name, "workers": self.workers}


def remembered_cluster(run: str, kept: Mapping[str, Any]) -> ClusterConfig:
    """The cluster that a run was begun on, as far as that may be taken from a store.

    Whoever can write to a store must not be able to choose what runs on this machine: neither the shell lines of batch
    jobs, nor a scheduler that is sent tasks and answers them. So only clusters of this machine are.

    Args:
        run: URL, for the message.
        kept: as `ClusterConfig.remembered` made it.

    Raises:
        ConfigError: the user must say where to run.
    """
    name, workers = kept.get("name", "local"), kept.get("workers")
    if name not in OF_THIS_MACHINE:
        raise ConfigError(
            f"Run {run}: was begun with --cluster {name}, and where a command runs is not taken from a store that "
            "others may have written; give --cluster."
        )
    return ClusterConfig(name=str(name), workers=workers if isinstance(workers, int) and workers > 0 else None)


def worker_processes(config: SlurmConfig) -> int:
    """Workers of one job."""
    return config.gpus or config.cores


def worker_threads(config: SlurmConfig) -> int:
    """Threads of a worker."""
    return GPU_THREADS if config.gpus else 1
