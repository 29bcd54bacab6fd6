"""From the options `--cluster` and `--workers` to an executor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssem_dask.cli import console

if TYPE_CHECKING:
    from ssem_dask.driver.tasks import PlannedWork
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
    from ssem_dask.runtime.events import Observer
    from ssem_dask.runtime.executor import Executor


def expect_local_workers(cluster: str | None) -> None:
    """Begin to load what workers on this machine need, while the command loads what it needs itself.

    Args:
        cluster: value of `--cluster`; None: the default.
    """
    if cluster in (None, "local", "local-gpu"):
        from ssem_dask.runtime.fork_server import start_fork_server

        start_fork_server()


def open_executor(
    cluster: str | None,
    *,
    workers: int | None,
    table: "ClusterConfig | None" = None,
    work: "PlannedWork | None" = None,
) -> "Executor":
    """Open the cluster that the options name, with notes on stderr; arguments and errors as in `open_cluster_for`."""
    from ssem_dask.driver.tasks import open_cluster_for

    return open_cluster_for(work, cluster=cluster, workers=workers, table=table, note=console.note)


@contextmanager
def observed_executor(
    cluster: str | None,
    *,
    workers: int | None,
    as_json: bool,
    table: "ClusterConfig | None" = None,
    work: "PlannedWork | None" = None,
) -> "Iterator[tuple[Executor, Observer]]":
    """Open an executor as `open_executor` does, with the observer that shows its progress on stderr.

    Args:
        cluster: as in `open_executor`.
        workers: as in `open_executor`.
        as_json: show progress as JSON, one object per line.
        table: as in `open_executor`.
        work: as in `open_executor`.

    Raises:
        ConfigError: as in `open_executor`.
    """
    from ssem_dask.cli.progress_display import observer_for

    with (
        open_executor(cluster, workers=workers, table=table, work=work) as executor,
        observer_for(executor, as_json=as_json) as observer,
    ):
        yield executor, observer


def in_this_process(table: "ClusterConfig | None") -> "ClusterConfig | None":
    """Return a cluster table for work that is done before workers have started; one of GPUs or nodes stays."""
    import torch

    # Workers of this machine see no GPU, as this process would; its results differ a little from theirs.
    if table is None or table.name != "local" or torch.cuda.is_available():
        return table

    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig

    # As in a worker: on small arrays, threads that wait for each other cost more than they save.
    torch.set_num_threads(1)
    return ClusterConfig(name="serial")
