"""The interface of a stage: what a stage says of itself, its tasks, and what it costs.

A stage only enumerates tasks; a task itself says what it does (`run`) and what it reads and writes (`footprint`). To
add a stage, write one module with a subclass of `Stage` and list an instance in `stages.pipeline_order`.
`tests/support/added_stage.py` is a worked example.

What the driver relies on, beside the signatures:

- *Keys* (`task_fields`, `storage.ledger.page_of`): the tasks of one page of the ledger belong to one generation and
  follow one another in it. The page is the key without y and x, or else without the part after its last dash. Keys
  without a dash all share one page, so they belong to one generation. Wrong: `sum` in one generation and `mean` in the
  next; right: `sum-all`, then `mean`. Several boxes are named by `task.box_name`.
- *Cost* (`driver.cost`): a task whose key has no digit counts as the only one of its kind. Its time is not divided
  among workers. The time of all other tasks grows with `Estimate.bytes_read`.
- *Arrays*: each array that a task reads or writes is a row in `ARRAYS` of `stages.run_arrays`. The check of stored
  files finds an array there by the path in the footprint.
- *Whole shards*: a task writes whole shards, so no two tasks of a stage write one file, and none reads what it writes.
- *Configuration*: `config_type()` works without arguments, so every field of the table has a default.
- *GPU*: `uses_gpu` is decided per stage, since it determines which workers its tasks go to (`runtime.placement`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypedDict

from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.stages.files import find_damage, written_files
from ssem_dask.stages.fix_clusters import FixCluster, clusters_digest
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import Task
from ssem_dask.types import ConfigBase

FIX_TASKS = "fix"
"""Beginning of the names of tasks that write what fixes have changed since the fit."""
TASK_OVERHEAD_BYTES = 8 << 20
"""Bytes that the first task of a stage takes whatever it holds: caches, threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The cost of a stage."""

    tasks: int
    pixels: int
    """Source pixels (mip 0) that the tasks cover, summed; the unit of the progress rate."""
    bytes_read: int
    bytes_written: int
    files: int
    memory: int
    """Peak bytes of one task, beyond what a worker's process holds before it. Computed as if the source had mip 0 only:
    the peak is lower if coarser levels are stored."""
    requests: int = 0
    """Approximate number of chunks and files that the tasks request from stores or send to them."""
    gpu_memory: int = 0
    """Peak bytes of one task on a GPU, if its worker has one; 0: it uses none."""


def with_fix_tasks(estimate: Estimate, tasks: Iterable[Task]) -> Estimate:
    """Return a cost that counts the tasks of fixes as well; what they read and hold is little beside the others'."""
    found = list(tasks)
    return replace(
        estimate, tasks=estimate.tasks + len(found), pixels=estimate.pixels + sum(task.pixels for task in found)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTask(Task):
    """A task of a stage of a run."""

    job: Job

    def with_job(self, job: Job) -> Self:
        """Return the same task under another configuration of the run."""
        return replace(self, job=job)

    def files(self) -> dict[str, int]:
        """Return the files under the regions that the task writes: path in the run → bytes."""
        return written_files(self.job, self.footprint(), overridden=bool(self.changes))

    def damage(self, files: dict[str, int]) -> str:
        """Read everything that the task has written; return a sentence on the first damage, or an empty one."""
        return find_damage(self.job, self.footprint(), files=files)


class TaskFields(TypedDict):
    """The fields that all tasks of a run have."""

    key: str
    output: str
    digest: str
    pixels: int
    uses_gpu: bool
    job: Job


class Stage(ABC):
    """A verb of the pipeline."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]]
    """Stages whose results this stage reads."""
    config_type: ClassVar[type[ConfigBase] | None] = None
    """Type of the configuration table `[name]`; None: the stage has no settings of its own. It must be callable without
    arguments."""
    layout_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the table that determine where results are stored or which tasks there are; () means every key of the
    table. These cannot be changed for single tasks (`rerun --set` with selected tasks). Example: stage render has
    `("chunk", "shard")`; `interpolation` is not listed, so single tasks can be rendered with another one."""
    uses_gpu: ClassVar[bool] = False
    """Whether the tasks compute on a GPU if their worker has one; the same for all tasks of the stage."""

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Choose every value of the stage's table that was left open, and check it against the source.

        Returns:
            The table, and one line per choice with its reason.

        Raises:
            ConfigError: a value does not fit the volume or the other values.
            SourceError: a file that the table names cannot be read.
        """
        del info
        return config, []

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return everything of the configuration that determines the stage's results, as plain JSON values.

        The digest of the stage's tasks is made of this and of the digests of `upstream`. Example: stage compose returns
        its table without `[compose.chain]` if the method is relax, so a change of an unused setting makes no result
        outdated. The default is the whole table.
        """
        return job.tables[self.name].model_dump(mode="json") if self.config_type is not None else {}

    @abstractmethod
    def prepare(self, job: Job) -> None:
        """Create the arrays that the stage writes; do nothing if they exist."""

    @abstractmethod
    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield sets of tasks: those of one set are independent, and need the sets before; see the module for keys."""

    @abstractmethod
    def estimate(self, job: Job) -> Estimate:
        """Count tasks, bytes, files and memory; touch nothing."""

    def request_bytes(self, job: Job) -> int:
        """Return the bytes of a typical request of the stage: by default a chunk of the source."""
        return math.prod(open_source(job).chunk(0)) * job.info.dtype.itemsize

    def task_fields(
        self,
        job: Job,
        name: str,
        *,
        pixels: int = 0,
        fixes: VolumeFixes = NO_FIXES,
        clusters: Iterable[FixCluster] = (),
        stop: int = 0,
    ) -> TaskFields:
        """Return the common fields of a task.

        Args:
            job: the run.
            name: unique name of the task in the stage. It determines the page of its ledger entry; see the module.
            pixels: source pixels (mip 0) that the task covers.
            fixes: the part of the user's fixes on which the task depends.
            clusters: changes of the fixes since the fit on which it depends.
            stop: section after the last one that it uses, see `Job.task_digest`.
        """
        return TaskFields(
            key=f"{self.name}/{name}",
            output=job.output,
            digest=clusters_digest(job, self.name, clusters, fixes, stop=stop),
            pixels=pixels,
            uses_gpu=self.uses_gpu,
            job=job,
        )
