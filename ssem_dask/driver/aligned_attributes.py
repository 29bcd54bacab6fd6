"""Attributes of the aligned volume: which of its sections need a look, and what was done to its grey values."""

from typing import Any

from ssem_dask.driver.run_status import Summary, is_finished
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.job import Job
from ssem_dask.stages.render import RenderStage
from ssem_dask.storage.arrays import create_group, group_attributes
from ssem_dask.storage.attention import image_attention
from ssem_dask.storage.contrast_table import KEY, image_contrast, read_contrast


def publish_attributes(job: Job, summary: Summary) -> None:
    """Write what is known of the aligned volume to its attributes.

    Every run does it, since the volume's metadata may have been damaged and written again.
    """
    url, attributes = job.url(ALIGNED), dict[str, Any]()
    if summary.attention is not None:
        attributes |= image_attention(summary.attention, unplaced=job.render.unplaced)
    if is_finished(summary, RenderStage.name):
        if job.render.contrast == "match":
            attributes |= image_contrast(read_contrast(job.output))
        elif (group_attributes(url) or {}).get(KEY) is not None:
            attributes |= image_contrast(None)  # those of an earlier configuration
    if attributes:
        create_group(url, attributes=attributes)
