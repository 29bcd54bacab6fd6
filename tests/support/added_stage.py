"""The command line with one more stage at the end of the pipeline: a module and a list entry (docs/architecture.md).

Run it as `python -m tests.support.added_stage` in place of `python -m ssem_dask.cli`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ssem_dask.geometry.region import Footprint
from ssem_dask.stages import pipeline_order
from ssem_dask.stages.array_rows.aligned_arrays import aligned_level
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Estimate, JobTask, Stage
from ssem_dask.stages.stored_array import RunJson
from ssem_dask.task import Result
from ssem_dask.types import ConfigBase

SECTIONS_PER_TASK = 4


class BrightnessConfig(ConfigBase):
    """Mean brightness of sections."""

    scale: float = 1.0
    """Factor."""


def record(start: int) -> RunJson:
    return RunJson(f"quality/brightness-{start:06d}.json", "mean brightness of some sections")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrightnessTask(JobTask):
    """Mean brightness of some sections."""

    start: int

    @property
    def stop(self) -> int:
        return min(self.start + SECTIONS_PER_TASK, self.job.shape[0])

    def run(self) -> Result:
        config = self.job.tables["brightness"]
        assert isinstance(config, BrightnessConfig)
        pixels = aligned_level(0).read(self.job, z=range(self.start, self.stop))
        means = [float(section.mean()) * config.scale for section in pixels]
        return Result(bytes_read=pixels.nbytes, bytes_written=record(self.start).write(self.job, {"means": means}))

    def footprint(self) -> Footprint:
        return Footprint(
            reads=(aligned_level(0).region(self.job, self.start, self.stop),),
            writes=(record(self.start).region(self.job, self.start, self.stop),),
        )


class BrightnessStage(Stage):
    """Mean brightness of each section."""

    name = "brightness"
    upstream = ("render",)
    config_type = BrightnessConfig

    def prepare(self, job: Job) -> None:
        pass

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        yield [
            BrightnessTask(**self.task_fields(job, f"z{start:06d}", pixels=1), start=start)
            for start in range(0, job.shape[0], SECTIONS_PER_TASK)
        ]

    def estimate(self, job: Job) -> Estimate:
        tasks = len(range(0, job.shape[0], SECTIONS_PER_TASK))
        return Estimate(tasks=tasks, pixels=tasks, bytes_read=job.size, bytes_written=0, files=tasks, memory=job.size)


if __name__ == "__main__":
    # The entry in the list: before any module that reads it is imported.
    pipeline_order.STAGES = (*pipeline_order.STAGES, BrightnessStage())
    from ssem_dask.cli.main import main

    main()
