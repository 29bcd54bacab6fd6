"""Image volumes: (z, y, x) in Zarr, at one or several mips, with or without channels.

Law: `read` returns what `write` put into whole shards, whatever box it is read by. An unwritten chunk reads as 0.

A volume of an image with channels is a view of one of them: everything here is (z, y, x), whatever is stored.
`each_channel` has the views of all.

`shape_at(m)` divides y and x by 2**m and rounds up (C3); z is the same at every mip.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssem_dask.errors import PlanError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.shown import without_secrets
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.channels import (
    ChannelChoice,
    channel_names,
    find_channel,
    register_attribute,
    registered_channel,
    several_channels,
)
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.lengths import UNKNOWN_SIZES, known_sizes, sizes_of
from ssem_dask.storage.section_names import section_names
from ssem_dask.storage.volume_checks import check_extent, other_axes, refuse_other_order, refuse_unfinished_import
from ssem_dask.storage.zip_files import without_zip_protocol
from ssem_dask.types import AnyArray, ShapeZYX


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInfo:
    """Shape, type and physical size of a volume at mip 0."""

    shape: ShapeZYX
    dtype: np.dtype[Any]
    pixel_size: float
    """nm per pixel in y and x."""
    section_thickness: float
    """nm per section."""
    channels: tuple[str, ...] = ()
    """Name of each channel of an image with channels, empty if it has none; () for an image without an axis c."""
    channel: int | None = None
    """Channel that is read; None if there is no axis c, or if it is not known which one is meant."""

    @property
    def planes(self) -> int:
        """Number of channels, 1 without an axis c."""
        return max(1, len(self.channels))

    @property
    def without_channels(self) -> "VolumeInfo":
        """Description of an image of one channel, without an axis c."""
        return replace(self, channels=(), channel=None)


class Volume:
    """An existing volume; made by `Volume.open` or `create_volume`."""

    def __init__(
        self,
        url: str,
        *,
        info: VolumeInfo,
        paths: tuple[str, ...],
        levels: tuple[ZarrArray, ...],
        section_names: tuple[str, ...] = (),
    ) -> None:
        self.url = url
        self.info = info
        self.section_names = section_names
        """Name of each section, as imported; empty if sections have no names."""
        self._paths = paths
        self._levels = levels
        self._writable: dict[int, ZarrArray] = {}
        self._order: Mapping[int, int] = {}

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pixel_size: float | None = None,
        section_thickness: float | None = None,
        channel: ChannelChoice | None = None,
        like: VolumeInfo | None = None,
    ) -> "Volume":
        """Open an OME-Zarr image (0.4 or 0.5), with or without channels, or a plain (z, y, x) array (Zarr v2 or v3).

        Args:
            url: of the image group or of the array.
            pixel_size: nm per mip-0 pixel in y and x; takes precedence over the metadata.
            section_thickness: nm per section; takes precedence too.
            channel: number or name of the channel to read; None: the one that the image says to align by.
            like: volume whose pixel size and section thickness are taken, in place of these two arguments, and whose
                channel if both have as many.

        Raises:
            SourceError: there is no such volume, it cannot be reached, its import was never finished, its axes are not
                (z, y, x) or (c, z, y, x), it has no such channel, or its pixel size or section thickness is unknown.
        """
        url = without_secrets(url)
        paths: tuple[str, ...]
        levels: tuple[ZarrArray, ...]
        stored = UNKNOWN_SIZES
        if like is not None:
            pixel_size, section_thickness = like.pixel_size, like.section_thickness
        url = without_zip_protocol(url)
        attributes = arrays.group_attributes(url)
        if attributes is None:
            paths = ("",)
            levels = (arrays.open_array(url, mode="r"),)
            if levels[0].ndim == 3:
                refuse_other_order(url, levels[0])
        else:
            _refuse_other_groups(url, attributes)
            image = ngff.parse_multiscale(attributes, where=url)
            if image.axes not in (ngff.AXES, ngff.CHANNEL_AXES):
                raise SourceError(other_axes(url, image.axes))
            paths, levels = _open_levels(url, image)
            z, y, x = ((image.scale_of(axis), "nm") for axis in ngff.AXES)
            stored = sizes_of({"z": z, "y": y, "x": x})
        stored_shape = levels[0].shape
        count = stored_shape[0] if attributes is not None and image.axes == ngff.CHANNEL_AXES else 0
        if len(stored_shape) != 3 + (count > 0):
            raise SourceError(f"{url}: the array has shape {stored_shape}, but a volume has three axes (z, y, x).")
        z_extent, y_extent, x_extent = stored_shape[-3:]
        check_extent(url, (z_extent, y_extent, x_extent))
        names = channel_names(attributes or {}, count)
        if like is not None and channel is None and len(like.channels) == count:
            channel = like.channel
        if channel is not None:
            channel = find_channel(url, channel, names or ("",))
        info = VolumeInfo(
            shape=(z_extent, y_extent, x_extent),
            channels=names,
            channel=(registered_channel(attributes or {}, count) if channel is None else channel) if count else None,
            dtype=np.dtype(levels[0].dtype).newbyteorder("="),
            **known_sizes(url, stored, pixel_size=pixel_size, section_thickness=section_thickness),
        )
        return cls(url, info=info, paths=paths, levels=levels, section_names=section_names(attributes or {}))

    @classmethod
    def unfinished(cls, url: str, *, info: VolumeInfo, mips: int) -> "Volume":
        """Return a volume that `create_volume` has made with this many levels and that is being written."""
        paths = tuple(str(mip) for mip in range(mips))
        levels = tuple(arrays.open_array(location.join(url, path), mode="r") for path in paths)
        return cls(url, info=info, paths=paths, levels=levels)

    def reordered(self, order: Mapping[int, int]) -> "Volume":
        """Return the volume as it is read with some sections in the places of others.

        Args:
            order: section that is read, by the place where it is read.
        """
        if not order:
            return self
        volume = copy.copy(self)
        volume._order = dict(order)
        return volume

    @property
    def mips(self) -> tuple[int, ...]:
        """Stored mips: contiguous, from 0."""
        return tuple(range(len(self._levels)))

    @property
    def level_urls(self) -> tuple[str, ...]:
        """URL of the array of each stored mip."""
        return tuple(location.join(self.url, path) for path in self._paths)

    @property
    def zarr_format(self) -> int:
        """2 or 3."""
        return int(self._levels[0].metadata.zarr_format)

    def shape_at(self, mip: int) -> ShapeZYX:
        """Return (z, y, x) at any mip, stored or not."""
        return (self.info.shape[0], *shape_at_mip(self.info.shape[1:], mip=mip))

    def stored_mip(self, mip: int) -> int:
        """Return the coarsest stored mip that is not coarser than `mip`."""
        return min(mip, self.mips[-1])

    @property
    def each_channel(self) -> tuple["Volume", ...]:
        """The volume once for each channel; itself if the image has no axis c."""
        if not self.info.channels:
            return (self,)
        return tuple(self._of_channel(number) for number in range(len(self.info.channels)))

    def chunk(self, mip: int) -> ShapeZYX:
        """Return the extent of a chunk of a stored mip: the unit of reading."""
        z, y, x = self._levels[mip].chunks[-3:]
        return z, y, x

    def write_unit(self, mip: int) -> ShapeZYX:
        """Return the extent of what one task writes as a whole at a stored mip: a shard, or a chunk if unsharded."""
        z, y, x = arrays.write_unit(self._levels[mip])[-3:]
        return z, y, x

    def shard_path(self, box: Box) -> str:
        """Return the path in the group of the file that holds the first value of a box at a stored mip."""
        units = arrays.write_unit(self._levels[box.mip])
        starts = (part if isinstance(part, int) else part.start for part in self._index(box))
        index = tuple(start // unit for start, unit in zip(starts, units, strict=True))
        return f"{self._paths[box.mip]}/{self._levels[box.mip].metadata.encode_chunk_key(index)}"

    def read(self, box: Box) -> AnyArray:
        """Read the values (z, y, x) of a box.

        Raises:
            PlanError: the box's mip is not stored, or the box leaves the volume.
            SourceError: a chunk under the box is damaged, or the location cannot be reached.
        """
        self._check(box)
        if any(z in self._order for z in box.sections):
            stored = copy.copy(self)
            stored._order = {}
            (_, top, left), (_, bottom, right) = box.start, box.stop
            sections = (self._order.get(z, z) for z in box.sections)
            return np.concatenate([stored.read(Box((z, top, left), (z + 1, bottom, right), box.mip)) for z in sections])
        what = f"{self.url}: box {box.start}…{box.stop} at mip {box.mip}"
        with location.reading(self.url), arrays.reading_chunks(what), fused_codecs():
            return np.asarray(self._levels[box.mip][self._index(box)], dtype=self.info.dtype)

    def read_channels(self, box: Box) -> AnyArray:
        """Read the values of a box of all channels, (c, z, y, x); (z, y, x) if there is no axis c. Errors as `read`."""
        if not self.info.channels:
            return self.read(box)
        return np.stack([channel.read(box) for channel in self.each_channel])

    def write(self, box: Box, values: AnyArray) -> None:
        """Write whole shards.

        Args:
            box: starts and stops at shard borders or at the volume's end.
            values: (z, y, x) of the box's shape and the volume's dtype.

        Raises:
            PlanError: the box is not made of whole shards (two tasks could write one file), leaves the volume, or
                `values` do not fit it.
            OutputError: the place cannot be written.
        """
        self._check(box)
        if not arrays.covers_write_units(self._levels[box.mip], self._index(box)):
            raise PlanError(
                f"{self.url}: box {box.start}…{box.stop} at mip {box.mip} is not made of whole shards of "
                f"{self.write_unit(box.mip)}; lay tasks out in multiples of a shard."
            )
        if values.shape != box.shape or values.dtype != self.info.dtype:
            raise PlanError(
                f"{self.url}: got values {values.shape} {values.dtype} for a box of {box.shape} {self.info.dtype}."
            )
        with location.writing(self.url), fused_codecs():
            if box.mip not in self._writable:
                path = location.join(self.url, self._paths[box.mip])
                self._writable[box.mip] = arrays.open_array(path, mode="r+")
            self._writable[box.mip][self._index(box)] = values

    def fingerprints(self, *, mips: Iterable[int] | None = None) -> dict[tuple[int, int, int], str]:
        """Return a fingerprint of each group of sections (mip, start, stop) that share files, of all channels.

        Costs one listing of each level. Empty if the location cannot be listed, as behind plain http.

        Args:
            mips: stored mips; None: all.
        """
        fingerprints = {}
        with location.reading(self.url):
            for mip in self.mips if mips is None else mips:
                url = location.join(self.url, self._paths[mip])
                axis = self._levels[mip].ndim - 3
                for span, fingerprint in arrays.fingerprints_along(url, self._levels[mip], axis=axis).items():
                    fingerprints[mip, *span] = fingerprint
        return fingerprints

    def at_level(self, mip: int) -> "Volume":
        """Return the volume with a stored mip as its mip 0."""
        volume = copy.copy(self)
        volume.info = replace(self.info, shape=self.shape_at(mip), pixel_size=self.info.pixel_size * 2**mip)
        volume._paths, volume._levels, volume._writable = self._paths[mip:], self._levels[mip:], {}
        return volume

    def _of_channel(self, number: int) -> "Volume":
        return Volume(
            self.url,
            info=replace(self.info, channel=number),
            paths=self._paths,
            levels=self._levels,
            section_names=self.section_names,
        ).reordered(self._order)

    def _index(self, box: Box) -> tuple[int | slice, ...]:
        """Return the index of a box in the stored array of its mip; SourceError if the channel is not known."""
        if not self.info.channels:
            return box.slices
        if self.info.channel is None:
            raise SourceError(several_channels(self.url, self.info.channels))
        return (self.info.channel, *box.slices)

    def _check(self, box: Box) -> None:
        if box.mip not in self.mips:
            raise PlanError(f"{self.url}: mip {box.mip} is not stored, only mips 0 to {self.mips[-1]}.")
        if not Box((0, 0, 0), self.shape_at(box.mip), box.mip).contains(box):
            raise PlanError(
                f"{self.url}: box {box.start}…{box.stop} leaves the volume {self.shape_at(box.mip)} at mip {box.mip}."
            )


def create_volume(
    url: str,
    *,
    info: VolumeInfo,
    chunk: ShapeZYX,
    shard: ShapeZYX,
    mips: int,
    name: str = "",
    attributes: dict[str, Any] | None = None,
    compression: arrays.Compression = "zstd",
) -> Volume:
    """Create an OME-Zarr 0.5 volume with `mips` levels, all empty; an existing one of this layout is opened.

    Args:
        url: of the image group.
        info: shape, type, physical size and channels.
        chunk: extent of a chunk at every mip.
        shard: extent of a shard, a multiple of `chunk`; reduced for a level that does not fill it.
        mips: number of levels.
        name: name that viewers show; empty: that of the group.
        attributes: further group attributes.
        compression: of the chunks of all levels.

    Raises:
        PlanError: `shard` is not a multiple of `chunk`.
        OutputError: something else is there, or the location cannot be written.
    """
    image = ngff.ImageMetadata(
        name=name or url.rstrip("/").rpartition("/")[2],
        pixel_size=info.pixel_size,
        section_thickness=info.section_thickness,
        mips=mips,
        channels=info.channels,
        dtype=info.dtype,
    )
    metadata = {**ngff.image_attributes(image), **register_attribute(info.channels, register=info.channel)}
    arrays.create_group(url, attributes={**metadata, **(attributes or {})})
    axes, leading, one = (ngff.CHANNEL_AXES, (len(info.channels),), (1,)) if info.channels else (ngff.AXES, (), ())
    levels = []
    for mip in range(mips):
        shape = (info.shape[0], *shape_at_mip(info.shape[1:], mip=mip))
        level = arrays.create_array(
            location.join(url, str(mip)),
            shape=(*leading, *shape),
            dtype=info.dtype,
            axes=axes,
            chunks=(*one, *chunk),
            shards=(*one, *fitted_shard(shape, chunk=chunk, shard=shard)),
            fill_value=0,
            attributes={},
            compression=compression,
        )
        levels.append(level)
    return Volume(url, info=info, paths=tuple(str(mip) for mip in range(mips)), levels=tuple(levels))


def fitted_shard(shape: ShapeZYX, *, chunk: ShapeZYX, shard: ShapeZYX) -> ShapeZYX:
    """Return a shard of whole chunks that is no larger than an array of this shape needs."""
    z, y, x = (min(s, round_up(n, multiple=c)) for n, c, s in zip(shape, chunk, shard, strict=True))
    return z, y, x


def _refuse_other_groups(url: str, attributes: dict[str, Any]) -> None:
    refuse_unfinished_import(url, attributes)
    # The root of a run has image metadata for other tools. Here it is ambiguous which of its images is meant.
    if "ssem_dask" in attributes:
        raise SourceError(f"{url}: this is an alignment, not an image; its image is {location.join(url, 'aligned')}.")
    if ngff.is_image(attributes):
        return
    inside = ", ".join(location.list_names(url)) or "nothing"
    raise SourceError(
        f"{url}: a Zarr group without OME-Zarr image metadata (inside: {inside}); give an image group or an array."
    )


def _open_levels(url: str, image: ngff.Multiscale) -> tuple[tuple[str, ...], tuple[ZarrArray, ...]]:
    """Open the levels that are mips (C3): y and x halved and rounded up each time, z kept; ignore the others."""
    first = arrays.open_array(location.join_below(url, image.paths[0]), mode="r")
    paths, levels = [image.paths[0]], [first]
    for path in image.paths[1:]:
        wanted = (*first.shape[:-2], *shape_at_mip((first.shape[-2], first.shape[-1]), mip=len(levels)))
        level = arrays.open_array(location.join_below(url, path), mode="r")
        if level.shape != wanted:
            break
        paths.append(path)
        levels.append(level)
    return tuple(paths), tuple(levels)
