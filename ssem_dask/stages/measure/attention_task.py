"""The task that names spoilt sections, from the tables of all sections."""

from dataclasses import dataclass

import numpy as np

from ssem_dask.diagnosis.naming import name_sections
from ssem_dask.diagnosis.usual_values import SectionEvidence
from ssem_dask.geometry.region import Footprint
from ssem_dask.section_record import without_excluded
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_STATE, PART_MAPS, SectionState
from ssem_dask.stages.array_rows.pair_arrays import SUPPORT
from ssem_dask.stages.array_rows.quality_arrays import QUALITY_SECTIONS
from ssem_dask.stages.coarse_parts import part_steps
from ssem_dask.stages.fixed_rows import fixed_regions, read_places
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import read_support
from ssem_dask.stages.run_arrays import ATTENTION
from ssem_dask.stages.stage import JobTask
from ssem_dask.storage.quality import read_sections
from ssem_dask.storage.run_group import run_section_names
from ssem_dask.task import Result
from ssem_dask.types import Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTask(JobTask):
    """Names of all sections."""

    def run(self) -> Result:
        """Name the sections; write their records, which the driver copies to the aligned volume."""
        job = self.job
        named = name_sections(_read_evidence(job), names=run_section_names(job.output))
        attention = without_excluded(named, job.fixes.excluded(range(job.shape[0])))
        written = ATTENTION.write(job, attention.to_json())
        return Result(bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the measurements of all sections; write their records."""
        job = self.job
        parts = (PART_MAPS,) if job.coarse.parts else ()
        reads = QUALITY_SECTIONS, SUPPORT, COARSE, COARSE_STATE, *parts
        fixed = fixed_regions(job, SUPPORT, COARSE, COARSE_STATE, *parts, start=0, stop=job.shape[0])
        return Footprint(reads=(*(array.region(job) for array in reads), *fixed), writes=(ATTENTION.region(job),))


def _read_evidence(job: Job) -> SectionEvidence:
    columns = read_sections(job.output)
    every = range(job.shape[0])
    state = read_places(job, COARSE_STATE, every)

    def column(name: str) -> Float64Array:
        return columns[name].astype(np.float64)

    return SectionEvidence(
        tissue=column("tissue"),
        contrast=column("contrast"),
        sharpness=column("sharpness"),
        structure=column("structure"),
        likeness=np.stack([column(f"likeness_{k}") for k in (1, 2, 3)]),
        unlike=column("unlike"),
        dark=column("odd_dark"),
        bright=column("odd_bright"),
        empty=column("odd_empty"),
        length=column("odd_length"),
        width=column("odd_width"),
        tone=column("odd_tone"),
        step=column("step"),
        part_step=part_steps(job),
        uncertainty=column("uncertainty"),
        support=read_support(job, every),
        affines=read_places(job, COARSE, every),
        misplaced=state == SectionState.MISPLACED,
        repeated=state == SectionState.REPEATED,
        shape_yx=job.shape_yx,
    )
