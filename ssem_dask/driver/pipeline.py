"""The pipeline: a loop over stages and their generations. All state lives in the store, not in the scheduler.

An interrupted run resumes: tasks that are done are not repeated, unless something that they read is recomputed. Running
a finished run does nothing.
"""

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from ssem_dask import __version__
from ssem_dask.config.digest import config_digest, stored_config
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import RunConfig
from ssem_dask.driver.aligned_attributes import publish_attributes
from ssem_dask.driver.grown_arrays import grow_arrays
from ssem_dask.driver.integrity import mark_damaged
from ssem_dask.driver.invalidation import TaskFilter, find_stale, mark_stale
from ssem_dask.driver.overrides import TaskOverrides
from ssem_dask.driver.planned_tasks import any_done
from ssem_dask.driver.run_extent import RunExtent, recorded_extent
from ssem_dask.driver.run_fixes import GivenFixes, RunFixes, with_fixes
from ssem_dask.driver.run_status import Summary, current_attention, run_status
from ssem_dask.driver.source_fingerprints import (
    changed_sections,
    changed_while_read,
    distrust_changed,
    read_fingerprints,
    save_fingerprints,
    spans_of,
)
from ssem_dask.driver.stored_metadata import restore_metadata
from ssem_dask.driver.tasks import StageWork, run_generations
from ssem_dask.errors import LayoutError, LeaseLostError, OutputError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Region
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message
from ssem_dask.runtime.memory import PROCESS_BYTES
from ssem_dask.stages.configs import MaskStageConfig
from ssem_dask.stages.files import refuse_shared_shards
from ssem_dask.stages.job import GROWN_DEPTH, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.source_sections import open_source, refuse_blank
from ssem_dask.stages.stage import Estimate, Stage
from ssem_dask.storage.fence import confirm_fence
from ssem_dask.storage.formats.zarr_array import missing_in_source
from ssem_dask.storage.late_writes import mark_overwritten
from ssem_dask.storage.ledger import Ledger, open_ledger, page_start
from ssem_dask.storage.location import delete
from ssem_dask.storage.places import is_occupied, refuse_overlap
from ssem_dask.storage.run_group import create_run, read_writable_run, update_run
from ssem_dask.storage.run_source import source_places

