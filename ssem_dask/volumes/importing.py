"""Import: convert a volume of any readable format to sharded OME-Zarr 0.5 with all of its levels, in bounded memory.

The levels are made from the rows that are in memory anyway. So the stages coarse and register, and viewers, need not
decode mip 0 to see a coarser level.

Law: an import is complete or there is no volume. The group's state is "importing" from its first byte on, `Volume.open`
refuses it in that state, and "complete" is written last. A new import replaces what an interrupted one left behind.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import OutputError, SourceError, SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import level_count
from ssem_dask.stages.configs import DownsampleStageConfig
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.storage import arrays, location, ngff, places
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import ReadOptions, Source, SourceInfo
from ssem_dask.storage.lengths import known_sizes
from ssem_dask.storage.section_names import names_attribute
from ssem_dask.storage.volume import (
    IMPORT_KEY,
    Volume,
    VolumeInfo,
    check_image_dtype,
    check_sections,
    create_volume,
)
from ssem_dask.types import AnyArray, ShapeZYX

DEFAULT_CHUNK: ShapeZYX = (1, 512, 512)
DEFAULT_SHARD: ShapeZYX = (8, 2048, 2048)
BAND_BYTES = 1 << 29
"""Bytes of a band of rows, in which sections are read. So a file whose sections fit into a band is decoded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """An import that was checked."""

    source: str
    destination: str
    info: VolumeInfo
    chunk: ShapeZYX
    shard: ShapeZYX
    mips: int
    """Number of levels that are written."""
    reading: ReadOptions
    """How the source is read."""
    names: tuple[str, ...] = ()
    """Name of each section; empty if they have none."""
    notes: tuple[str, ...] = ()
    """Remarks about the source, one sentence each."""
    replaces: bool
    """Whether something at the destination is deleted first."""


def plan_import(
    source: str,
    destination: str,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    chunk: ShapeZYX = DEFAULT_CHUNK,
    shard: ShapeZYX = DEFAULT_SHARD,
    labels: bool = False,
    channel: int | None = None,
    time: int | None = None,
    order: str | None = None,
    pyramid: bool = True,
    overwrite: bool = False,
) -> ImportPlan:
    """Check source and destination, without changing anything; arguments and errors as in `import_volume`."""
    reading = ReadOptions(channel=channel, time=time, labels=labels, order=order)
    with contextlib.closing(open_any_format(source, reading)) as opened:
        return _plan(
            opened,
            source,
            destination,
            pixel_size=pixel_size,
            section_thickness=section_thickness,
            chunk=chunk,
            shard=shard,
            reading=reading,
            pyramid=pyramid,
            overwrite=overwrite,
        )


def run_import(plan: ImportPlan, *, progress: Callable[[int], None] | None = None) -> VolumeInfo:
    """Write the volume of a plan; `progress`, return value and errors as in `import_volume`."""
    with contextlib.closing(open_any_format(plan.source, plan.reading)) as opened:
        return _write(opened, plan, progress=progress)


