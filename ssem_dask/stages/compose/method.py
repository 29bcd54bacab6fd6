"""The interface of a method of stage compose, and the common fields of its tasks."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.stages.fix_clusters import FixCluster, clusters_digest
from ssem_dask.stages.job import Job
from ssem_dask.stages.section_labels import listed_sections
from ssem_dask.stages.stage import Estimate, JobTask, TaskFields
from ssem_dask.units import plural

STAGE = "compose"
USES_GPU = True


class ComposeMethod(ABC):
    """A way from pair fields to one field per section."""

    @abstractmethod
    def prepare(self, job: Job) -> None:
        """Create the arrays of the method."""

    @abstractmethod
    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the tasks of the method, a set of independent ones at a time."""

    @abstractmethod
    def estimate(self, job: Job) -> Estimate:
        """Return the cost of the method."""


def compose_fields(
    job: Job,
    name: str,
    *,
    pixels: int = 0,
    fixes: VolumeFixes = NO_FIXES,
    clusters: Iterable[FixCluster] = (),
    stop: int = 0,
) -> TaskFields:
    """Return the common fields of a task of stage compose; arguments as of `Stage.task_fields`."""
    return TaskFields(
        key=f"{STAGE}/{name}",
        output=job.output,
        digest=clusters_digest(job, STAGE, clusters, fixes, stop=stop),
        pixels=pixels,
        uses_gpu=USES_GPU,
        job=job,
    )


def named_sections(job: Job, sections: Sequence[int]) -> str:
    """Return sections as text, for example 2 sections: 3 (S004.tif), 4 (S005.tif)."""
    return f"{plural(len(sections), 'section')}: {listed_sections(job, sections, limit=len(sections))}"
