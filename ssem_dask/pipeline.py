"""The pipeline: a loop over stages and generations. What has been done stands in the store, not in a scheduler.

A task is done if its ledger entry carries the digest of the current configuration and did not fail; everything else is
to do. So an interrupted run goes on where it was, and running a finished one does nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ssem_dask import __version__
from ssem_dask.config import RunConfig, cluster_settings, config_digest, make_config, resolve, stored_config
from ssem_dask.errors import OutputError
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.events import Observer, Silent, StageStarted
from ssem_dask.runtime.execute import execute, open_ledger
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages import calibrate, coarse, compose, downsample, mask, register, render
from ssem_dask.stages.job import Estimate, Job, Stage
from ssem_dask.stages.sections import refuse_blank
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.location import exists
from ssem_dask.storage.run import create_run, read_run, update_run
from ssem_dask.task import Outcome, Result, Task, TaskReport

FORMAT = 1
STAGES: tuple[Stage, ...] = cast(tuple[Stage, ...], (coarse, mask, calibrate, register, compose, render, downsample))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do; making it touches nothing but the source's metadata."""

    job: Job
    choices: list[str]
    """What was chosen from the data, a line each."""
    estimates: dict[str, Estimate]
    """Of the stages that have something to do."""
    digest: str

    @property
    def task_memory(self) -> int:
        """Peak bytes of the largest task."""
        return max((estimate.memory for estimate in self.estimates.values()), default=0)


@dataclass(slots=True)
class Summary:
    """How a run ended."""

    output: str
    state: str
    """`complete`, or `incomplete` where a task failed."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of tasks for each stage and outcome, those of earlier runs included."""
    failed: list[TaskReport] = field(default_factory=list)
    remarks: list[TaskReport] = field(default_factory=list)
    """Tasks that ended as expected but have something to say."""
    choices: list[str] = field(default_factory=list)
    """What was chosen before it began, as in `Plan`; empty where that is not known any more."""


def plan(config: RunConfig) -> Plan:
    """Resolve a configuration and count what it takes.

    Raises:
        SourceError, ConfigError, WeightsError: see `config.resolve`.
    """
    job, choices = resolve(config)
    estimates = {stage.NAME: stage.estimate(job) for stage in STAGES}
    estimates = {name: estimate for name, estimate in estimates.items() if estimate.tasks}
    return Plan(job=job, choices=choices, estimates=estimates, digest=config_digest(job))


def run(plan: Plan, *, executor: Executor, observer: Observer) -> Summary:
    """Do what is left to do of a plan.

    Stops after a stage in which a task failed, since the stages after it would build on a hole.

    Raises:
        OutputError: the output cannot be written, or belongs to something else.
        SourceError: the source shows nothing, or a place cannot be reached.
    """
    if not exists(plan.job.output):
        refuse_blank(plan.job)
    open_run(plan)
    try:
        return _run_stages(plan, executor=executor, observer=observer)
    except BaseException:
        update_run(plan.job.output, state="incomplete")
        raise


def _run_stages(plan: Plan, *, executor: Executor, observer: Observer) -> Summary:
    job = plan.job
    summary = Summary(output=job.output, state="complete", choices=list(plan.choices))
    for choice in plan.choices:
        observer.note(choice)
    for stage in (stage for stage in STAGES if stage.NAME in plan.estimates):
        stage.prepare(job)
        run_generations(
            stage.NAME,
            stage.generations(job),
            work=stage.run,
            estimate=plan.estimates[stage.NAME],
            digest=job.digests[stage.NAME],
            summary=summary,
            executor=executor,
            observer=observer,
        )
        if summary.failed:
            break
    update_run(job.output, state=summary.state)
    return summary


