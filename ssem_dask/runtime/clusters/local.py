"""Workers on this machine: one per core, or some per GPU and others for the remaining cores.

They listen on the loopback address, which every user of the machine can reach. So they use TLS too, with a certificate
that exists only in memory and ends with the cluster.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import distributed.utils
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.dashboard import offer_dashboard, refuse_foreign_pages
from ssem_dask.runtime.clusters.devices import gpu_memory, visible_gpus
from ssem_dask.runtime.clusters.local_start import allow_open_files, start_or_refuse
from ssem_dask.runtime.deaths import note_death
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.fork_server import start_fork_server
from ssem_dask.runtime.placement import GPU, GPU_THREADS
from ssem_dask.runtime.pool import Pool

_HOST = "127.0.0.1"
_WARM = "ssem_dask.runtime.clusters.warm_gpu"
_QUIET = "ssem_dask.runtime.quiet_worker"
_DASHBOARD = f"{_HOST}:0"
_START_METHOD = "distributed.worker.multiprocessing-method"
_MAX_WORKERS_PER_GPU = 16
_CONTEXT_BYTES = 1_000_000_000
"""Bytes of a GPU that each process takes for CUDA and its libraries; 0.5 to 0.9 GB were measured."""


class _WatchfulNanny(Nanny):  # type: ignore[misc]  # Dask has no types
    """A nanny that notes how its worker died."""

    def _on_worker_exit_sync(self, exitcode: int) -> Any:
        note_death(exitcode)
        return super()._on_worker_exit_sync(exitcode)


def start_local(
    workers: int | None, *, deadline: float | None = None, stage_workers: Mapping[str, int] | None = None
) -> DaskExecutor:
    """Start worker processes of one thread each, which see no GPU; None: one per core.

    Raises:
        ConfigError: this machine lets no worker start.
    """
    _configure_workers()
    limit = local_share(workers, stage_workers)
    workers = workers or len(os.sched_getaffinity(0))

    def start() -> Client:
        return _client(
            LocalCluster(
                n_workers=workers,
                worker_class=_WatchfulNanny,
                threads_per_worker=1,
                host=_HOST,
                protocol="tls://",
                security=Security.temporary(),
                dashboard_address=_DASHBOARD,
                scheduler_kwargs={"dashboard": False},
                memory_limit=limit,
                env={"CUDA_VISIBLE_DEVICES": ""},  # otherwise all of them would use the first GPU
                preload=[_QUIET],
            )
        )

    allow_open_files("local", workers=workers)
    client = start_or_refuse("local", start)
    pool = Pool(client.cluster.scale, workers, stage_workers or {})
    return DaskExecutor(client, deadline=deadline, pool=pool)


def local_share(workers: int | None, stage_workers: Mapping[str, int] | None = None) -> int:
    """Return the bytes that each worker on this machine may hold; together they may hold all of its memory."""
    return int(MEMORY_LIMIT) // max(workers or len(os.sched_getaffinity(0)), *(stage_workers or {"": 1}).values())


def start_local_gpu(
    gpus_wanted: int | None,
    *,
    per_gpu: int | None = None,
    task_memory: int = 0,
    task_gpu_memory: int = 0,
    deadline: float | None = None,
) -> DaskExecutor:
    """Start workers for each GPU of this machine, or for the first `gpus_wanted` GPUs; see `start_on_gpus`.

    Raises:
        ConfigError: there is no GPU, or fewer than `gpus_wanted`.
    """
    gpus = visible_gpus()
    if not gpus:
        raise ConfigError(
            "--cluster local-gpu: torch sees no CUDA GPU on this machine; use --cluster local, or check that "
            "`nvidia-smi` lists one and torch is a CUDA build (make env TORCH=cuda)."
        )
    if gpus_wanted is not None and gpus_wanted > len(gpus):
        raise ConfigError(
            f"--cluster local-gpu: --workers {gpus_wanted} is the number of GPUs to use, but this machine has "
            f"{len(gpus)}; use --workers {len(gpus)} or fewer."
        )
    return start_on_gpus(
        gpus[:gpus_wanted],
        per_gpu=per_gpu,
        task_memory=task_memory,
        task_gpu_memory=task_gpu_memory,
        deadline=deadline,
    )


def start_on_gpus(
    gpus: Sequence[str],
    *,
    per_gpu: int | None = None,
    threads: int | None = None,
    task_memory: int = 0,
    task_gpu_memory: int = 0,
    deadline: float | None = None,
) -> DaskExecutor:
    """Start workers for each GPU, and workers without a GPU for the remaining cores.

    A worker with a GPU sees no other, and is labelled GPU = 1. Workers share a GPU if there are cores and memory for
    them: reading, decoding and launching kernels keep one process busier than the GPU. Stages that use no GPU go to all
    workers.

    Args:
        gpus: names as in `CUDA_VISIBLE_DEVICES`.
        per_gpu: workers that share a GPU; None: one per core of each GPU, at most `_MAX_WORKERS_PER_GPU`, and no more
            than its memory holds.
        threads: threads of each of these workers; None: one, or more of them if there are fewer than `GPU_THREADS`
            workers for a GPU, or if a worker of one thread could not hold the largest task.
        task_memory: bytes that the largest task takes; 0 if unknown.
        task_gpu_memory: bytes of a GPU that it takes; 0 if unknown.
        deadline: as in `DaskExecutor`.

    Raises:
        ConfigError: this machine lets no worker start.
    """
    _configure_workers()
    security = Security.temporary()
    common = {"host": _HOST, "protocol": "tls://", "security": security}
    shares = shares_on_gpus(
        len(gpus), per_gpu=per_gpu, threads=threads, task_memory=task_memory, task_gpu_memory=task_gpu_memory
    )

    def worker(count: int, gpu: str, **options: Any) -> dict[str, Any]:
        memory = {"nthreads": count, "memory_limit": count * shares.memory}
        common_options = {**common, **memory, "env": {"CUDA_VISIBLE_DEVICES": gpu}, "preload": [_QUIET]}
        return {"cls": _WatchfulNanny, "options": {**common_options, **options}}

    workers = {
        f"gpu-{i}-{j}": worker(shares.threads, gpu, resources={GPU: 1}, preload=[_QUIET, _WARM])
        for j in range(shares.per_gpu)
        for i, gpu in enumerate(gpus)
    }
    workers.update({f"cpu-{i}": worker(1, "") for i in range(shares.without)})
    scheduler = {"cls": Scheduler, "options": {**common, "dashboard": False, "dashboard_address": _DASHBOARD}}
    allow_open_files("local-gpu", workers=len(workers))
    client = start_or_refuse(
        "local-gpu", lambda: _client(SpecCluster(workers=workers, scheduler=scheduler, security=security))
    )
    return DaskExecutor(client, deadline=deadline)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShares:
    """How the workers of this machine share its GPUs, cores and memory."""

    per_gpu: int
    """Workers per GPU."""
    threads: int
    """Threads of each of these workers."""
    without: int
    """Workers of one thread without a GPU."""
    memory: int
    """Bytes of RAM for each thread."""

    @property
    def worker_memory(self) -> int:
        """Bytes of RAM that a worker with a GPU may hold."""
        return self.threads * self.memory


def shares_on_gpus(
    gpus: int,
    *,
    per_gpu: int | None,
    threads: int | None = None,
    task_memory: int = 0,
    task_gpu_memory: int = 0,
) -> GpuShares:
    """Return how the workers share the machine.

    Args:
        gpus: number of GPUs.
        per_gpu: as in `start_on_gpus`.
        threads: as in `start_on_gpus`.
        task_memory: as in `start_on_gpus`.
        task_gpu_memory: as in `start_on_gpus`.
    """
    cores, gpu_bytes = len(os.sched_getaffinity(0)), gpu_memory()
    # Threads of one process wait for each other, so there are as few of them as memory allows.
    for count in range(1, GPU_THREADS + 1) if threads is None else [threads]:
        # A worker's tasks take turns to compute, but each holds its arrays, and torch keeps the memory that they free.
        # Registration keeps solvers for windows of several shapes, which take about as much as one more task.
        worker_bytes = (count + 1) * task_gpu_memory + _CONTEXT_BYTES
        fitting = _MAX_WORKERS_PER_GPU if gpu_bytes is None else gpu_bytes // worker_bytes
        workers = per_gpu or max(min(cores // (count * gpus), _MAX_WORKERS_PER_GPU, fitting), 1)
        without = max(1, cores - count * workers * gpus)
        memory = int(MEMORY_LIMIT) // (count * workers * gpus + without)
        shares = GpuShares(per_gpu=workers, threads=count, without=without, memory=memory)
        if count * workers >= GPU_THREADS and shares.worker_memory >= task_memory:
            break
    return shares


def _client(cluster: SpecCluster) -> Client:
    offer_dashboard(cluster.scheduler)
    refuse_foreign_pages(cluster.scheduler)
    return Client(cluster)


def _configure_workers() -> None:
    # No local worker is preempted: if a task's workers die twice, the task kills them.
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    if dask.config.get(_START_METHOD) == "spawn" and os.name == "posix":  # Dask's default: the user has chosen none
        dask.config.set({_START_METHOD: "forkserver"})
    if dask.config.get(_START_METHOD) == "forkserver":
        start_fork_server()
        # Dask would import pandas and others into this process, to list them for a server that runs already.
        if hasattr(distributed.utils, "_forkserver_preload_set"):
            distributed.utils._forkserver_preload_set = True
