"""Clusters by name: from what a user writes after `--cluster` to an executor."""

import os

import dask
from distributed import Client, LocalCluster

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.executor import Executor, SerialExecutor

_CONNECT_SECONDS = 20


def open_cluster(name: str, *, workers: int | None, deadline: float | None = None) -> Executor:
    """Start or join a cluster.

    Args:
        name: `serial` (this process), `local` (worker processes on this machine), or a scheduler's address.
        workers: number of workers for `local`; one a core if None.
        deadline: seconds that a task may run, see `DaskExecutor`; there is none in `serial`.

    Raises:
        ConfigError: an unknown name, or nobody answers at the address.
    """
    if name == "serial":
        return SerialExecutor()
    if name == "local":
        # No local worker is preempted: one that dies twice of a task dies of that task.
        dask.config.set({"distributed.scheduler.allowed-failures": 1})
        cluster = LocalCluster(
            n_workers=workers or len(os.sched_getaffinity(0)),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit="auto",
        )
        return DaskExecutor(Client(cluster), deadline=deadline)
    if "://" in name:
        try:
            client = Client(name, timeout=_CONNECT_SECONDS)
            return DaskExecutor(client, reconnect=lambda: Client(name, timeout=_CONNECT_SECONDS), deadline=deadline)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--cluster {name}: no Dask scheduler answered within {_CONNECT_SECONDS} s ({error}); "
                "start one, or use --cluster local."
            ) from error
    raise ConfigError(
        f"--cluster {name}: unknown cluster; use serial, local or a scheduler address like tcp://host:8786."
    )
