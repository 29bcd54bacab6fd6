"""Append: sections that were imaged after a run was aligned extend it; what is finished stays unchanged.

The statistics of the sections that the run began with, its *fit*, hold for all that are appended. The result is a
function of the fit and of all sections, not of the batches that they came in. `--settle` makes all sections the fit;
the run then is the one that would have aligned them at once.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pace import with_batch
from ssem_dask.driver.pipeline import Plan, plan, resume
from ssem_dask.driver.run_extent import RunExtent, extent_of, locked_sections
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.source_fingerprints import accept_grown
from ssem_dask.errors import OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.compose.layout import restriction_factor
from ssem_dask.stages.job import GROWN_AHEAD, GROWN_BEHIND, GROWN_DEPTH, Job
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import RunRecord, read_writable_run, update_run
from ssem_dask.storage.section_changes import read_changes
from ssem_dask.storage.volume import Volume
from ssem_dask.units import plural, shortened

LEAST_FITTED = 32
"""Fitted sections from which on statistics are kept; with fewer, each batch fits all sections again."""
FEW_FITTED = 64
"""Sections up to which the statistics are fitted again as soon as there are twice as many sections."""
_SHOWN = 12
_COMPARED = 8
"""Old sections that are compared, if the source is another volume than before."""


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """An append that was checked and counted."""

    plan: Plan
    before: int
    """Sections of the run."""
    after: int
    """Sections that it will have."""
    refit: str
    """Why the statistics are fitted again, with all sections; empty if they stay."""
    fitted: int
    """Sections whose statistics hold."""
    source_changes: int = 0
    """Number of changes of the source that the run knows of afterwards."""

    @property
    def locked(self) -> int:
        """Sections that stay equal to the bit: none, if the statistics are fitted again."""
        if self.refit:
            return 0
        reached = (max(0, z - GROWN_DEPTH - GROWN_AHEAD) for z in self.plan.rewritten)
        return min(locked_sections(self.before), *reached) if self.plan.rewritten else locked_sections(self.before)

    def sentences(self) -> list[str]:
        """Return what is done, for the user."""
        new = self.after - self.before
        first = f"Sections {self.before} to {self.after - 1} are appended." if new else "No section is new."
        if self.refit:
            return [first, f"All {self.after} sections are fitted again, so none stays as it was: {self.refit}."]
        lines = [first]
        if self.locked:
            lines.append(
                f"Sections 0 to {self.locked - 1} are locked: they stay as they are; {self.locked} to "
                f"{self.before - 1} are solved for again with those that follow."
            )
        if self.plan.rewritten:
            lines.append(
                f"{plural(len(self.plan.rewritten), 'section')} came late or again: "
                f"{shortened(map(str, self.plan.rewritten), limit=_SHOWN)}."
            )
        if self.after >= 2 * self.fitted:
            lines.append(
                f"The statistics rest on sections 0 to {self.fitted - 1} of {self.after}; --refit fits them again."
            )
        return lines


def plan_append(output: str, source: str | None, *, refit: bool = False, settle: bool = False) -> AppendPlan:
    """Find what an append has to do, without changing anything.

    Args:
        output: URL of the run.
        source: URL of a volume with the sections of the run and those to append; None: the source of the run.
        refit: whether the statistics are fitted again, with all sections.
        settle: whether the run becomes the one that would have aligned all sections at once.

    Raises:
        SourceError: there is no run, or the volume has fewer sections than the run, or other ones.
        OutputError: the run was never complete.
    """
    record = read_writable_run(output)
    before, extent = run_sections(output, record), extent_of(record)
    place = record.source if source is None else source
    volume = Volume.open(
        place,
        pixel_size=record.pixel_size,
        section_thickness=record.section_thickness,
        channel=record.channel,
    )
    after = volume.info.shape[0]
    if after < before:
        raise SourceError(
            f"{place}: has {after} sections, but the run {output} has {before}; give the volume with all of them, "
            "and the new ones after them."
        )
    if record.state != "complete" and not record.fitted_sections:
        raise OutputError(
            f"{output}: the run is not complete, so there is nothing to append to; finish it with 'ssem-dask align "
            f"{record.source} {output}' first."
        )
    if source is not None:
        _refuse_other_sections(record, volume, count=before)
    tree = {**record.given, "source": place, "output": output}
    config = make_config(tree, where=f"Run {output}")
    fitted = extent.fitted or before
    reason = "--settle was given" if settle else "--refit was given" if refit else _reason(fitted, after)
    if not reason and after > fitted:
        trial = plan(config, source_identity=record.source_identity, extent=RunExtent(before, fitted))
        reason = _needs_all(trial.job)
    if reason and after > 0:
        fitted = after
    planned = plan(config, source_identity=record.source_identity, extent=RunExtent(after, fitted))
    changes = read_changes(place)
    rewritten = [z for z in changes.since(record.source_changes) if z < before]
    # A section that was written again changes sections before it, so these are checked as well.
    known = min([record.finished_sections, before, *(max(0, z - GROWN_BEHIND) for z in rewritten)])
    locked = 0 if reason else locked_sections(known)
    if after == before and not (settle or refit):
        reason = ""
    planned = replace(planned, locked=locked, rewritten=tuple(rewritten))
    return AppendPlan(planned, before, after, reason, fitted, len(changes.made))


def execute_append(
    planned: AppendPlan, *, executor: Executor, observer: Observer, allow_missing: bool = False
) -> Summary:
    """Extend the run; errors as in `pipeline.run`."""
    job = planned.plan.job
    with exclusive_driver(job.output, executor) as guarded:
        for line in planned.sentences():
            observer.note(line)
        begun = time.monotonic()
        accept_grown(job, before=planned.before)
        summary = resume(planned.plan, None, executor=guarded, observer=observer, allow_missing=allow_missing)
        if summary.state == "complete":
            batches = read_writable_run(job.output).batches
            update_run(
                job.output,
                finished_sections=planned.after,
                source_changes=planned.source_changes,
                batches=with_batch(batches, sections=planned.after, seconds=time.monotonic() - begun),
            )
        return summary


def run_sections(output: str, record: RunRecord) -> int:
    """Return the number of sections of a run."""
    if record.sections:
        return record.sections
    return int(open_array(join(output, *SECTION.path.split("/")), mode="r").shape[0])


def _reason(fitted: int, after: int) -> str:
    if fitted < LEAST_FITTED:
        return f"statistics of {plural(fitted, 'section')} are too few to keep"
    if fitted <= FEW_FITTED and after >= 2 * fitted:
        return f"there are twice as many as the {fitted} that the statistics were fitted to"
    return ""


def _needs_all(job: Job) -> str:
    """Return why the settings of a run leave nothing locked; empty if they do."""
    if job.compose.method != "relax" or job.compose.relax.natural_motion != "keep":
        return 'only [compose] method = "relax" with natural_motion = "keep" has statistics that can be kept'
    if job.slabs:
        return "slabs have statistics of their own"
    if restriction_factor(job) > 1:
        return "sections this wide are solved for in tiles, all at once"
    if job.compose.reference.has_anchors or job.compose.far.distances:
        return "anchors concern all sections"
    if job.coarse.sections != "separate" or job.coarse.initial is not None:
        return 'only [coarse] sections = "separate" without initial affines places sections one by one'
    if job.render.contrast == "match":
        return '[render] contrast = "match" fits the grey values of all sections'
    if job.mask.user is not None:
        return "the mask of the user covers the sections of the fit alone"
    return ""


def _refuse_other_sections(record: RunRecord, volume: Volume, *, count: int) -> None:
    """Raise SourceError if the first sections of a volume are not those of the run, as far as a sample shows."""
    if volume.url == record.source:
        return
    try:
        old = record.open_source()
    except SourceError:
        return  # it is gone: the new one has taken its place
    if old.info.shape[1:] != volume.info.shape[1:] or old.info.dtype != volume.info.dtype:
        raise SourceError(
            f"{volume.url}: sections are {volume.info.shape[1:]} {volume.info.dtype}, but those of the run are "
            f"{old.info.shape[1:]} {old.info.dtype}; give a volume of the same sections."
        )
    mip = min(old.mips[-1], volume.mips[-1])
    _, height, width = volume.shape_at(mip)
    top, left = max(0, height // 2 - 256), max(0, width // 2 - 256)
    for z in sorted({round(z) for z in np.linspace(0, min(count, old.info.shape[0]) - 1, _COMPARED)}):
        box = Box((z, top, left), (z + 1, min(height, top + 512), min(width, left + 512)), mip)
        if not np.array_equal(old.read(box), volume.read(box)):
            raise SourceError(
                f"{volume.url}: its section {z} is not that of the run; the sections of the run come first, in the "
                "same order, and the new ones after them."
            )


def summary_record(planned: AppendPlan, summary: Summary) -> dict[str, Any]:
    """Return what a batch has done, as JSON values."""
    from ssem_dask.section_record import matching_records

    records = [] if summary.attention is None else summary.attention.records
    new = [record for record in matching_records(records, ("any",)) if record.z >= planned.locked]
    return {
        "output": summary.output,
        "state": summary.state,
        "sections": planned.after,
        "appended": [planned.before, planned.after],
        "locked": planned.locked,
        "final": locked_sections(planned.after),
        "fitted": planned.fitted,
        "refit": planned.refit,
        "attention": [record.to_json() for record in new],
        "failed": [report.key for report in summary.failed],
    }
