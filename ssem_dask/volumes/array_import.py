"""Write an array in memory, or a lazy one, as a volume with all levels, slab by slab."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ssem_dask.errors import OutputError, PlanError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_spans
from ssem_dask.geometry.mip import level_count
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.storage import arrays, location, places
from ssem_dask.storage.array_volume import NAME
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.storage.volume_checks import IMPORT_KEY
from ssem_dask.types import ShapeZYX

_SMALLEST_PX = 256
"""Levels are made until the longer side is at most that."""
_BAND_BYTES = 1 << 29


def write_array(
    array: Volume,
    destination: str,
    *,
    chunk: ShapeZYX,
    shard: ShapeZYX,
    labels: bool,
    pyramid: bool,
    overwrite: bool,
    progress: Callable[[int], None],
) -> VolumeInfo:
    """Write an array as OME-Zarr.

    Args:
        array: the array as a volume, see `storage.array_volume`.
        destination: URL of the OME-Zarr group to write.
        chunk: extent of a chunk.
        shard: extent of a shard.
        labels: the values are ids, of any integer type.
        pyramid: write coarser levels too.
        overwrite: replace what is at the destination, if it is an imported volume.
        progress: called with the number of pixels of mip 0 done since the last call.

    Raises:
        SourceError: the pixels are neither uint8 nor uint16, or there is one section only.
        OutputError: the destination exists or cannot be written.
        PlanError: `shard` is not a multiple of `chunk`.
    """
    info = array.info
    if not labels and info.dtype.name not in ("uint8", "uint16"):
        raise SourceError(
            f"{NAME}: pixels are {info.dtype}, but must be uint8 or uint16; scale them, or say labels=True."
        )
    if info.shape[0] < 2:
        raise SourceError(f"{NAME}: it has one section only; an alignment needs two or more.")
    if any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise PlanError(f"{destination}: shards {shard} are not made of whole chunks {chunk}; give multiples.")
    with location.writing(destination):
        attributes = arrays.group_attributes(destination) or {}
        if places.is_occupied(destination):
            written = _record(attributes)
            if written.get("source") != NAME and not (overwrite and written):
                raise OutputError(
                    f"{destination}: something is already there; choose another place or say overwrite=True."
                )
            if written == {"source": NAME, "labels": labels, "state": "complete"} and _holds(destination, array):
                return info  # a run that is resumed must not find its source changed
            location.delete(destination, recursive=True)
        mips = level_count(info.shape[1:], smallest=_SMALLEST_PX) if pyramid else 1
        record = {"source": NAME, "labels": labels}
        volume = create_volume(
            destination,
            info=info,
            chunk=chunk,
            shard=shard,
            mips=mips,
            attributes={IMPORT_KEY: {**record, "state": "importing"}},
        )
        _, height, width = info.shape
        depth, rows, _ = volume.write_unit(0)
        rows *= max(1, _BAND_BYTES // (depth * rows * width * info.dtype.itemsize))
        for start, stop in chunk_spans(info.shape[0], chunk=depth):
            slab = SlabWriter(volume, sections=range(start, stop), labels=labels)
            for top, bottom in chunk_spans(height, chunk=rows):
                slab.write(array.read(Box((start, top, 0), (stop, bottom, width))))
                progress((stop - start) * (bottom - top) * width)
        arrays.create_group(destination, attributes={IMPORT_KEY: {**record, "state": "complete"}})
    return info


def _record(attributes: dict[str, Any]) -> dict[str, Any]:
    record = attributes.get(IMPORT_KEY)
    return record if isinstance(record, dict) else {}


def _holds(url: str, array: Volume) -> bool:
    """Return whether a volume has the pixels of an array."""
    stored = Volume.open(url)
    if stored.info != array.info:
        return False
    _, height, width = array.info.shape
    boxes = (Box((z, 0, 0), (z + 1, height, width)) for z in range(array.info.shape[0]))
    return all(np.array_equal(stored.read(box), array.read(box)) for box in boxes)
