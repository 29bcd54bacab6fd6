"""The pipeline: a loop over stages and their generations. What has been done stands in the store, not in a scheduler.

What an interrupted run had done stands, unless something that it read is to be done again; so it goes on where it was,
and running a finished one does nothing.
"""

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from ssem_dask import __version__
from ssem_dask.config.digest import config_digest, stored_config
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import RunConfig, cluster_settings, make_config
from ssem_dask.driver.integrity import mark_damaged
from ssem_dask.driver.invalidation import Invalidation, TaskFilter, find_stale, mark_stale
from ssem_dask.driver.overrides import TaskOverrides
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.source_fingerprints import changed_sections, read_fingerprints, save_fingerprints
from ssem_dask.driver.tasks import run_generations
from ssem_dask.errors import LayoutError, LeaseLostError, OutputError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.events import Observer, SilentObserver
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message
from ssem_dask.stages.files import refuse_shared_shards
from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.source_sections import refuse_blank
from ssem_dask.stages.stage import Estimate, Stage
from ssem_dask.storage.ledger import Ledger, open_ledger
from ssem_dask.storage.location import delete, exists
from ssem_dask.storage.run_group import create_run, read_run_record, read_writable_run, update_run
from ssem_dask.units import plural, shortened

PROCESS = 420 << 20
"""Bytes that a worker's process holds before its first task, with all that it has imported."""
_PACKAGES = ("numpy", "torch", "scipy", "zarr", "dask")
"""Whose versions a run remembers."""
_REPAIR_ROUNDS = 3
"""Rounds over the stages: further ones only where damage was found and marked."""
_SPANS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do; making it touches nothing but the source's metadata."""

    job: Job
    choices: list[str]
    """What was chosen from the data, a line each."""
    estimates: dict[str, Estimate]
    """Of the stages that have something to do."""
    digest: str
    given: dict[str, Any]
    """The configuration as the user gave it, without what was chosen."""

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task, its process included."""
        return PROCESS + max((estimate.memory for estimate in self.estimates.values()), default=0)

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""
        return max((estimate.gpu_memory for estimate in self.estimates.values()), default=0)


def plan(config: RunConfig) -> Plan:
    """Resolve a configuration and count what it takes.

    Raises:
        SourceError, ConfigError, WeightsError: see `config.resolve`.
    """
    job, choices = resolve(config)
    estimates = {}
    for stage in STAGES:
        estimate = stage.estimate(job)
        if estimate.tasks:
            estimates[stage.name] = _with_requests(stage, estimate, job)
    refuse_shared_shards(job, [stage for stage in STAGES if stage.name in estimates])
    given = config.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"cluster"})
    given["cluster"] = config.cluster.remembered()
    return Plan(job=job, choices=choices, estimates=estimates, digest=config_digest(job), given=given)


def _with_requests(stage: Stage, estimate: Estimate, job: Job) -> Estimate:
    """Add the number of requests: one per chunk read, file written and ledger entry."""
    chunks = ceil_div(estimate.bytes_read, stage.request_bytes(job))
    return replace(estimate, requests=chunks + estimate.files + estimate.tasks)


def stored_plan(output: str) -> Plan:
    """The plan of a run that has begun, from what its group says of itself.

    Raises:
        SourceError: there is no run, or its source is gone.
        OutputError: something else is there.
        ConfigError: another version of this package began it, whose configuration is not known here.
    """
    record = read_run_record(output)
    tree = {**record.config, "source": record.source, "output": output}
    return plan(make_config(tree, where=f"Run {output}"))


def run(plan: Plan, *, executor: Executor, observer: Observer, allow_missing: bool = False) -> Summary:
    """Do what is left to do of a plan.

    Stops after a stage in which a task failed, since the stages after it would build on a hole.

    Args:
        plan: what to do.
        executor: runs the tasks.
        observer: told what happens.
        allow_missing: go on all the same; what failed reads as unknown. The run stays `incomplete`.

    Raises:
        OutputError: the output cannot be written, or belongs to something else.
        SourceError: the source shows nothing, or a place cannot be reached.
    """
    if not exists(plan.job.output):
        refuse_blank(plan.job)
    open_run(plan)
    with exclusive_driver(plan.job.output, executor) as guarded:
        _refuse_changed_source(plan.job)
        return resume(plan, None, executor=guarded, observer=observer, allow_missing=allow_missing)


def resume(
    plan: Plan,
    selection: TaskFilter | None,
    *,
    executor: Executor,
    observer: Observer,
    allow_missing: bool,
    overrides: dict[str, Any] | None = None,
) -> Summary:
    """Mark what is stale, then do what is left to do of a run that is there; the caller holds `exclusive_driver`.

    What fails since something that it reads was damaged, though it had been written well, is done once more after that
    has been written again.

    Args:
        plan: what to do.
        selection: tasks that the user wants to run again; no other failed task then runs again. None: all do.
        executor: runs the tasks.
        observer: told what happens.
        allow_missing: as in `run`.
        overrides: configuration values for the chosen tasks alone, by dotted key.
    """
    output = plan.job.output
    update_run(output, **run_attributes(plan))
    try:
        ledger = open_ledger(output)
        fingerprints = read_fingerprints(plan.job)
        # If the user chooses, nothing else runs again: a change of the source is left for another time.
        changed = changed_sections(plan.job, fingerprints) if selection is None else []
        invalidation = find_stale(
            plan.job,
            stages=STAGES,
            ledger=ledger,
            changed_source=changed,
            selection=selection,
            overrides=overrides,
        )
        mark_stale(invalidation, ledger)
        if selection is None:
            save_fingerprints(plan.job, fingerprints)
        for line in (dashboard_message(executor), *plan.choices):
            if line is not None:
                observer.note(line)
        _note_invalidation(invalidation, observer)
        only = None if selection is None else frozenset(invalidation.chosen)
        for _ in range(_REPAIR_ROUNDS):
            summary = Summary(output=output, state="complete", choices=list(plan.choices))
            summary.again = invalidation.keys()
            _run_stages(plan, summary, executor=executor, observer=observer, allow_missing=allow_missing, only=only)
            tried = [report for report in summary.failed if only is None or report.key in only]
            damaged = mark_damaged(tried, plan.job, stages=STAGES, executor=executor)
            if not damaged:
                break
            for report in damaged:
                observer.note(f"{report.key}: what it wrote is damaged and is written again: {report.message}")
            only = None if only is None else only | {report.key for report in damaged}
        update_run(output, state=summary.state)
        return summary
    except LeaseLostError:
        raise  # the run is another's, and so is its state
    except BaseException:
        update_run(output, state="incomplete")
        raise


def _refuse_changed_source(job: Job) -> None:
    """OutputError where results stand that were made from sections which are not any more what they were."""
    changed = changed_sections(job, read_fingerprints(job))
    if not changed:
        return
    invalidation = find_stale(job, stages=STAGES, ledger=open_ledger(job.output), changed_source=changed)
    if invalidation.changed:
        spans = shortened([f"{r.box.start[0]}:{r.box.stop[0]}" for r in changed], limit=_SPANS_SHOWN)
        raise OutputError(
            f"{job.source}: sections {spans} have been written since they were read, "
            f"and {len(invalidation.changed)} results rest on what they were; do these again with "
            f"'ssem-dask rerun {job.output}', or choose another output."
        )


def _note_invalidation(invalidation: Invalidation, observer: Observer) -> None:
    chosen, changed, dependent = (len(keys) for keys in invalidation.keys().values())
    if chosen or changed:
        observer.note(
            f"Recomputing {plural(chosen, 'chosen task')}, {changed} that ended with another configuration, weights or "
            f"source, and {dependent} that depend on recomputed results."
        )


def _run_stages(
    plan: Plan,
    summary: Summary,
    *,
    executor: Executor,
    observer: Observer,
    allow_missing: bool,
    only: frozenset[str] | None,
) -> None:
    """One round over all stages; fills in the summary."""
    job = plan.job
    overrides = TaskOverrides(job, plan.given)
    for stage in (stage for stage in STAGES if stage.name in plan.estimates):
        _prepare(stage, job)
        run_generations(
            stage.name,
            stage.generations(job),
            estimate=plan.estimates[stage.name],
            digest=job.digests[stage.name],
            summary=summary,
            executor=executor,
            observer=observer,
            overrides=overrides,
            allow_missing=allow_missing,
            allowed_failures=only,
        )
        if summary.failed and not allow_missing:
            break


def _prepare(stage: Stage, job: Job) -> None:
    """Create a stage's arrays; one that is laid out otherwise, by a configuration that was changed, is made anew.

    Raises:
        LayoutError: there is such an array, but results that stand lie in it.
    """
    while True:
        try:
            stage.prepare(job)
        except LayoutError as error:
            if any_done(open_ledger(job.output), stage.name, digest=job.digests[stage.name]):
                raise
            delete(error.url, recursive=True)
        else:
            return


def open_run(plan: Plan) -> None:
    """Create the run's group, or make sure that the one that is there belongs to this plan."""
    output = plan.job.output
    if not exists(output):
        create_run(output, attributes=run_attributes(plan))
        return
    record = read_writable_run(output)
    if record.config_digest != plan.digest:
        raise OutputError(
            f"Output {output}: holds a run with another source or configuration (digest "
            f"{record.config_digest[:12]}, this one is {plan.digest[:12]}); choose another output, or "
            "change that run with 'ssem-dask rerun', which does again what the change concerns."
        )


