"""Attributes of the aligned volume that say which of its sections need a look."""

from ssem_dask.section_record import Attention
from ssem_dask.stages.job import Job
from ssem_dask.stages.run_arrays import ALIGNED
from ssem_dask.storage.arrays import create_group
from ssem_dask.storage.attention import image_attention


def publish_attention(job: Job, attention: Attention | None) -> None:
    """Write the records to the aligned volume, if they are known.

    Every run does it, since the volume's metadata may have been damaged and written again.
    """
    if attention is not None:
        create_group(job.url(ALIGNED), attributes=image_attention(attention, unplaced=job.render.unplaced))
