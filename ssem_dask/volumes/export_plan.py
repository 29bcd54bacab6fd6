"""An export that was checked, and its run: a volume, or the fields of a run, in a format that other tools read.

The ledger is beside what is written, so that an interrupted export resumes, and a file there records what is exported
(`storage.run_group`). The entries carry digests of what the tasks read (`volumes.origins`), so an export that is
repeated follows a source that has changed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork
from ssem_dask.errors import OutputError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.executor import Executor
from ssem_dask.stages import export, export_fields
from ssem_dask.storage import location, places, run_group
from ssem_dask.storage.exports.field_target import FieldTarget
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.volumes.origins import Origins, is_complete
from ssem_dask.volumes.volume_stages import VolumeWork, run_stages


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export that was checked, with everything that its tasks need."""

    source: str
    """URL of the volume, or of the run, that is exported."""
    target: Target | FieldTarget
    digest: str
    """Digest of the source's URL and of everything that decides the layout."""
    origins: Origins
    """Volume or fields that are exported."""

    def work(self) -> VolumeWork:
        """Return the stage that writes the export."""
        return VolumeWork(
            output=self.target.url,
            stages=(self._stage(),),
            origins=self.origins,
            check=partial(destination_record, self),
            prepare=self.prepare,
            record_state=self.record_state,
            finish=self.target.finish,
        )

    def prepare(self) -> None:
        """Create what is missing; what was exported earlier is no volume while it is made to agree with its source."""
        self.target.reopen()
        self.target.prepare()

    def _stage(self) -> StageWork:
        if isinstance(self.target, FieldTarget):
            by_sections = partial(self.origins.digest, mip=0)
            return StageWork(
                name=export_fields.NAME,
                generations=[export_fields.export_field_tasks(self.source, self.target, digest=by_sections)],
                estimate=export_fields.estimate_field_export(self.target),
                digests=frozenset(map(by_sections, self.target.task_sections)),
            )
        return StageWork(
            name=export.NAME,
            generations=[export.export_tasks(self.source, self.target, digest=self._digest)],
            estimate=export.estimate_export(self.target),
            digests=frozenset(map(self._digest, export.export_boxes(self.target))),
        )

    def _digest(self, box: Box) -> str:
        return self.origins.digest(box.sections, mip=box.mip)

    def record_state(self, state: str) -> None:
        """Write the file at the destination that records what is exported, and the export's state."""
        record = {"source": self.source, "form": self.target.FORM, "digest": self.digest, "state": state}
        record["content"] = self.origins.content
        run_group.write_export(self.target.url, record)


def run_export(plan: ExportPlan, *, executor: Executor, observer: Observer) -> Summary:
    """Run the pending tasks of a plan; do nothing if it is complete. Errors as in `export_volume`."""
    url = plan.target.url
    record = destination_record(plan)
    if record is not None and (record.get("state"), record.get("content")) == ("complete", plan.origins.content):
        summary = Summary(output=url, state="complete")
        for stage in plan.work().stages:
            for report in open_ledger(url).reports(stage.name):
                summary.add(report)
        return summary
    if not is_complete(plan.source):
        observer.note(f"{plan.source} is not complete: what is not written yet is exported as unknown, pixels as 0.")
    return run_stages(plan.work(), executor=executor, observer=observer)


def destination_record(plan: ExportPlan) -> dict[str, Any] | None:
    """Return the record of this export at its destination; None if nothing is there.

    Raises:
        OutputError: the destination holds something else.
    """
    url = plan.target.url
    with location.writing(url), location.as_output_error():
        record = run_group.read_export(url)
        if record is None:
            if places.is_occupied(url):
                raise OutputError(f"{url}: something else is already there; choose another destination or delete it.")
            return None
        if record.get("digest") != plan.digest:
            raise OutputError(
                f"{url}: an export of {record.get('source')} is already there, with other options, another shape or "
                "another type; choose another destination or delete it."
            )
        return record
