"""Zarr v2 or v3: an array, or the finest level of an OME-Zarr image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.channels import channel_names
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.formats.array_attributes import parse_array_attributes
from ssem_dask.storage.formats.axes import axis_kind, order_axes
from ssem_dask.storage.formats.chunk_count import grid_of, missing_note, stored_chunks
from ssem_dask.storage.formats.shard_index import missing_in_shards_note, zarr_shards
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo, decoding, native_dtype
from ssem_dask.storage.formats.zarr_groups import only_volume
from ssem_dask.storage.lengths import Length, Sizes, sizes_of
from ssem_dask.storage.untrusted import interpreting
from ssem_dask.storage.volume_checks import refuse_unfinished_import
from ssem_dask.types import AnyArray


class ZarrSource:
    """One Zarr array."""

    def __init__(self, url: str, options: ReadOptions) -> None:
        """Open the array, or level 0 of the image group.

        Raises:
            SourceError: nothing is there, it cannot be reached, or it does not hold one volume.
        """
        self._url = url
        attributes, place, image = _find_volume(url)
        self._array = arrays.open_array(place, mode="r")
        names, lengths = self._axes(image, place)
        order = order_axes(url, self._array.shape, names=names, channel=options.channel, time=options.time)
        self._order = order
        with decoding(url), fused_codecs():
            order.check_channels(self._array)
        self.info = SourceInfo(
            shape=order.shape,
            dtype=native_dtype(self._array.dtype),
            sizes=_sizes(lengths),
            channels=channel_names(attributes or {}, order.stored_channels) if order.stored_channels > 1 else (),
            notes=(*order.notes, *_missing(place, self._array)),
        )

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"), fused_codecs():
            values = self._order.read(self._array, z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)
            return np.ascontiguousarray(values, dtype=self.info.dtype)

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """See `Source.read_channels`."""
        band = {"z_start": z_start, "z_stop": z_stop, "y_start": y_start, "y_stop": y_stop}
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"), fused_codecs():
            found = self._order.read_channels(self._array, numbers, **band)
            return [np.ascontiguousarray(values, dtype=self.info.dtype) for values in found]

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _axes(self, image: ngff.Multiscale | None, place: str) -> tuple[Sequence[Any] | None, Mapping[str, Length]]:
        """Return the names of the axes and the lengths along them, from the image or from the array itself."""
        if image is None:
            stored = getattr(self._array.metadata, "dimension_names", None) or None
            with interpreting(self._url, what="its attributes"):
                parsed = parse_array_attributes(dict(self._array.attrs), ndim=self._array.ndim, names=stored)
            return parsed.names, parsed.lengths
        level = next((i for i, path in enumerate(image.paths) if place.rstrip("/").endswith("/" + path.strip("/"))), 0)
        lengths = {
            kind: (scale, "nm")
            for axis, scale, in_nm in zip(image.axes, image.scales[level], image.in_nm, strict=True)
            if (kind := axis_kind(axis)) is not None and in_nm
        }
        return image.axes or None, lengths


def _find_volume(url: str) -> tuple[dict[str, Any] | None, str, ngff.Multiscale | None]:
    """Find the array that is meant by a location: itself, the finest level of an image, or the only one in a group.

    Returns:
        Attributes of the group of the volume, None for an array; URL of the array; metadata of its image, if any.

    Raises:
        SourceError: there is no volume, or there are several.
    """
    attributes = arrays.group_attributes(url)
    if attributes is None:
        return None, url, _image_above(url)
    refuse_unfinished_import(url, attributes)
    if not ngff.is_image(attributes):
        return _find_volume(only_volume(url, attributes))
    place, image = _finest_level(url, attributes)
    return attributes, place, image


def _finest_level(url: str, attributes: dict[str, Any]) -> tuple[str, ngff.Multiscale]:
    """Return the URL of the finest level of an image group, and its metadata."""
    images = ngff.image_names(attributes)
    if len(images) > 1:
        raise SourceError(
            f"{url}: holds {len(images)} images ({', '.join(images)}), but a volume is one; name its array."
        )
    image = ngff.parse_multiscale(attributes, where=url)
    return location.join_below(url, image.paths[0]), image


def _image_above(url: str) -> ngff.Multiscale | None:
    """Return the metadata of the image of which an array is a level; None if it is none."""
    above = location.parent(url)
    attributes = arrays.group_attributes(above) if above is not None and arrays.is_node(above) else None
    if attributes is None or not ngff.is_image(attributes):
        return None
    image = ngff.parse_multiscale(attributes, where=above or url)
    name = url.rstrip("/").rpartition("/")[2]
    return image if name in [path.strip("/") for path in image.paths] else None


def _sizes(lengths: Mapping[str, Length]) -> Sizes:
    return sizes_of(lengths)


def missing_in_source(url: str) -> tuple[str, ...]:
    """Return remarks about chunks that a volume of another program lacks; () for ours, whose chunks are counted.

    Args:
        url: of an array or an image that can be opened.
    """
    attributes = arrays.group_attributes(url)
    if attributes is None:
        return _missing(url, arrays.open_array(url, mode="r"))
    if any(str(key).startswith("ssem_dask") for key in attributes):
        return ()  # zeros are left out in them, and `import` counts what it has written
    _, place, _ = _find_volume(url)
    return _missing(place, arrays.open_array(place, mode="r"))


def _missing(url: str, array: arrays.ZarrArray) -> tuple[str, ...]:
    """Return remarks about chunks that are missing: as files, and inside the shards that are there.

    Raises:
        SourceError: a shard is shorter than it says.
    """
    unit = arrays.write_unit(array)
    grid = grid_of(array.shape, unit)
    stored = stored_chunks(url, grid=grid, index=lambda name: _chunk_index(name, len(grid)))
    if stored is None:
        return ()
    kind = "shard" if array.shards else "chunk"
    notes = missing_note(url, stored=len(stored), expected=math.prod(grid), unit=kind)
    if array.shards is None:
        return notes
    inside = zarr_shards(url, array, stored)
    return notes if inside is None else (*notes, *missing_in_shards_note(url, inside))


def _chunk_index(name: str, axes: int) -> tuple[int, ...]:
    index = arrays.chunk_index(name)
    return index if len(index) == axes else ()
