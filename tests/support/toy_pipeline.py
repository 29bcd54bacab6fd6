"""A pipeline of toy tasks, whose values are digests of their configuration and of what they read.

A volume has a few sections of two columns. An array has a value for each of these cells. A task reads cells of earlier
arrays, or of the source, and writes a box of its own generation's array. So after any history of runs, what is stored
can be compared with what a run from scratch would store, and the tasks that ran with those that had to run.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, cast

from hypothesis import strategies as st

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Estimate, Stage
from ssem_dask.task import Result, Task

SECTIONS = 9
COLUMNS = 2
SOURCE = -1

Cell = tuple[str, int, int]
"""(array, z, y)."""


class Killed(BaseException):
    """The driver's process ends here, as by SIGKILL: nothing catches it."""


@dataclass(frozen=True)
class Input:
    """The part of an earlier generation that every task of a generation reads."""

    generation: int
    """Number of the earlier generation in the pipeline, or SOURCE."""
    halo: int
    """Sections beyond the task's own that it reads."""
    slack: int
    """Sections beyond those that its footprint names all the same."""


@dataclass(frozen=True)
class Generation:
    """The tasks that write one array."""

    stage: str
    number: int
    """In the pipeline; also the array's name."""
    depth: int
    """Sections of a task."""
    columns: bool
    """Whether a task writes one column only."""
    inputs: tuple[Input, ...]

    @property
    def array(self) -> str:
        return f"array{self.number}"


@dataclass(frozen=True)
class Pipeline:
    """All generations in order, and the setting of each stage."""

    generations: tuple[Generation, ...]
    settings: dict[str, int]

    @property
    def names(self) -> list[str]:
        return list(self.settings)

    def with_setting(self, stage: str, value: int) -> "Pipeline":
        return replace(self, settings={**self.settings, stage: value})

    def with_depth(self, number: int, depth: int) -> "Pipeline":
        """Return the pipeline with another layout of one generation: other tasks, with other keys."""
        changed = (replace(g, depth=depth) if g.number == number else g for g in self.generations)
        return replace(self, generations=tuple(changed))

    def digests(self) -> dict[str, str]:
        """Digest per stage, of its own setting and layout and of the stages that it reads."""
        found: dict[str, str] = {}
        for stage, setting in self.settings.items():
            own = [g for g in self.generations if g.stage == stage]
            sources = {self.generations[i.generation].stage for g in own for i in g.inputs if i.generation != SOURCE}
            upstream = sorted(found[name] for name in sources - {stage})
            found[stage] = digest_of(stage, setting, [(g.depth, g.columns) for g in own], upstream)
        return found


def digest_of(*values: Any) -> str:
    return hashlib.sha1(repr(values).encode()).hexdigest()[:12]


