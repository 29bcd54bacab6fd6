"""The `[cluster]` table: where the tasks run. Nothing in it decides a result, so none of it is part of a digest."""

from pydantic import Field

from ssem_dask.types import ConfigBase


class ClusterConfig(ConfigBase):
    """Where the tasks run; not part of the digest."""

    name: str = "local"
    """`serial`, `local`, `local-gpu`, or the address of a Dask scheduler (`tls://host:8786`)."""
    workers: int | None = Field(default=None, ge=1)
    """Workers; None: one a core with `local`. A scheduler given by address has its own."""
    tls: str | None = None
    """Folder made by `ssem-dask certs`; None: that of `$SSEM_DASK_TLS`, else what Dask's own configuration names."""
    resources: dict[str, float] = Field(default={})
    """Labels a worker must have to be given tasks, with the amount that a task takes, e.g. `{ GPU = 1 }`."""
    wait_minutes: float | None = Field(default=None, gt=0)
    """Longest wait for the first worker; None: 10 minutes."""
