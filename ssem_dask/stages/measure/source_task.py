"""Measuring sections in the probe: of the aligned volume, and of the source, which stays when the result changes.

So a fix of the user, or another setting of a later stage, does not measure the source again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.diagnosis.section_appearance import measure_appearance
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint
from ssem_dask.image.similarity import chunked_correlation, normalised_correlation
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.stages.array_rows.quality_arrays import QUALITY_SOURCE, RESLICES
from ssem_dask.stages.job import Job
from ssem_dask.stages.measure.quality_frame import quality_info
from ssem_dask.stages.source_sections import open_source, read_pooled_sections
from ssem_dask.stages.stage import JobTask, Stage
from ssem_dask.storage.quality import BLOCK, CUTS, QualityInfo, write_source
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Result
from ssem_dask.types import AnyArray, Float64Array

SOURCE_TABLES = QUALITY_SOURCE, *(RESLICES[cut, "before"] for cut in CUTS)
"""Arrays that the tasks of the source write."""
_SQUARE_PX = 64
"""Side of a square of chunked correlation, px."""
_LOOKS = "contrast", "sharpness", "structure"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTask(JobTask):
    """Appearance of some sections of the source, and how they match before alignment."""

    start: int
    stop: int

    def run(self) -> Result:
        """Measure the images, write the rows and the cuts."""
        job, sections = self.job, range(self.start, self.stop)
        info = quality_info(job)
        with torch.inference_mode():
            found, cuts = probe_sections(open_source(job, fixes=job.fixes), info, sections, looks=True)
        values = {name if name in _LOOKS else f"{name}_before": column for name, column in found.items()}
        written = write_source(job.output, start=self.start, values=values)
        for cut, rows in cuts.items():
            written += RESLICES[cut, "before"].write(job, rows, z=sections)
        pixels = len(sections) * info.probe.shape[1] * info.probe.shape[2]
        return Result(
            bytes_read=job.source_bytes(pixels << 2 * info.probe.mip, mip=info.probe.mip), bytes_written=written
        )

    def footprint(self) -> Footprint:
        """Read its sections of the source and the one before; write its rows."""
        job = self.job
        return Footprint(
            reads=job.source_regions(self.start - 1, self.stop, fixes=job.fixes),
            writes=tuple(array.region(job, self.start, self.stop) for array in SOURCE_TABLES),
        )


def source_tasks(stage: Stage, job: Job, blocks: Iterable[tuple[int, int]]) -> Iterator[SourceTask]:
    """Yield the tasks of some blocks `start <= z < stop`."""
    for start, stop in blocks:
        fixes = job.fixes.exchanging().within(range(start - 1, stop))
        yield SourceTask(
            **stage.task_fields(job, f"source-z{start:06d}", fixes=fixes, stop=start + BLOCK), start=start, stop=stop
        )


def probe_sections(
    volume: Volume, info: QualityInfo, sections: range, *, looks: bool = False
) -> tuple[dict[str, Float64Array], dict[str, AnyArray]]:
    """Measure sections of a volume in the probe.

    Args:
        volume: source or aligned volume.
        info: where the probe is.
        sections: z.
        looks: whether to measure the appearance of each section as well.

    Returns:
        Columns `(sections,)` by name: similarity with the section before, and appearance; and rows `(sections, pixel)`
        of the cuts.
    """
    names = ("ncc", "cpc", *(_LOOKS if looks else ()))
    found = {name: np.full(len(sections), np.nan) for name in names}
    cuts = {
        cut: np.zeros((len(sections), info.probe.shape[axis]), dtype=volume.info.dtype)
        for cut, axis in (("xz", 2), ("yz", 1))
    }
    previous: tuple[AnyArray, Tensor] | None = None
    numbers = range(max(0, sections.start - 1), sections.stop)
    boxes = [Box((z, *info.probe.start_yx), (z + 1, *info.probe.stop[1:]), info.probe.mip) for z in numbers]
    for z, pooled in zip(numbers, read_pooled_sections(volume, boxes=boxes), strict=True):
        image, mask = pooled.numpy(), tissue_mask(pooled)
        i = z - sections.start
        if previous is not None:
            valid = (mask & previous[1]).numpy()
            found["ncc"][i] = normalised_correlation(previous[0], image, valid=valid)
            found["cpc"][i] = chunked_correlation(previous[0], image, valid=valid, side=_SQUARE_PX)
        if i >= 0:
            cuts["xz"][i], cuts["yz"][i] = image[len(image) // 2].round(), image[:, image.shape[1] // 2].round()
            if looks:
                look = measure_appearance(pooled, mask=mask)
                for name in _LOOKS:
                    found[name][i] = getattr(look, name)
        previous = image, mask
    return found, cuts
