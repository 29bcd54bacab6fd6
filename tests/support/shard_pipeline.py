"""A pipeline of two stages whose tasks write one small shard each, for drivers that are real."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssem_dask.driver.run_fixes import RunFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage import arrays, location
from ssem_dask.task import Result, Task
from tests.support.toy_pipeline import digest_of

SECTIONS = 3


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    value: int
    depth: int
    """Sections of a shard: the layout."""

    def digest(self, stage: str) -> str:
        return digest_of(stage, self.value, self.depth)

    def expected(self, stage: str) -> "np.ndarray[Any, Any]":
        """Return what a run that nothing disturbs writes."""
        first = 10 * (self.value + 1) + np.arange(SECTIONS)
        return first if stage == "first" else first + np.append(first[1:], 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask(Task):
    """A task that writes one shard: numbers in stage first, sums of neighbours among them in stage second."""

    config: Config
    start: int

    def sections(self, beyond: int = 0) -> range:
        return range(self.start, min(self.start + self.config.depth + beyond, SECTIONS))

    def run(self) -> Result:
        if self.stage == "first":
            values = self.config.expected("first")[self.sections().start : self.sections().stop]
        else:
            read = arrays.open_array(location.join(self.output, "first"), mode="r")
            first = np.append(np.asarray(read[self.start : self.sections(1).stop, 0]), 0)
            values = first[: len(self.sections())] + first[1 : len(self.sections()) + 1]
        target = arrays.open_array(location.join(self.output, self.stage), mode="r+")
        target[self.start : self.sections().stop] = np.asarray(values, dtype=np.uint16)[:, None]
        return Result()

    def footprint(self) -> Footprint:
        def region(name: str, part: range) -> Region:
            return Region(name, Box((part.start, 0, 0), (part.stop, 1, 1)))

        reads = () if self.stage == "first" else (region("first", self.sections(1)),)
        return Footprint(reads=reads, writes=(region(self.stage, self.sections()),))

    def files(self) -> dict[str, int]:
        path = f"{self.stage}/c/{self.start // self.config.depth}/0"
        size = location.file_size(location.join(self.output, path))
        return {} if size is None else {path: size}

    def damage(self, files: dict[str, int]) -> str:
        return "" if self.files() == files else "a shard has another size"


@dataclass(frozen=True, slots=True)
class ToyStage:
    """A stage of shard tasks."""

    name: str

    def prepare(self, job: "ToyJob") -> None:
        arrays.create_array(
            location.join(job.output, self.name),
            shape=(SECTIONS, 1),
            dtype="uint16",
            axes=("z", "x"),
            chunks=(job.config.depth, 1),
            shards=None,
            fill_value=0,
            attributes={},
        )

    def generations(self, job: "ToyJob") -> Iterator[Iterable[Task]]:
        yield [
            ShardTask(
                key=f"{self.name}/z-{start:03d}",
                output=job.output,
                digest=job.config.digest(self.name),
                pixels=1,
                config=job.config,
                start=start,
            )
            for start in range(0, SECTIONS, job.config.depth)
        ]


STAGES = [ToyStage("first"), ToyStage("second")]


@dataclass(frozen=True, slots=True)
class ToyJob:
    """A run of a configuration."""

    output: str
    config: Config
    growth: None = None

    @property
    def digests(self) -> dict[str, str]:
        return {stage.name: self.config.digest(stage.name) for stage in STAGES}


@dataclass(frozen=True)
class ToyPlan:
    """The part of a plan that `pipeline.resume` reads."""

    job: ToyJob
    choices: tuple[str, ...] = ()
    fixes: RunFixes = field(default_factory=RunFixes)
    given: dict[str, Any] = field(default_factory=dict)
    rewritten: tuple[int, ...] = ()

    def is_live(self, _page: str) -> bool:
        return True

    @property
    def stages(self) -> list[ToyStage]:
        return STAGES

    @property
    def estimates(self) -> dict[str, Estimate]:
        return {
            stage.name: Estimate(tasks=SECTIONS, pixels=SECTIONS, bytes_read=0, bytes_written=0, files=0, memory=0)
            for stage in STAGES
        }


def attributes(plan: ToyPlan) -> dict[str, Any]:
    """Return the attributes of a toy run."""
    config = plan.job.config
    return {
        "config": {"value": config.value, "depth": config.depth},
        "config_digest": config.digest("run"),
        "stages": [stage.name for stage in STAGES],
        "state": "running",
    }
