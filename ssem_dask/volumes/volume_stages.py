"""Work on a volume outside a run: a sequence of stages whose ledger and recorded state are beside the written volume.

So, like a run, an interrupted warp or export resumes, and two drivers cannot write one volume at the same time.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ssem_dask.driver.pipeline import PROCESS_BYTES
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork, run_generations
from ssem_dask.errors import LeaseLostError
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWork:
    """All stages that write one volume, and how they begin and end."""

    output: str
    """URL of the written volume, which holds the ledger."""
    stages: tuple[StageWork, ...]
    prepare: Callable[[], None]
    """Creates the arrays; does nothing if they exist."""
    record_state: Callable[[str], None]
    """Records `running`, `incomplete` or `complete` at the output."""
    finish: Callable[[], None] = lambda: None
    """Runs after the last task of a complete volume, before its state is recorded."""

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task, its process included."""
        return PROCESS_BYTES + max(stage.estimate.memory for stage in self.stages)

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""
        return max(stage.estimate.gpu_memory for stage in self.stages)


def run_stages(work: VolumeWork, *, executor: Executor, observer: Observer) -> Summary:
    """Run the pending tasks of all stages; stops after a generation in which a task failed."""
    dashboard = dashboard_message(executor)
    if dashboard is not None:
        observer.note(dashboard)
    summary = Summary(output=work.output, state="complete")
    work.record_state("running")
    with exclusive_driver(work.output, executor) as guarded:
        try:
            work.prepare()
            for stage in work.stages:
                run_generations(stage, summary=summary, executor=guarded, observer=observer)
                if summary.failed:
                    break
            if summary.state == "complete":
                work.finish()
        except LeaseLostError:
            raise  # another driver writes the volume now, and records its state
        except BaseException:
            work.record_state("incomplete")
            raise
        work.record_state(summary.state)
    return summary