_PACKAGES = ("numpy", "torch", "scipy", "zarr", "dask")
"""Packages whose versions a run records."""
_REPAIR_ROUNDS = 3
"""Rounds over the stages at most. A further round only if damage was found and marked; tasks that still fail after the
last one are reported as failed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved run and its cost. Making a plan touches nothing but the source's metadata."""

    job: Job
    choices: list[str]
    """Choices made from the data, one line per choice."""
    estimates: dict[str, Estimate]
    """Cost of each stage that has tasks."""
    digest: str
    """Digest of source, weights and configuration."""
    given: dict[str, Any]
    """Configuration as the user gave it, without the choices."""
    fixes: RunFixes
    """Texts of the user's fixes, whose meaning the job has."""
    locked: int = 0
    """Sections whose results are known to be finished, so that their tasks are not looked at."""
    rewritten: tuple[int, ...] = ()
    """Sections of the source that were written again since the run read them."""

    @property
    def stages(self) -> list[Stage]:
        """The stages that have tasks, in order."""
        return [stage for stage in STAGES if stage.name in self.estimates]

    def is_live(self, page: str) -> bool:
        """Return whether a page of the ledger may have tasks of sections that are not known to be finished."""
        start = page_start(page)
        depth = max(self.job.render.shard[0], self.job.register.sections, GROWN_DEPTH)
        return start is None or start + depth > self.locked - GROWN_DEPTH

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that runs the largest task, its process included."""
        return PROCESS_BYTES + max((estimate.memory for estimate in self.estimates.values()), default=0)

    @property
    def gpu_memory(self) -> int:
        """Peak bytes of a GPU that the largest task takes."""
        return max((estimate.gpu_memory for estimate in self.estimates.values()), default=0)


def plan(
    config: RunConfig,
    *,
    source_identity: str | None = None,
    fixes: GivenFixes | None = None,
    refit: bool = False,
    extent: RunExtent | None = None,
) -> Plan:
    """Resolve a configuration and estimate its cost.

    Args:
        config: the configuration.
        source_identity: see `config.resolve`.
        fixes: what the user knows about sections; None: the fixes that the run at the output has.
        refit: whether statistics are fitted again if fixes have changed.
        extent: sections that the run is to have, see `driver.append`; None: those that it has.

    Raises:
        SourceError, ConfigError, WeightsError: see `config.resolve` and `run_fixes.meaning`.
        OutputError: the output would be written into the source or the mask, or around it.
    """
    mask = config.table("mask")
    assert isinstance(mask, MaskStageConfig)
    refuse_overlap(config.output, {"the source": config.source, "the mask": mask.user})
    extent = recorded_extent(config.output) if extent is None else extent
    job, choices = resolve(
        config, source_identity=source_identity, growth=extent.growth, sections=extent.sections or None
    )
    job, run_fixes = with_fixes(job, fixes, refit=refit)
    choices += missing_in_source(job.source)
    found = ((stage, stage.estimate(job)) for stage in STAGES)
    estimates = {stage.name: _with_requests(stage, estimate, job) for stage, estimate in found if estimate.tasks}
    refuse_shared_shards(job, [stage for stage in STAGES if stage.name in estimates])
    given = config.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"cluster"})
    given["cluster"] = config.cluster.remembered()
    return Plan(job=job, choices=choices, estimates=estimates, digest=config_digest(job), given=given, fixes=run_fixes)


def _with_requests(stage: Stage, estimate: Estimate, job: Job) -> Estimate:
    """Add the number of requests: one per chunk read, file written and ledger entry."""
    chunks = ceil_div(estimate.bytes_read, stage.request_bytes(job))
    return replace(estimate, requests=chunks + estimate.files + estimate.tasks)


def run(plan: Plan, *, executor: Executor, observer: Observer, allow_missing: bool = False) -> Summary:
    """Run the pending tasks of a plan.

    Stops after a stage in which a task failed, since later stages would build on missing results.

    Args:
        plan: the run.
        executor: runs the tasks.
        observer: receives events.
        allow_missing: continue after failures; failed parts read as unknown. The run stays `incomplete`.

    Raises:
        OutputError: the output cannot be written, or belongs to something else.
        SourceError: the source is blank, or a location cannot be reached.
    """
    if not is_occupied(plan.job.output):
        refuse_blank(plan.job)
    else:
        refuse_other_run(plan)  # before the lease: nothing is changed in what is not ours
    with exclusive_driver(plan.job.output, executor) as guarded:
        open_run(plan)
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
    """Mark stale results of an existing run, then run all pending tasks; the caller holds `exclusive_driver`.

    If a task fails because an input was damaged after it had been written, the input is written again and the task is
    repeated.

    Args:
        plan: the run.
        selection: tasks that the user wants to run again; no other failed task then runs again. None: all do.
        executor: runs the tasks.
        observer: receives events.
        allow_missing: as in `run`.
        overrides: configuration values for the chosen tasks alone, by dotted key.
    """
    output = plan.job.output
    update_run(output, **run_attributes(plan))
    try:
        ledger = open_ledger(output)
        mark_overwritten(ledger)
        grow_arrays(plan.job)
        for restored in restore_metadata(plan.job, stages=plan.stages, ledger=ledger):
            observer.note(restored)
        fingerprints = read_fingerprints(plan.job)
        # If the user chooses tasks, nothing else runs again: the next run without a selection handles a changed source.
        changed = changed_sections(plan.job, fingerprints) if selection is None else []
        changed += [Region("source", plan.job.sections_box(z, z + 1)) for z in plan.rewritten]
        invalidation = find_stale(
            plan.job,
            stages=STAGES,
            ledger=ledger,
            changed_source=changed,
            selection=selection,
            overrides=overrides,
            is_live=plan.is_live,
        )
        confirm_fence()
        mark_stale(invalidation, ledger)
        plan.fixes.keep(output)
        (save_fingerprints if selection is None else distrust_changed)(plan.job, fingerprints)
        for line in (dashboard_message(executor), *plan.choices):
            if line is not None:
                observer.note(line)
        if invalidation.remark:
            observer.note(invalidation.remark)
        allowed = None if selection is None else frozenset(invalidation.chosen)  # failed tasks that may run again
        for _ in range(_REPAIR_ROUNDS):
            summary = Summary(output=output, state="complete", choices=list(plan.choices))
            summary.again = invalidation.keys()
            _run_stages(
                plan,
                summary,
                executor=executor,
                observer=observer,
                allow_missing=allow_missing,
                allowed_failures=allowed,
            )
            failed_attempts = [report for report in summary.failed if allowed is None or report.key in allowed]
            damaged = mark_damaged(failed_attempts, plan.job, stages=STAGES, executor=executor)
            late = _mark_late(plan.job, ledger)
            if not damaged and not late:
                break
            for key in late:
                observer.note(f"{key}: a task of an earlier driver ended late and may have overwritten it.")
            for report in damaged:
                observer.note(f"{report.key}: its output is damaged and is written again: {report.message}")
            allowed = None if allowed is None else allowed | {report.key for report in damaged} | late
        if late:  # in the last round as well
            summary = run_status(output)
            summary.state = "incomplete"
        reason = changed_while_read(plan.job, fingerprints)
        if reason:
            summary.state = "incomplete"
            summary.reasons.append(reason)
            observer.note(reason)
        summary.attention = current_attention(output, summary)
        publish_attributes(plan.job, summary)
        update_run(output, state=summary.state)
        return summary
    except LeaseLostError:
        raise  # another driver holds the run, and writes its state
    except BaseException:
        confirm_fence()  # an error because the output was removed is reported as that
        update_run(output, state="incomplete")
        raise


def _mark_late(job: Job, ledger: Ledger) -> frozenset[str]:
    """Mark results that late tasks of an earlier driver have overwritten, and all that was made from these results.

    Returns:
        Keys of the overwritten tasks.
    """
    late = mark_overwritten(ledger)
    if late:
        dependents = find_stale(
            job, stages=STAGES, ledger=ledger, selection=lambda task, _entry, _footprint: task.key in late
        )
        mark_stale(dependents, ledger)
    return late


def _refuse_changed_source(job: Job) -> None:
    """Raise OutputError if existing results were computed from sections that have since changed."""
    changed = changed_sections(job, read_fingerprints(job))
    if not changed:
        return
    invalidation = find_stale(job, stages=STAGES, ledger=open_ledger(job.output), changed_source=changed)
    if invalidation.changed:
        raise OutputError(
            f"{job.source}: sections {spans_of(changed)} have been written since they were read, "
            f"and {len(invalidation.changed)} results were computed from the earlier content; "
            f"recompute them with 'ssem-dask rerun {job.output}', or choose another output."
        )


def _run_stages(
    plan: Plan,
    summary: Summary,
    *,
    executor: Executor,
    observer: Observer,
    allow_missing: bool,
    allowed_failures: frozenset[str] | None,
) -> None:
    """Run all stages once and count their tasks in the summary."""
    job = plan.job
    overrides = TaskOverrides(job, plan.given)
    for stage in plan.stages:
        _prepare(stage, job)
        run_generations(
            StageWork(
                name=stage.name,
                generations=stage.generations(job),
                estimate=plan.estimates[stage.name],
                digests=(job.digests[stage.name],),
            ),
            summary=summary,
            executor=executor,
            observer=observer,
            overrides=overrides,
            allow_missing=allow_missing,
            allowed_failures=allowed_failures,
            is_live=plan.is_live,
        )
        if summary.failed and not allow_missing:
            break


def _prepare(stage: Stage, job: Job) -> None:
    """Create a stage's arrays; replace arrays whose layout an overridden configuration has changed.

    Raises:
        LayoutError: such an array holds results that are still valid.
    """
    while True:  # each round deletes one array, of which there are few
        try:
            stage.prepare(job)
        except LayoutError as error:
            if any_done(open_ledger(job.output), stage.name, digest=job.digests[stage.name]):
                raise
            delete(error.url, recursive=True)  # after asking the store whether this driver still holds the lease
        else:
            return


def open_run(plan: Plan) -> None:
    """Create the run's group, or check that the existing one belongs to this plan; the caller holds the lease."""
    output = plan.job.output
    if not is_occupied(output):
        create_run(output, attributes=run_attributes(plan))
    else:
        refuse_other_run(plan)


def refuse_other_run(plan: Plan) -> None:
    """Raise OutputError if something else than this plan's run is at the output."""
    output = plan.job.output
    record = read_writable_run(output)
    if record.config_digest != plan.digest:
        raise OutputError(
            f"Output {output}: holds a run with another source or configuration (digest "
            f"{record.config_digest[:12]}, this one is {plan.digest[:12]}); choose another output, or "
            "change that run with 'ssem-dask rerun', which recomputes the parts that the change concerns."
        )


def run_attributes(plan: Plan) -> dict[str, Any]:
    """Return the attributes of the run's group."""
    job = plan.job
    return {
        "version": __version__,
        "config": stored_config(job),
        "given": plan.given,
        "config_digest": plan.digest,
        "source": job.source_identity,
        **source_places(job.source, output=job.output),
        "section_names": list(open_source(job).section_names),
        "encoder_digest": job.encoder_digest,
        "stages": [stage.name for stage in STAGES],
        "sections": job.shape[0],
        "fitted_sections": 0 if job.growth is None else job.growth.fitted,
        "state": "running",
        "environment": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
