"""Write a volume, with all of its levels, or the fields of a run, in a format that other tools read."""

from functools import partial
from typing import Any, Literal, cast, get_args

from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import run_on_cluster
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.runtime.events import Observer
from ssem_dask.shown import without_secrets
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.storage import arrays, location, places, run_group
from ssem_dask.storage.exports.precomputed import PrecomputedTarget
from ssem_dask.storage.exports.target import Target
from ssem_dask.storage.exports.tile_folder import TILE, TileTarget
from ssem_dask.storage.exports.zarr_v2 import ZarrV2Target
from ssem_dask.storage.exports.zarr_v3 import ZarrV3Target
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.volume import Volume
from ssem_dask.storage.volume_checks import holds_labels
from ssem_dask.types import ShapeZYX
from ssem_dask.volumes.export_plan import ExportPlan, destination_record, run_export
from ssem_dask.volumes.field_exporting import FieldForm, plan_field_export
from ssem_dask.volumes.origins import Origin, Origins

VolumeForm = Literal["ngff-0.4", "ngff-0.6", "precomputed", "vast"]
PRECOMPUTED_CHUNK: ShapeZYX = (64, 64, 64)
MAX_NGFF_CHUNK_PX = 512
"""Longest side of a chunk of an OME-Zarr image, which otherwise has the source's chunks. Some volumes store a whole
section in one chunk."""


def export_volume(
    source: str,
    destination: str,
    *,
    form: VolumeForm | FieldForm,
    chunk: ShapeZYX | None = None,
    labels: bool = False,
    sharded: bool = True,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    inverse_spacing: int | None = None,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Export a volume, or the fields of a run, in bounded memory.

    Args:
        source: URL of a run, to export its aligned volume or its fields, or of any volume (OME-Zarr or array).
        destination: URL to write to. The same export resumes if it was interrupted, and does the work again whose
            sections have changed since.
        form: a volume as `ngff-0.4` (OME-Zarr 0.4 on Zarr v2), `ngff-0.6` (OME-Zarr 0.6 on Zarr v3), `precomputed`,
            which needs the extra `tensorstore`, or `vast` (PNG tiles and a `.vsvi` file), which needs `formats`. The
            OME-Zarr folders are datasets of WEBKNOSSOS too. The fields of a run, both ways, as `fields` (an OME-Zarr
            0.6 scene) or `itk` (NRRD files and a CSV file of affine maps) or `itk-h5` (files of ITK's transforms and
            that CSV file; needs `formats`). `affines` is that CSV file alone.
        chunk: extent (z, y, x) of a chunk; None: as in the source; for precomputed, 64³; for VAST, (1, 1024, 1024).
        labels: the values are ids, even if the source does not say so.
        sharded: for `precomputed` and `ngff-0.6`, many chunks per file; a server must then answer requests for byte
            ranges.
        pixel_size: nm per pixel in y and x; overrides the source's own value.
        section_thickness: nm per section; overrides the source's own value.
        inverse_spacing: mip-0 px between the nodes of the inverse fields; None: that of the run's fields. The inverse
            is exact at its nodes and interpolated between them.
        cluster: as in `align`.
        workers: as in `align`.
        observer: notified of events; None: nobody is.

    Returns:
        The status of the export; `incomplete` if the source is, or changed while it was read.

    Raises:
        SourceError: there is no such volume or run, or the format cannot hold it.
        OutputError: the destination holds something else, or the format cannot be written there.
        ConfigError: the form is unknown, the chunk is empty or too large, an option belongs to another form, the
            cluster is unknown, or its workers are too small.
    """
    plan = checked_plan(
        source,
        destination,
        form=form,
        chunk=chunk,
        labels=labels,
        sharded=sharded,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        inverse_spacing=inverse_spacing,
    )
    return run_on_cluster(partial(run_export, plan), plan.work(), cluster=cluster, workers=workers, observer=observer)


def checked_plan(
    source: str,
    destination: str,
    *,
    form: str,
    chunk: ShapeZYX | None,
    labels: bool,
    sharded: bool,
    pixel_size: float | None,
    section_thickness: float | None,
    inverse_spacing: int | None,
) -> ExportPlan:
    """Check everything and plan the export, without changing anything; arguments and errors as in `export_volume`."""
    if form in get_args(FieldForm):
        if chunk is not None or labels or not sharded or pixel_size is not None or section_thickness is not None:
            raise ConfigError(f"export: {form} has no chunks, labels or sizes of its own; leave these arguments out.")
        return plan_field_export(source, destination, form=cast(FieldForm, form), inverse_spacing=inverse_spacing)
    if form not in get_args(VolumeForm):
        forms = ", ".join((*get_args(VolumeForm), *get_args(FieldForm)))
        raise ConfigError(f"export: form = {form!r} is unknown; give one of {forms}.")
    if inverse_spacing is not None:
        raise ConfigError(f"export: {form} has no inverse fields; leave inverse_spacing out.")
    return plan_export(
        source,
        destination,
        form=cast(VolumeForm, form),
        chunk=chunk,
        labels=labels,
        sharded=sharded,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
    )


def plan_export(
    source: str,
    destination: str,
    *,
    form: VolumeForm,
    chunk: ShapeZYX | None,
    labels: bool,
    sharded: bool,
    pixel_size: float | None,
    section_thickness: float | None,
) -> ExportPlan:
    """Check everything and plan the export of a volume, without changing anything.

    Arguments and errors as in `export_volume`; the form is one of a volume.
    """
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
    elif form == "vast":
        if not sharded:
            raise ConfigError("export: tiles are never sharded; leave --unsharded out.")
        target = TileTarget(**common, chunk=chunk or TILE)
    else:
        z, y, x = (min(n, MAX_NGFF_CHUNK_PX) for n in volume.chunk(0))
        if form == "ngff-0.6":
            target = ZarrV3Target(**common, chunk=chunk or (z, y, x), sharded=sharded)
        elif sharded:
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
    destination_record(plan)
    return plan


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