@dataclass
class World:
    """The stored values, and the events to come."""

    source: list[int] = field(default_factory=lambda: [0] * SECTIONS)
    """Content of each section of the source."""
    cells: dict[Cell, str] = field(default_factory=dict)
    damaged: set[Cell] = field(default_factory=set)
    """Cells whose checksum is wrong: reading them fails."""
    failing: frozenset[str] = frozenset()
    """Keys of tasks that fail in the middle of their writing."""
    fuse: int | None = None
    """Events until the process is killed; None: it lives."""
    ran: list[str] = field(default_factory=list)
    """Keys of the tasks that were begun."""

    def event(self) -> None:
        """Count down to the kill."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Killed

    def read(self, cell: Cell) -> str:
        array, z, _ = cell
        if cell in self.damaged:
            raise OSError(f"{cell}: the checksum is wrong")
        return str(self.source[z]) if array == "source" else self.cells.get(cell, "unknown")

    def write(self, cell: Cell, value: str) -> None:
        self.event()
        self.damaged.discard(cell)
        self.cells[cell] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyTask(Task):
    """A task that hashes."""

    world: World = field(repr=False, compare=False)
    reads: tuple[Region, ...]
    named: tuple[Region, ...]
    """Return what the task reads, as its footprint says."""
    target: Region

    def footprint(self) -> Footprint:
        return Footprint(reads=self.named, writes=(self.target,))

    def values(self, world: World, *, changes: Any) -> dict[Cell, str]:
        """Return what the task writes in a world."""
        read = [world.read(cell) for region in self.reads for cell in cells_of(region)]
        return {cell: digest_of(cell, self.digest, changes, read) for cell in cells_of(self.target)}

    def run(self) -> Result:
        self.world.ran.append(self.key)
        self.world.event()
        values = self.values(self.world, changes=sorted(self.changes))
        for number, (cell, value) in enumerate(values.items()):
            if self.key in self.world.failing and number == len(values) // 2:
                raise OSError("the disk is full")
            self.world.write(cell, value)
        self.world.event()
        return Result()

    def damage(self, files: dict[str, int]) -> str:
        damaged = self.world.damaged.intersection(cells_of(self.target))
        return f"{min(damaged)}: the checksum is wrong" if damaged else ""


def cells_of(region: Region) -> Iterator[Cell]:
    (z0, y0, _), (z1, y1, _) = region.box.start, region.box.stop
    return ((region.name, z, y) for z, y in product(range(z0, z1), range(y0, y1)))


@dataclass(frozen=True, slots=True)
class ToyJob:
    """A pipeline that is to be run in a world."""

    pipeline: Pipeline
    world: World
    output: str

    @property
    def digests(self) -> dict[str, str]:
        return self.pipeline.digests()

    def as_job(self) -> Job:
        """Return the job for a type checker: the code under test passes it to stages and does not inspect it."""
        return cast(Job, self)

    @property
    def stages(self) -> list[Stage]:
        return [cast(Stage, ToyStage(name)) for name in self.pipeline.names]

    def tasks(self) -> list[ToyTask]:
        """All tasks, in order."""
        return [t for stage in self.stages for generation in stage.generations(self.as_job()) for t in generation]  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class ToyStage:
    """A stage by its name."""

    name: str

    def prepare(self, job: ToyJob) -> None:
        pass

    def generations(self, job: ToyJob) -> Iterator[Iterable[ToyTask]]:
        for generation in job.pipeline.generations:
            if generation.stage == self.name:
                yield _tasks(generation, job)

    def estimate(self, job: ToyJob) -> Estimate:
        count = sum(1 for generation in self.generations(job) for _ in generation)
        return Estimate(tasks=count, pixels=count, bytes_read=0, bytes_written=0, files=0, memory=0)


def _tasks(generation: Generation, job: ToyJob) -> Iterator[ToyTask]:
    digest, depth = job.digests[generation.stage], generation.depth
    for start in range(0, SECTIONS, depth):
        stop = min(start + depth, SECTIONS)
        for column in range(COLUMNS if generation.columns else 1):
            columns = (column, column + 1) if generation.columns else (0, COLUMNS)
            # Two of the forms that keys have: a page per z, and a page per generation.
            place = f"z{start:06d}-y{column:07d}-x0000000" if generation.columns else f"{start:05d}"
            yield ToyTask(
                key=f"{generation.stage}/g{generation.number}-{place}",
                output=job.output,
                digest=digest,
                pixels=1,
                world=job.world,
                reads=tuple(_region(job, i, start, stop, i.halo) for i in generation.inputs),
                named=tuple(_region(job, i, start, stop, i.halo + i.slack) for i in generation.inputs),
                target=Region(generation.array, Box((start, columns[0], 0), (stop, columns[1], 1))),
            )


def _region(job: ToyJob, source: Input, start: int, stop: int, halo: int) -> Region:
    name = "source" if source.generation == SOURCE else job.pipeline.generations[source.generation].array
    return Region(name, Box((max(0, start - halo), 0, 0), (min(SECTIONS, stop + halo), COLUMNS, 1)))


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """Two to four stages of one or two generations, each of which reads one to three earlier ones or the source."""
    generations: list[Generation] = []
    names = [f"stage{i}" for i in range(draw(st.integers(2, 4)))]
    for name in names:
        for _ in range(draw(st.integers(1, 2))):
            number = len(generations)
            earlier = draw(
                st.lists(st.integers(SOURCE, number - 1), min_size=1, max_size=3, unique=True)
                if number
                else st.just([SOURCE])
            )
            inputs = tuple(Input(i, halo=draw(st.integers(0, 2)), slack=draw(st.integers(0, 1))) for i in earlier)
            depth, columns = draw(st.sampled_from([2, 3, 4])), draw(st.booleans())
            generations.append(Generation(name, number, depth=depth, columns=columns, inputs=inputs))
    return Pipeline(tuple(generations), dict.fromkeys(names, 0))