def run_generations(
    name: str,
    generations: Iterable[Iterable[Task]],
    *,
    work: Callable[[Task], Result],
    estimate: Estimate,
    digest: str,
    summary: Summary,
    executor: Executor,
    observer: Observer,
) -> None:
    """Do what is left to do of one stage, and count it in `summary`; stops after a generation in which a task failed.

    Args:
        name: of the stage.
        generations: its tasks.
        work: does one of them.
        estimate: what the stage is going to cost.
        digest: that its tasks' ledger entries must carry to count as done.
        summary: of the run so far; changed.
        executor: runs the tasks.
        observer: told what happens.
    """
    done = done_tasks(open_ledger(summary.output), name, digest=digest)
    counts = summary.counts.setdefault(name, {})
    observer.stage_started(_started(name, estimate, done))
    for report in done.values():
        _count(report, counts, summary)
    for generation in generations:
        for report in executor.map(partial(execute, run=work), _left(generation, done)):
            observer.task_ended(report)
            _count(report, counts, summary)
        if summary.failed:
            summary.state = "incomplete"
            break
    observer.stage_ended(name)


def open_run(plan: Plan) -> None:
    """Create the run's group, or make sure that the one that is there belongs to this plan."""
    output = plan.job.output
    if not exists(output):
        create_run(output, attributes=run_attributes(plan))
        return
    attributes = read_run(output)
    if attributes.get("config_digest") != plan.digest:
        raise OutputError(
            f"Output {output}: holds a run with another source or configuration (digest "
            f"{str(attributes.get('config_digest'))[:12]}, this one is {plan.digest[:12]}); choose another output, or "
            "remove that one."
        )
    update_run(output, state="running")


def run_attributes(plan: Plan) -> dict[str, Any]:
    """What the run's group says of itself."""
    job = plan.job
    return {
        "format": FORMAT,
        "version": __version__,
        "config": stored_config(job),
        "config_digest": plan.digest,
        "source": job.source,
        "encoder_digest": job.encoder_digest,
        "state": "running",
    }


def done_tasks(ledger: Ledger, stage: str, *, digest: str) -> dict[str, TaskReport]:
    """The tasks of a stage that need not be done again, by key."""
    return {
        report.key: report
        for report in ledger.reports(stage)
        if report.digest == digest and report.outcome is not Outcome.FAILED
    }


def align(
    source: str,
    output: str,
    *,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
    **config: Any,
) -> Summary:
    """Align a volume with defaults.

    Args:
        source: URL of the source volume (Zarr; see `ssem-dask import` for other formats).
        output: URL of the run's Zarr group, made if it is not there, continued if it is.
        cluster: `serial`, `local`, `local-gpu`, the address of a Dask scheduler, or a TOML file with a `[cluster]`
            table.
        workers: workers of a cluster that is started; one a core if None.
        observer: told what happens; None: nobody.
        config: tables of the configuration, e.g. `register={"neighbours": 2}`.

    Raises:
        SsemDaskError: bad input, configuration or output, in one sentence.
    """
    settings = make_config({"source": source, "output": output, **config}, where="align")
    planned = plan(settings)
    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    executor = open_cluster(where.name, workers=where.workers, settings=where, task_memory=planned.task_memory)
    try:
        return run(planned, executor=executor, observer=observer or Silent())
    finally:
        executor.close()


def _left(tasks: Iterable[Task], done: dict[str, TaskReport]) -> Iterator[Task]:
    return (task for task in tasks if task.key not in done)


def _started(name: str, estimate: Estimate, done: dict[str, TaskReport]) -> StageStarted:
    return StageStarted(
        stage=name,
        tasks=estimate.tasks,
        pixels=estimate.pixels,
        done_tasks=len(done),
        done_pixels=sum(report.pixels for report in done.values()),
    )


def _count(report: TaskReport, counts: dict[str, int], summary: Summary) -> None:
    counts[report.outcome] = counts.get(report.outcome, 0) + 1
    if report.outcome is Outcome.FAILED:
        summary.failed.append(report)
    elif report.message:
        summary.remarks.append(report)
