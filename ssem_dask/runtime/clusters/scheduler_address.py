"""Join a Dask scheduler that somebody else started, and check that its workers can run the tasks."""

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from distributed import Client

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters.cluster_config import SMALLER_TASKS, ClusterConfig
from ssem_dask.runtime.clusters.probe import refuse_unanswered
from ssem_dask.runtime.clusters.security import named_security
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.placement import has_labels
from ssem_dask.units import plural

CONNECT_SECONDS = 20
_WAIT_MINUTES = 10.0
_SAME = ("ssem_dask", "dask", "distributed")
"""Packages whose version must be the client's everywhere: tasks are pickled by one and run by the other."""


def join_scheduler(address: str, settings: ClusterConfig, *, task_memory: int) -> DaskExecutor:
    """Connect to a running scheduler.

    Args:
        address: `tls://host:port` or `tcp://host:port`.
        settings: the `[cluster]` table: certificates, labels, deadline, and longest wait for a worker (10 min if None).
        task_memory: bytes that the largest task of the run holds; 0 if unknown.

    Raises:
        ConfigError: nothing answers, the certificates are refused, versions differ, or no worker can run the tasks.
    """
    security, resources = named_security(settings.tls), settings.resources
    refuse_unanswered(address, security=security, seconds=CONNECT_SECONDS)
    connect = partial(Client, address, timeout=CONNECT_SECONDS, security=security)
    try:
        client = connect()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--cluster {address}: cannot be joined ({' '.join(str(error).split())}).") from error
    try:
        _wait_for_workers(client, address, resources, minutes=settings.wait_minutes or _WAIT_MINUTES)
        check_versions(client.get_versions(packages=list(_SAME)), address)
        check_workers(client.scheduler_info(n_workers=-1)["workers"], address, resources, task_memory=task_memory)
    except BaseException:
        client.close()
        raise
    return DaskExecutor(client, resources=resources, reconnect=connect, deadline=settings.deadline)


def check_versions(versions: Mapping[str, Any], address: str) -> None:
    """Raise ConfigError unless client, scheduler and workers run the same code.

    Args:
        versions: result of `distributed.Client.get_versions`.
        address: address of the scheduler, for the message.

    Raises:
        ConfigError: names the first process that differs, and the difference.
    """
    wanted = _code_versions(versions["client"])
    others = {"the scheduler": versions["scheduler"]}
    others.update({f"worker {name}": theirs for name, theirs in versions["workers"].items()})
    for process, theirs in others.items():
        got = _code_versions(theirs)
        differ = [name for name in wanted if got[name] != wanted[name]]
        if differ:
            theirs_shown = ", ".join(f"{name} {got[name] or 'missing'}" for name in differ)
            ours_shown = ", ".join(f"{name} {wanted[name]}" for name in differ)
            raise ConfigError(
                f"--cluster {address}: {process} has {theirs_shown}, but this client has {ours_shown}; run client, "
                "scheduler and workers from one environment or image."
            )


def check_workers(
    workers: Mapping[str, Mapping[str, Any]], address: str, resources: Mapping[str, float], *, task_memory: int
) -> None:
    """Raise ConfigError unless every worker that may be given a task can hold it.

    Raises:
        ConfigError: a worker has less memory for each of its threads than the largest task holds.
    """
    for name, worker in workers.items():
        limit = int(worker["memory_limit"] or 0)
        share = limit // max(1, int(worker["nthreads"]))
        if limit and share < task_memory and has_labels(worker, resources):
            threads = plural(int(worker["nthreads"]), "thread")
            raise ConfigError(
                f"--cluster {address}: worker {name} has {share / 1e9:.2f} GB for each of its {threads}, "
                f"but the largest task needs {task_memory / 1e9:.2f} GB; start workers with more "
                f"memory or fewer threads, or {SMALLER_TASKS}."
            )


def _wait_for_workers(client: Client, address: str, resources: Mapping[str, float], *, minutes: float) -> None:
    for _ in range(math.ceil(minutes * 60)):
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(has_labels(worker, resources) for worker in workers):
            return
        time.sleep(1)
    labels = ", ".join(f"{name} = {amount:g}" for name, amount in resources.items())
    got = f"{plural(len(workers), 'worker')}, but none with {labels}" if workers else "no workers"
    raise ConfigError(
        f"--cluster {address}: the scheduler has {got} after {minutes:g} min; start workers"
        f"{f' with --resources {labels!r}' if labels else ''}, or set [cluster] wait_minutes higher."
    )


def _code_versions(versions: Mapping[str, Any]) -> dict[str, str | None]:
    python = ".".join(str(versions["host"]["python"]).split(".")[:2])
    return {"python": python, **{name: versions["packages"].get(name) for name in _SAME}}
