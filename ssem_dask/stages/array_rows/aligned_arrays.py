"""Arrays of the aligned volume, one per level."""

from functools import cache

from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.stages.array_rows.array_axes import Z, fixed_size
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import Axis, Frame, RunArray
from ssem_dask.storage.volume import fitted_shard

ALIGNED = "aligned"
"""Path of the aligned volume, an OME-Zarr image."""


@cache
def aligned_level(mip: int) -> RunArray:
    """Return the row of a level of the aligned volume. Stage render creates all levels with their OME-Zarr group."""
    step = fixed_size(1 << mip)

    def per_channel(job: Job, extent: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *extent) if job.info.channels else extent

    return RunArray(
        path=f"{ALIGNED}/{mip}",
        meaning=f"the aligned volume at mip {mip}",
        axes=(
            Axis("c", lambda job: len(job.info.channels), optional=True),
            Z,
            Axis("y", lambda job: shape_at_mip(job.shape_yx, mip=mip)[0], "y", step),
            Axis("x", lambda job: shape_at_mip(job.shape_yx, mip=mip)[1], "x", step),
        ),
        dtype="",
        frame=Frame.ALIGNED,
        unit="intensity",
        chunk=lambda job: per_channel(job, job.render.chunk),
        shard=lambda job: per_channel(
            job,
            fitted_shard(
                (job.shape[0], *shape_at_mip(job.shape_yx, mip=mip)), chunk=job.render.chunk, shard=job.render.shard
            ),
        ),
        fill=0,
        compression=lambda job: "none" if job.render.codec == "none" else "zstd",
        keeps_depth=True,
    )
