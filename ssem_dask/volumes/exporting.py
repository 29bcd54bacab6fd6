"""Write a volume, with all of its levels, in a format that other tools read: OME-Zarr 0.4, neuroglancer-precomputed.

The ledger is beside the volume that is written, so that an interrupted export resumes, and a file there records what is
exported (`storage.run_group`). The entries carry digests of what the tasks read (`volumes.origins`), so an export that
is repeated follows a source that has changed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork, run_on_cluster
from ssem_dask.errors import ConfigError, OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.executor import Executor
from ssem_dask.shown import without_secrets
from ssem_dask.stages import export
from ssem_dask.stages.run_arrays import ALIGNED
from ssem_dask.storage import arrays, location, places, run_group
from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.exports.zarr_v2 import ZarrV2Target
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.volume import Volume
from ssem_dask.storage.volume_checks import holds_labels
from ssem_dask.types import ShapeZYX
from ssem_dask.volumes.origins import Origin, Origins, is_complete
from ssem_dask.volumes.volume_stages import VolumeWork, run_stages

Form = Literal["ngff-0.4", "precomputed"]
PRECOMPUTED_CHUNK: ShapeZYX = (64, 64, 64)
MAX_NGFF_CHUNK_PX = 512
"""Longest side of a chunk of OME-Zarr 0.4, which otherwise has the source's chunks. Some volumes store a whole section
in one chunk."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export that was checked, with everything that its tasks need."""

    source: str
    """URL of the volume that is exported."""
    target: Target
    digest: str
    """Digest of the source's URL and of everything that decides the layout."""
    origins: Origins
    """Volume that is exported."""

    def work(self) -> VolumeWork:
        """Return the stage that writes the export."""
        return VolumeWork(
            output=self.target.url,
            stages=(
                StageWork(
                    name=export.NAME,
                    generations=[export.export_tasks(self.source, self.target, digest=self._digest)],
                    estimate=export.estimate_export(self.target),
                    digests=frozenset(map(self._digest, export.export_boxes(self.target))),
                ),
            ),
            origins=self.origins,
            check=partial(_destination_record, self),
            prepare=self.prepare,
            record_state=self.record_state,
            finish=self.target.finish,
        )

    def prepare(self) -> None:
        """Create what is missing; what was exported earlier is no volume while it is made to agree with its source."""
        self.target.reopen()
        self.target.prepare()

    def _digest(self, box: Box) -> str:
        return self.origins.digest(box.sections, mip=box.mip)

    def record_state(self, state: str) -> None:
        """Write the file at the destination that records what is exported, and the export's state."""
        record = {"source": self.source, "form": self.target.FORM, "digest": self.digest, "state": state}
        record["content"] = self.origins.content
        run_group.write_export(self.target.url, record)


def export_volume(
    source: str,
    destination: str,
    *,
    form: Form,
    chunk: ShapeZYX | None = None,
    labels: bool = False,
    sharded: bool = True,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Export a volume, in bounded memory, box by box.

    Args:
        source: URL of a run, to export its aligned volume, or of any volume (OME-Zarr or array).
        destination: URL to write to. The same export resumes if it was interrupted, and does the work again whose
            sections have changed since.
        form: `ngff-0.4` is OME-Zarr 0.4 on Zarr v2; `precomputed` needs the extra `tensorstore`.
        chunk: extent (z, y, x) of a chunk; None: as in the source; for precomputed, 64³.
        labels: the values are ids, even if the source does not say so.
        sharded: for precomputed, many chunks per file; a server must then answer requests for byte ranges.
        pixel_size: nm per pixel in y and x; overrides the source's own value.
        section_thickness: nm per section; overrides the source's own value.
        cluster: as in `align`.
        workers: as in `align`.
        observer: notified of events; None: nobody is.

    Returns:
        The status of the export; `incomplete` if the source is, or changed while it was read.

    Raises:
        SourceError: there is no such volume, or the format cannot hold it.
        OutputError: the destination holds something else, or the format cannot be written there.
        ConfigError: the chunk is empty or too large, the cluster is unknown, or its workers are too small.
    """
    plan = plan_export(
        source,
        destination,
        form=form,
        chunk=chunk,
        labels=labels,
        sharded=sharded,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
    )
    return run_on_cluster(partial(run_export, plan), plan.work(), cluster=cluster, workers=workers, observer=observer)


def plan_export(
    source: str,
    destination: str,
    *,
    form: Form,
    chunk: ShapeZYX | None,
    labels: bool,
    sharded: bool,
    pixel_size: float | None,
    section_thickness: float | None,
) -> ExportPlan:
    """Check everything and plan the export, without changing anything; arguments and errors as in `export_volume`."""
    source, destination = without_secrets(source), without_secrets(destination)
    places.refuse_overlap(destination, {"the source": source})
    url, attributes = _resolve_source(source)
    volume = Volume.open(url, pixel_size=pixel_size, section_thickness=section_thickness)
    common: dict[str, Any] = {
        "url": destination.removeprefix("precomputed://") if form == "precomputed" else destination,
        "info": volume.info,
        "mips": len(volume.mips),
        "depth": volume.chunk(0)[0],
        "labels": labels or holds_labels(attributes, dtype=volume.info.dtype),
    }
    target: Target
    if form == "precomputed":
        target = PrecomputedTarget(**common, chunk=chunk or PRECOMPUTED_CHUNK, sharded=sharded)
    elif sharded:
        z, y, x = (min(n, MAX_NGFF_CHUNK_PX) for n in volume.chunk(0))
        target = ZarrV2Target(**common, chunk=chunk or (z, y, x))
    else:
        raise ConfigError("export: chunks of OME-Zarr 0.4 are never sharded; leave --unsharded out.")
    target.check()
    digest = digest_of(
        {
            "source": url,
            "form": form,
            "info": [*volume.info.shape, volume.info.dtype.str, volume.info.pixel_size, volume.info.section_thickness],
            "layout": [target.mips, target.chunk, target.labels, sharded, *target.leading],
        }
    )
    origins = Origins(options={"export": digest}, origins=(Origin(name=url, read=volume.fingerprints),))
    plan = ExportPlan(source=url, target=target, digest=digest, origins=origins)
    _destination_record(plan)
    return plan


def run_export(plan: ExportPlan, *, executor: Executor, observer: Observer) -> Summary:
    """Run the pending tasks of a plan; do nothing if it is complete. Errors as in `export_volume`."""
    url = plan.target.url
    record = _destination_record(plan)
    if record is not None and (record.get("state"), record.get("content")) == ("complete", plan.origins.content):
        summary = Summary(output=url, state="complete")
        for report in open_ledger(url).reports(export.NAME):
            summary.add(report)
        return summary
    if not is_complete(plan.source):
        observer.note(f"{plan.source} is not complete: pixels that are not written yet are exported as 0.")
    return run_stages(plan.work(), executor=executor, observer=observer)


def _resolve_source(source: str) -> tuple[str, dict[str, Any]]:
    """Return the URL of the volume to export, and its group's attributes."""
    attributes = arrays.group_attributes(source) or {}
    if run_group.KEY not in attributes:
        return source, attributes
    aligned = location.join(source, ALIGNED)
    aligned_attributes = arrays.group_attributes(aligned)
    if aligned_attributes is None:
        raise SourceError(f"{source}: this run has no aligned volume yet; finish it with 'ssem-dask run' first.")
    run_group.parse_run_record(source, attributes[run_group.KEY])  # raises if it is of a later format
    return aligned, aligned_attributes


def _destination_record(plan: ExportPlan) -> dict[str, Any] | None:
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
