"""From the options `--cluster` and `--workers` to an executor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ssem_dask.cli import console

if TYPE_CHECKING:
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
    from ssem_dask.runtime.events import Observer
    from ssem_dask.runtime.executor import Executor


class PlannedWork(Protocol):
    """Tasks whose size is known before they run."""

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task."""

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""


def open_executor(
    cluster: str | None,
    *,
    workers: int | None,
    table: "ClusterConfig | None" = None,
    work: PlannedWork | None = None,
) -> "Executor":
    """Start or join the cluster that the options name; use it as a context manager, which closes it.

    Args:
        cluster: a name, an address, or a TOML file with a `[cluster]` table; None: as `table` says.
        workers: number of workers; None: as `table` says.
        table: `[cluster]` of the run's configuration; None: the defaults.
        work: work whose largest task each worker must be able to hold; None if its size is unknown.

    Raises:
        ConfigError: see `cluster_settings` and `open_cluster`.
    """
    from ssem_dask.config.schema import cluster_settings
    from ssem_dask.runtime.clusters import open_cluster
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig

    settings = cluster_settings(cluster, workers=workers, table=table or ClusterConfig())
    return open_cluster(
        settings.name,
        workers=settings.workers,
        settings=settings,
        task_memory=0 if work is None else work.worker_memory,
        task_gpu_memory=0 if work is None else work.gpu_memory,
        note=console.note,
    )


@contextmanager
def observed_executor(
    cluster: str | None,
    *,
    workers: int | None,
    as_json: bool,
    table: "ClusterConfig | None" = None,
    work: PlannedWork | None = None,
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
