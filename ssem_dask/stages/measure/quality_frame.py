"""Places where a run is measured: register windows, and a probe in the middle of the sections."""

import math

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.stages.job import Job
from ssem_dask.storage.quality import QualityInfo

PROBE_PX = 1024
"""Side of the probe, working px: detail enough to see jitter of a pixel, little enough to read of every section."""
WINDOW_PX = 128
"""Pixels across a window at the mip where all windows are compared."""


def quality_info(job: Job) -> QualityInfo:
    """Return where a run is measured."""
    _, y, x = job.window_core
    mip = min(job.register.mip, job.mips - 1)
    extent = shape_at_mip(job.shape_yx, mip=mip)
    height, width = (min(PROBE_PX, n) for n in extent)
    top, left = (extent[0] - height) // 2, (extent[1] - width) // 2
    comparison_mip = max(0, round(math.log2(max(y, x) / WINDOW_PX)))
    return QualityInfo(
        shape_mip0=job.shape,
        window=(y, x),
        probe=Box((0, top, left), (job.shape[0], top + height, left + width), mip),
        similarity_mip=min(comparison_mip, job.mips - 1),
    )
