"""From the options `--cluster` and `--workers` to an executor."""

from ssem_dask.cli import console
from ssem_dask.config.schema import cluster_settings
from ssem_dask.driver.pipeline import Plan
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.executor import Executor


def open_executor(
    cluster: str | None, *, workers: int | None, table: ClusterConfig | None = None, plan: Plan | None = None
) -> Executor:
    """Start or join the cluster that the options name.

    Args:
        cluster: as given: a name, an address, or a TOML file with a `[cluster]` table; None: as `table` says.
        workers: as given; None: as `table` says.
        table: `[cluster]` of the run's configuration; None: the defaults.
        plan: of the run; the cluster's workers must be able to hold its largest task.

    Raises:
        ConfigError: as `cluster_settings` and `open_cluster`.
    """
    settings = cluster_settings(cluster, workers=workers, table=table or ClusterConfig())
    return open_cluster(
        settings.name,
        workers=settings.workers,
        settings=settings,
        task_memory=plan.worker_memory if plan else 0,
        task_gpu_memory=plan.gpu_memory if plan else 0,
        note=console.note,
    )