def import_volume(
    source: str,
    destination: str,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    chunk: ShapeZYX = DEFAULT_CHUNK,
    shard: ShapeZYX = DEFAULT_SHARD,
    labels: bool = False,
    channel: int | None = None,
    time: int | None = None,
    order: str | None = None,
    pyramid: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> VolumeInfo:
    """Import a volume.

    Args:
        source: folder or glob of images, multi-page TIFF, `file.h5[:/dataset]`, Zarr array or OME-Zarr group, also in a
            zip file, N5 or precomputed.
        destination: URL of the OME-Zarr group to write.
        pixel_size: nm per pixel in y and x; overrides the source's own value.
        section_thickness: nm per section; overrides the source's own value.
        chunk: extent of a chunk.
        shard: extent of a shard, a multiple of `chunk`. As many sections as a shard is deep are in memory at once, in
            bands of rows of 512 MiB, or of one row of shards if that is more. The pyramid takes one and a half rows of
            shards more.
        labels: the values are ids: any integer type, and a constant volume is no mistake. Each pixel of the pyramid has
            the most frequent id of the four below it.
        channel: channel to import, counted from 0; None if the source has one, or equal ones.
        time: time point to import, counted from 0; None if the source has one.
        order: URL of a text file that lists the image files of a folder in order of z, one name per line; None for the
            natural order of their names.
        pyramid: write coarser levels as well, until the longer side is at most 256 px, as those of an aligned volume
            are by default; False: mip 0 alone.
        overwrite: replace a complete volume at the destination.
        progress: called with the number of pixels of mip 0 done since the last call.

    Returns:
        Shape, type and sizes of the imported volume.

    Raises:
        SourceError: the source is missing, damaged, of another type than uint8 or uint16, one section only or constant,
            or its pixel size or section thickness is unknown.
        OutputError: the destination exists, or cannot be written.
        PlanError: `shard` is not a multiple of `chunk`.
    """
    reading = ReadOptions(channel=channel, time=time, labels=labels, order=order)
    with contextlib.closing(open_any_format(source, reading)) as opened:
        plan = _plan(
            opened,
            source,
            destination,
            pixel_size=pixel_size,
            section_thickness=section_thickness,
            chunk=chunk,
            shard=shard,
            reading=reading,
            pyramid=pyramid,
            overwrite=overwrite,
        )
        return _write(opened, plan, progress=progress)


def _plan(
    opened: Source,
    source: str,
    destination: str,
    *,
    pixel_size: float | None,
    section_thickness: float | None,
    chunk: ShapeZYX,
    shard: ShapeZYX,
    reading: ReadOptions,
    pyramid: bool,
    overwrite: bool,
) -> ImportPlan:
    labels = reading.labels
    info = _volume_info(source, opened.info, pixel_size=pixel_size, section_thickness=section_thickness, labels=labels)
    smallest = DownsampleStageConfig().smallest
    return ImportPlan(
        source=source,
        destination=destination,
        info=info,
        chunk=chunk,
        shard=shard,
        mips=level_count(info.shape[1:], smallest=smallest) if pyramid else 1,
        reading=reading,
        names=opened.info.names,
        notes=opened.info.notes,
        replaces=_check_destination(destination, source=source, overwrite=overwrite),
    )


def _write(source: Source, plan: ImportPlan, *, progress: Callable[[int], None] | None) -> VolumeInfo:
    """Write the volume of a plan, and delete it if that fails."""
    destination = plan.destination
    state = {"state": "importing", "source": plan.source, "labels": plan.reading.labels}
    try:
        with location.writing(destination):
            if plan.replaces:
                _delete_volume(destination)
            arrays.create_group(destination, attributes={IMPORT_KEY: state, **names_attribute(plan.names)})
            volume = create_volume(destination, info=plan.info, chunk=plan.chunk, shard=plan.shard, mips=plan.mips)
        lowest, highest = _copy(source, volume, labels=plan.reading.labels, progress=progress)
        if lowest == highest and not plan.reading.labels:
            raise SourceError(
                f"{plan.source}: every pixel of the volume is {lowest}, so there is nothing to align; check the export."
            )
        arrays.create_group(destination, attributes={IMPORT_KEY: {**state, "state": "complete"}})
    except SsemDaskError:
        # The rest is in state "importing", which nothing opens; deleting it only frees the space, if it can.
        with contextlib.suppress(OSError, SsemDaskError):
            if _state(destination) == "importing":
                _delete_volume(destination)
        raise
    return plan.info


def _copy(
    source: Source, volume: Volume, *, labels: bool, progress: Callable[[int], None] | None
) -> tuple[float, float]:
    """Copy all values, band by band, into all levels of the volume; return the lowest and the highest value."""
    unit_z, unit_y, _ = volume.write_unit(0)
    z, y, x = volume.info.shape
    row_bytes = min(unit_z, z) * x * volume.info.dtype.itemsize
    band = max(1, BAND_BYTES // (row_bytes * unit_y)) * unit_y
    lowest, highest = np.inf, -np.inf
    for z_start in range(0, z, unit_z):
        slab = SlabWriter(volume, sections=range(z_start, min(z_start + unit_z, z)), labels=labels)
        for y_start in range(0, y, band):
            box = Box((z_start, y_start, 0), (z_start + unit_z, y_start + band, x)).clipped(volume.info.shape)
            values = source.read(z_start=box.start[0], z_stop=box.stop[0], y_start=box.start[1], y_stop=box.stop[1])
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            slab.write(_as_type(values, volume.info.dtype))
            if progress is not None:
                progress(box.size)
    return lowest, highest


def _as_type(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    if values.dtype.newbyteorder("=") != dtype:
        raise SourceError(f"values are {values.dtype} where the header says {dtype}; export the volume again.")
    return values.astype(dtype, copy=False)


def _volume_info(
    where: str, info: SourceInfo, *, pixel_size: float | None, section_thickness: float | None, labels: bool
) -> VolumeInfo:
    if labels:
        if info.dtype.kind not in "iu":
            raise SourceError(f"{where}: labels are {info.dtype}, but must be integers; convert them.")
    else:
        check_image_dtype(where, info.dtype)
    check_sections(where, info.shape)
    return VolumeInfo(
        shape=info.shape,
        dtype=info.dtype.newbyteorder("="),
        **known_sizes(where, info.sizes, pixel_size=pixel_size, section_thickness=section_thickness),
    )


def _check_destination(destination: str, *, source: str, overwrite: bool) -> bool:
    """Return whether something at the destination must be deleted first; raise OutputError if it must stay."""
    places.refuse_overlap(destination, {"the source": source})
    with location.writing(destination):
        with location.as_output_error():
            state = _state(destination)
        if state == "importing":
            return True
        if state == "volume":
            if not overwrite:
                raise OutputError(
                    f"{destination}: a volume is already there; choose another name, or replace it with --overwrite."
                )
            return True
        if places.is_occupied(destination):
            raise OutputError(
                f"{destination}: something that is not a volume is there; choose another name or delete it."
            )
        return False


def _state(destination: str) -> str:
    """Return `importing`, `volume` (a complete import, or another OME-Zarr image) or `other`."""
    attributes = arrays.group_attributes(destination)
    if attributes is None:
        return "other"
    imported = attributes.get(IMPORT_KEY)
    if isinstance(imported, dict):
        return "volume" if imported.get("state") == "complete" else "importing"
    return "volume" if ngff.is_image(attributes) else "other"


def _delete_volume(destination: str) -> None:
    """Delete a volume so that a process killed in between leaves an unfinished import, not a volume with holes."""
    if _state(destination) != "importing":  # a write, which a full disk would refuse
        arrays.create_group(destination, attributes={IMPORT_KEY: {"state": "importing"}})
    for name in location.list_names(destination):
        if name != "zarr.json":
            location.delete(location.join(destination, name), recursive=True)
    location.delete(location.join(destination, "zarr.json"), recursive=False)
    if location.is_local(destination):
        location.local_path(destination).rmdir()