def run_attributes(plan: Plan) -> dict[str, Any]:
    """What the run's group says of itself."""
    job = plan.job
    return {
        "version": __version__,
        "config": stored_config(job),
        "given": plan.given,
        "config_digest": plan.digest,
        "source": job.source,
        "encoder_digest": job.encoder_digest,
        "stages": [stage.name for stage in STAGES],
        "state": "running",
        "environment": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def any_done(ledger: Ledger, stage: str, *, digest: str) -> bool:
    """Whether any task of a stage need not be done again."""
    return any(report.digest == digest and report.outcome.is_done for report in ledger.reports(stage))


def align(
    source: str,
    output: str,
    *,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
    allow_missing: bool = False,
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
        allow_missing: as in `run`.
        config: tables of the configuration, e.g. `register={"neighbours": 2}`.

    Raises:
        SsemDaskError: bad input, configuration or output, in one sentence.
    """
    settings = make_config({"source": source, "output": output, **config}, where="align")
    planned = plan(settings)
    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    with open_cluster(
        where.name,
        workers=where.workers,
        settings=where,
        task_memory=planned.worker_memory,
        task_gpu_memory=planned.gpu_memory,
    ) as executor:
        return run(planned, executor=executor, observer=observer or SilentObserver(), allow_missing=allow_missing)
