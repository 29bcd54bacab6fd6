"""Import volumes and arrays, warp other volumes, export results."""

from collections.abc import Callable
from typing import Any

from ssem_dask.api.sources import ArrayLike, Place, source_url, url_of
from ssem_dask.driver.run_status import Summary
from ssem_dask.errors import SourceError
from ssem_dask.shown import without_secrets
from ssem_dask.storage.array_volume import NAME, array_volume, is_array
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ShapeZYX
from ssem_dask.volumes import exporting, importing, warping
from ssem_dask.volumes.array_import import write_array
from ssem_dask.volumes.importing import DEFAULT_CHUNK, DEFAULT_SHARD


def import_volume(
    source: Place | ArrayLike,
    destination: Place,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    chunk: ShapeZYX = DEFAULT_CHUNK,
    shard: ShapeZYX = DEFAULT_SHARD,
    labels: bool = False,
    pyramid: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> VolumeInfo:
    """Write images of another format, or an array, as OME-Zarr; in bounded memory.

    Args:
        source: folder or glob of images, multi-page TIFF, `file.h5[:/dataset]`, Zarr array or OME-Zarr group, also in a
            zip file, N5, precomputed; or an array (z, y, x) of numpy, dask, xarray or zarr.
        destination: path or URL of the OME-Zarr group to write.
        pixel_size: nm per pixel in y and x; overrides the source's own value, needed for an array.
        section_thickness: nm per section; likewise.
        chunk: extent of a chunk.
        shard: extent of a shard, a multiple of `chunk`.
        labels: the values are ids: any integer type.
        pyramid: write coarser levels as well.
        overwrite: replace a complete volume at the destination.
        progress: called with the number of pixels of mip 0 done since the last call.
        options: of files only: `channel`, `channels`, `time`, `order` and `note`, as `ssem-dask import` explains them.

    Returns:
        Shape, type and sizes of the volume.

    Raises:
        SsemDaskError: the source is missing, damaged or of another kind, or the destination is occupied.

    Examples:
        >>> import numpy as np, ssem_dask
        >>> sections = np.random.default_rng(0).integers(1, 255, (3, 64, 64), dtype=np.uint8)
        >>> info = ssem_dask.import_volume(sections, "array.zarr", pixel_size=5, section_thickness=40)
        >>> info.shape
        (3, 64, 64)
    """
    common: dict[str, Any] = {
        "chunk": chunk,
        "shard": shard,
        "labels": labels,
        "pyramid": pyramid,
        "overwrite": overwrite,
    }
    target = without_secrets(url_of(destination))
    if not is_array(source):
        place: Any = source
        sizes: dict[str, Any] = {"pixel_size": pixel_size, "section_thickness": section_thickness}
        return importing.import_volume(url_of(place), target, **sizes, **common, **options, progress=progress)
    if options:
        raise SourceError(
            f"{NAME}: {next(iter(options))} is for files; leave it out, and select from the array itself."
        )
    if pixel_size is None or section_thickness is None:
        raise SourceError(f"{NAME}: its sizes are unknown; give pixel_size and section_thickness, in nm.")
    volume = array_volume(source, pixel_size=pixel_size, section_thickness=section_thickness)
    return write_array(volume, target, **common, progress=progress or (lambda _pixels: None))


def warp(
    alignment: Place,
    volume: Place | ArrayLike,
    destination: Place,
    *,
    labels: bool = False,
    pixel_size: float | None = None,
    **options: Any,
) -> Summary:
    """Apply an alignment to another volume of the same sections, and write the result; in bounded memory.

    `Alignment.warp` warps without writing.

    Args:
        alignment: path or URL of the run.
        volume: path, URL or array (z, y, x) of the source's sections, with larger or smaller pixels if its metadata say
            so. An array is first written beside the destination.
        destination: path or URL of the OME-Zarr image to write; resumed if it holds this very warp.
        labels: the values are ids.
        pixel_size: nm per pixel of the volume; None: the value in its metadata, or the source's if it has none.
        options: `cluster`, `workers` and `observer`, as in `align`.

    Raises:
        SsemDaskError: there is no such alignment or volume, it does not fit, or the destination is occupied.

    Examples:
        >>> import ssem_dask
        >>> ssem_dask.warp("aligned.zarr", "volume.zarr", "warped.zarr", cluster="serial").state
        'complete'
    """
    run, target = url_of(alignment), url_of(destination)
    if is_array(volume):
        from ssem_dask.api.aligned_run import open_alignment

        record = open_alignment(run).record
        volume = source_url(
            volume,
            beside=target,
            pixel_size=pixel_size or record.pixel_size,
            section_thickness=record.section_thickness,
            labels=labels,
        )
    place: Any = volume
    return warping.warp_volume(run, url_of(place), target, labels=labels, pixel_size=pixel_size, **options)


def export(source: Place, destination: Place, *, form: Any, **options: Any) -> Summary:
    """Export a volume, or the fields of a run, for other tools; in bounded memory.

    Args:
        source: path or URL of a run, to export its aligned volume or its fields, or of any volume.
        destination: path or URL to write to; the same export resumes.
        form: `ngff-0.4`, `ngff-0.6`, `precomputed` or `vast` (tiles) for pixels; `fields` (a scene of OME-Zarr 0.6),
            `itk` (NRRD files), `itk-h5` (ITK's transforms) or `affines` (a CSV file) for the fields of a run.
        options: `chunk`, `labels`, `sharded`, `pixel_size`, `section_thickness`, `inverse_spacing`, `cluster`,
            `workers` and `observer`, see `ssem_dask.export_volume`.

    Raises:
        SsemDaskError: there is nothing to export, the format cannot hold it, or the destination is occupied.

    Examples:
        >>> import ssem_dask
        >>> ssem_dask.export("aligned.zarr", "fields.zarr", form="fields", cluster="serial").state
        'complete'
    """
    return exporting.export_volume(url_of(source), url_of(destination), form=form, **options)


def warp_volume(alignment: Place, volume: Place | ArrayLike, destination: Place, **options: Any) -> Summary:
    """Apply an alignment to a volume; see `warp`, of which this is the longer name."""
    return warp(alignment, volume, destination, **options)


def export_volume(source: Place, destination: Place, *, form: Any, **options: Any) -> Summary:
    """Export a volume or fields; see `export`, of which this is the longer name."""
    return export(source, destination, form=form, **options)
