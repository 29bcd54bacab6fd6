"""Image metadata of a run's root, which is what people drag into a viewer."""

from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.job import Job
from ssem_dask.storage import ngff
from ssem_dask.storage.arrays import create_group


def describe_root(job: Job) -> None:
    """Let other tools open the run's root as an image: its levels are those of the aligned volume."""
    image = ngff.ImageMetadata(
        # Not the name of the folder: a copy of the run elsewhere has the same metadata.
        name=ALIGNED,
        pixel_size=job.info.pixel_size,
        section_thickness=job.info.section_thickness,
        mips=job.mips,
        channels=job.info.channels,
        dtype=job.info.dtype,
        folder=ALIGNED,
    )
    create_group(job.output, attributes=ngff.image_attributes(image))
