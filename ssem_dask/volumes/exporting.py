"""Write a volume, with all of its levels, in a format that other tools read: OME-Zarr 0.4, neuroglancer-precomputed.

The ledger lies beside the volume that is written, as that of a warp does, so that an interrupted export goes on where
it was, and a file there says what is exported (`storage.run`). Its digest is of the source's content too: what was
exported of a source that has changed since is never taken for the export of what it is now.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ssem_dask.config.digest import digest_of
from ssem_dask.config.schema import cluster_settings
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import run_generations
from ssem_dask.errors import ConfigError, LeaseLostError, OutputError, SourceError
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.events import Observer, SilentObserver
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message
from ssem_dask.stages import export
from ssem_dask.storage import arrays, location
from ssem_dask.storage import run_group as run
from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.exports.zarr_v2 import ZarrV2Target
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.volume import WARP_KEY, Volume, holds_labels
from ssem_dask.types import ShapeZYX

Form = Literal["ngff-0.4", "precomputed"]
PRECOMPUTED_CHUNK: ShapeZYX = (64, 64, 64)
LARGEST_OWN_CHUNK = 512
"""OME-Zarr 0.4 gets the source's chunks, but no longer than this, px: some volumes have a whole section in one."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export will do."""

    source: str
    """URL of the volume."""
    target: Target
    digest: str
    source_state: str
    """`complete`, or how far the run or the warp is that writes the source."""


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
        source: URL of a run, whose aligned volume is meant, or of any volume (OME-Zarr or array).
        destination: URL to write to; continued if this very export was interrupted.
        form: `ngff-0.4` is OME-Zarr 0.4 on Zarr v2; `precomputed` needs the extra `tensorstore`.
        chunk: extent (z, y, x) of a chunk; None: as in the source, and of precomputed 64³.
        labels: the values are ids, also where the source does not say so.
        sharded: of precomputed, many chunks a file; a server must then answer requests for byte ranges.
        pixel_size: nm per pixel in y and x; wins over what the source says.
        section_thickness: nm per section; wins as well.
        cluster: as in `align`.
        workers: as in `align`.
        observer: told what happens; None: nobody.

    Raises:
        SourceError: there is no such volume, or the format cannot hold it.
        OutputError: something else lies at the destination, or the format cannot be written there.
        ConfigError: the chunk is empty or too large.
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
    where = cluster_settings(cluster, workers=workers, table=ClusterConfig())
    executor = open_cluster(where.name, workers=where.workers, settings=where)
    try:
        return run_export(plan, executor=executor, observer=observer or SilentObserver())
    finally:
        executor.close()


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
    """Check everything and lay out the export; touches nothing. Arguments and errors as in `export_volume`."""
    url, state, attributes = _look_at(source)
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
        z, y, x = (min(n, LARGEST_OWN_CHUNK) for n in volume.chunk(0))
        target = ZarrV2Target(**common, chunk=chunk or (z, y, x))
    else:
        raise ConfigError("export: chunks of OME-Zarr 0.4 are never sharded; leave --unsharded out.")
    target.check()
    digest = digest_of(
        {
            "source": url,
            "stamps": sorted(volume.fingerprints().items()),
            "form": form,
            "info": [*volume.info.shape, volume.info.dtype.str, volume.info.pixel_size, volume.info.section_thickness],
            "layout": [target.mips, target.chunk, target.labels, sharded],
        }
    )
    plan = ExportPlan(source=url, target=target, digest=digest, source_state=state)
    _state_of_destination(plan)
    return plan


def run_export(plan: ExportPlan, *, executor: Executor, observer: Observer) -> Summary:
    """Do what is left to do of a plan; nothing where it is complete. Errors as in `export_volume`."""
    target = plan.target
    summary = Summary(output=target.url, state="complete")
    if _state_of_destination(plan) == "complete":
        for report in open_ledger(target.url).reports(export.NAME):
            summary.add(report)
        return summary
    if plan.source_state != "complete":
        observer.note(f"{plan.source} is not complete: what is not written yet becomes 0.")
    dashboard = dashboard_message(executor)
    if dashboard is not None:
        observer.note(dashboard)
    _set_state(plan, "running")
    with exclusive_driver(target.url, executor) as guarded:
        try:
            target.prepare()
            run_generations(
                export.NAME,
                [export.export_tasks(plan.source, target, digest=plan.digest)],
                work=export.run,
                estimate=export.estimate_export(target),
                digest=plan.digest,
                summary=summary,
                executor=guarded,
                observer=observer,
            )
            if summary.state == "complete":
                target.finish()
        except LeaseLostError:
            raise
        except BaseException:
            _set_state(plan, "incomplete")
            raise
        _set_state(plan, summary.state)
    return summary


def _look_at(source: str) -> tuple[str, str, dict[str, Any]]:
    """URL of the volume that is meant by a source, its state, and its group's attributes."""
    attributes = arrays.group_attributes(source) or {}
    if run.KEY not in attributes:
        return source, attributes.get(WARP_KEY, {}).get("state", "complete"), attributes
    aligned = location.join(source, "aligned")
    of_aligned = arrays.group_attributes(aligned)
    if of_aligned is None:
        raise SourceError(f"{source}: this run has no aligned volume yet; finish it with 'ssem-dask run' first.")
    return aligned, run.parse_run_record(source, attributes[run.KEY]).state, of_aligned


def _state_of_destination(plan: ExportPlan) -> str | None:
    """How far this very export is; None where nothing is there, OutputError where something else is."""
    url = plan.target.url
    with location.writing(url), location.as_output_error():
        found = run.read_export(url)
        if found is None:
            if location.is_occupied(url):
                raise OutputError(f"{url}: something else is already there; choose another destination or delete it.")
            return None
        if found.get("digest") != plan.digest:
            raise OutputError(
                f"{url}: an export of {found.get('source')} is there, of other content or with other options; choose "
                "another destination or delete it."
            )
        return str(found.get("state"))


def _set_state(plan: ExportPlan, state: str) -> None:
    record = {"source": plan.source, "form": plan.target.FORM, "digest": plan.digest, "state": state}
    run.write_export(plan.target.url, record)
