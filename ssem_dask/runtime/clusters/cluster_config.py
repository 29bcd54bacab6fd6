"""The `[cluster]` table: where the tasks run. It never changes results, so it is not part of a digest."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.placement import GPU_THREADS
from ssem_dask.types import ConfigBase, Place

CLUSTER_NAMES = ("serial", "local", "local-gpu", "slurm")
"""Clusters that have a name; any other is a scheduler's address."""
OF_THIS_MACHINE = ("serial", "local", "local-gpu")
"""Clusters that need nothing but this machine; only these are remembered in a run."""
RESIZABLE = ("local", "slurm")
"""Clusters whose number of workers can change between stages."""
SMALLER_TASKS = "make tasks smaller ([register] window; for a warp [render] shard; for an export --chunk)"
"""Advice in messages about workers with too little memory."""


class SlurmConfig(ConfigBase):
    """Jobs that `--cluster slurm` submits. A job holds the workers of one node: one per GPU, or one per core."""

    partition: str | None = None
    """None: the site's default."""
    account: str | None = None
    """None: your default account."""
    walltime_minutes: int = Field(default=240, ge=1)
    """Time limit of a job. Its workers end a little earlier, at different times, and a new job replaces it."""
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
    image: Place | None = None
    """Apptainer image of the workers; None: the Python that runs this command, which the nodes must see."""
    image_options: tuple[str, ...] = ()
    """Arguments after `apptainer exec`, e.g. `["--bind", "/scratch"]`."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` options, e.g. `["--constraint=a100"]`."""
    interface: str | None = None
    """Network interface between scheduler and workers, e.g. `ib0`; None: the one of the default route."""
    scratch: str = "${TMPDIR:-/tmp}"
    """Folder on a node for what workers spill; the job's shell expands it."""
    logs: Place | None = None
    """Folder for the jobs' output; None: `~/.local/state/ssem-dask/slurm/logs`."""
    check_seconds: float = Field(default=30.0, gt=0)
    """Seconds between two calls of `squeue`, which show whether a job ended and must be replaced."""

    @field_validator("scratch")
    @classmethod
    def _on_the_node(cls, scratch: str) -> str:
        if not scratch.startswith(("/", "$", "~")):
            raise ValueError("a folder on the nodes cannot be relative; begin it with / or a variable such as $TMPDIR")
        return scratch


class ClusterConfig(ConfigBase):
    """Where the tasks run; not part of the digest."""

    name: str = "local"
    """`serial`, `local`, `local-gpu`, `slurm`, or the address of a Dask scheduler (`tls://host:8786`)."""
    workers: int | None = Field(default=None, ge=1)
    """Workers; None: one per core with `local`, those of one job with `slurm`. With `local-gpu` the number of GPUs to
    use; None: all. A scheduler by address has its own workers."""
    gpu_workers: int | None = Field(default=None, ge=1)
    """Worker processes that share each GPU with `local-gpu`; None: one per core of each GPU, at most 16, and no more
    than its memory holds: each worker takes that of two tasks, as `plan` states it."""
    stage_workers: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    """Workers while a stage runs, instead of `workers`, e.g. `{ register = 40, compose = 4 }`; for `local` and
    `slurm`."""
    tls: Place | None = None
    """Folder made by `ssem-dask certs`; None: that of `$SSEM_DASK_TLS`, else what Dask's own configuration names."""
    resources: dict[str, float] = Field(default={})
    """Labels that a worker must have to run tasks, with the amount that a task takes, e.g. `{ GPU = 1 }`."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds that a task may run. Then its worker is restarted and the task is tried again; the second time it fails.
    None: 20 times the longest task of its stage so far, at least 10 min."""
    wait_minutes: float | None = Field(default=None, gt=0)
    """Longest wait for the first worker; None: 10 minutes, and a day with `slurm`, where jobs queue."""
    slurm: SlurmConfig = SlurmConfig()

    def remembered(self) -> dict[str, Any]:
        """Return the part that a run stores; the rest may be private, and others may read the run."""
        return {"name": self.name, "workers": self.workers}


def remembered_cluster(run: str, kept: object) -> ClusterConfig:
    """Return the cluster that a run was begun on, if it may be taken from a store.

    Whoever can write to a store must not be able to choose what runs on this machine: neither the shell lines of batch
    jobs, nor a scheduler that receives tasks. So only clusters of this machine are accepted.

    Args:
        run: URL of the run, for the message.
        kept: result of `ClusterConfig.remembered`, or whatever a store holds in its place.

    Raises:
        ConfigError: the user must name a cluster.
    """
    name, workers = (kept.get("name", "local"), kept.get("workers")) if isinstance(kept, Mapping) else (kept, None)
    if not isinstance(name, str) or name not in OF_THIS_MACHINE:
        raise ConfigError(
            f"Run {run}: was begun with --cluster {name}, and where a command runs is not taken from a store that "
            "others may have written; give --cluster."
        )
    return ClusterConfig(name=name, workers=workers if isinstance(workers, int) and workers > 0 else None)


def worker_processes(config: SlurmConfig) -> int:
    """Return the number of workers of one job."""
    return config.gpus or config.cores


def worker_threads(config: SlurmConfig) -> int:
    """Return the number of threads of a worker."""
    return GPU_THREADS if config.gpus else 1
