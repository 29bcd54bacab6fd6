"""Write the fields of a run for other tools: as an OME-Zarr 0.6 scene, or as files for ITK."""

from functools import partial
from typing import Any, Literal

from ssem_dask.errors import ConfigError, SsemDaskError
from ssem_dask.extras import require_extra
from ssem_dask.shown import without_secrets
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.storage import location, places
from ssem_dask.storage.exports.field_scene import IMAGES, SceneTarget
from ssem_dask.storage.exports.field_target import FieldTarget
from ssem_dask.storage.exports.itk_folder import AffineTarget, ItkTarget, ItkTransformTarget
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.alignment import Alignment, open_alignment
from ssem_dask.volumes.export_plan import ExportPlan, destination_record
from ssem_dask.volumes.origins import Origin, Origins, field_fingerprints

FieldForm = Literal["fields", "itk", "itk-h5", "affines"]


def plan_field_export(run: str, destination: str, *, form: FieldForm, inverse_spacing: int | None) -> ExportPlan:
    """Check everything and plan the export of fields, without changing anything; see `export_volume`."""
    run, destination = without_secrets(run), without_secrets(destination)
    places.refuse_overlap(destination, {"the run": run})
    alignment = open_alignment(run)
    if inverse_spacing is not None and inverse_spacing < 1:
        raise ConfigError(f"export: inverse_spacing = {inverse_spacing}; give at least 1 px.")
    target = _target(alignment, destination, form=form, inverse_spacing=inverse_spacing or alignment.spacing)
    record = alignment.record
    digest = digest_of(
        {
            "source": run,
            "form": form,
            "info": [*alignment.shape, record.pixel_size, record.section_thickness],
            "layout": [target.spacing, target.inverse_spacing, target.depth],
        }
    )
    origins = Origins(options={"export": digest}, origins=(Origin(name=run, read=partial(field_fingerprints, run)),))
    plan = ExportPlan(source=run, target=target, digest=digest, origins=origins)
    destination_record(plan)
    return plan


def inverse_error_note(plan: ExportPlan) -> str | None:
    """Return a sentence on the error of the exported inverse; None if none was measured."""
    if not isinstance(plan.target, SceneTarget):
        return None
    error = plan.target.inverse_error()
    if not error:
        return None
    pixel = plan.target.pixel_size
    return (
        f"to_aligned: nodes every {plan.target.inverse_spacing} px; between them it is off by "
        f"{error['median'] / pixel:.2g} px on average and by at most {error['p99'] / pixel:.2g} px in 99 % of "
        f"each section (largest {error['largest'] / pixel:.2g} px)."
        " --inverse-spacing with fewer px makes it more exact."
    )


def _target(alignment: Alignment, url: str, *, form: FieldForm, inverse_spacing: int) -> FieldTarget:
    record = alignment.record
    common: dict[str, Any] = {
        "url": url,
        "shape": alignment.shape,
        "spacing": alignment.spacing,
        "inverse_spacing": inverse_spacing,
        "pixel_size": record.pixel_size,
        "section_thickness": record.section_thickness,
    }
    if form == "itk":
        return ItkTarget(**common)
    if form == "itk-h5":
        require_extra("formats", purpose="export --itk-h5")
        return ItkTransformTarget(**common)
    if form == "affines":
        return AffineTarget(**common)
    dtype = _pixel_type(alignment)
    return SceneTarget(**common, images=tuple((name, dtype, name) for name in IMAGES))


def _pixel_type(alignment: Alignment) -> str:
    """Return the type of the aligned pixels; uint8 if there are none."""
    try:
        return Volume.open(location.join(alignment.url, ALIGNED)).info.dtype.name
    except SsemDaskError:
        return "uint8"
