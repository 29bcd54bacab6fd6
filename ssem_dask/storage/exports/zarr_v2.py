"""OME-Zarr 0.4 on Zarr v2: one file per chunk, `0/z/y/x`, compressed by Blosc (zstd), which every reader supports."""

from dataclasses import dataclass
from typing import ClassVar

import numcodecs
import zarr

from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.exports.target import Target, grown
from ssem_dask.types import AnyArray, ShapeZYX


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrV2Target(Target):
    """An OME-Zarr 0.4 image."""

    FORM: ClassVar[str] = "ngff-0.4"

    def check(self) -> None:
        """See `Target.check`; Zarr holds every type."""
        self.check_chunk()

    def prepare(self) -> None:
        """Create the group, without the metadata of an image, and the arrays."""
        with location.writing(self.url):
            location.write_bytes(location.join(self.url, ".zgroup"), b'{"zarr_format": 2}')
            for mip in range(self.mips):
                self._create(mip)

    def reopen(self) -> None:
        """See `Target.reopen`."""
        with location.writing(self.url):
            location.delete(location.join(self.url, ".zattrs"), recursive=False)

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        return grown(self._chunk(mip), shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)

    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """See `Target.write`; as usual in Zarr, a chunk of zeros has no file."""
        with location.writing(self.url):
            level = arrays.open_array(self._level(mip), mode="r+")
            z, y, x = (slice(a, a + n) for a, n in zip(start, values.shape[-3:], strict=True))
            level[..., z, y, x] = values

    def finish(self) -> None:
        """Write the group's attributes."""
        image = ngff.ImageMetadata(
            name=self.url.rstrip("/").rpartition("/")[2],
            pixel_size=self.info.pixel_size,
            section_thickness=self.info.section_thickness,
            mips=self.mips,
            channels=self.info.channels,
            dtype=self.info.dtype,
        )
        attributes = ngff.image_attributes_v04(image, labels=self.labels)
        with location.writing(self.url):
            location.write_json(location.join(self.url, ".zattrs"), attributes)

    def _create(self, mip: int) -> None:
        if location.exists(location.join(self._level(mip), ".zarray")):
            return  # created by this export before it was interrupted
        zarr.create_array(
            location.open_store(self._level(mip), read_only=False),
            shape=(*self.leading, *self.shape_at(mip)),
            dtype=self.info.dtype,
            chunks=(*(1 for _ in self.leading), *self._chunk(mip)),
            compressors=numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.SHUFFLE),
            filters=None,
            fill_value=0,
            zarr_format=2,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )

    def _level(self, mip: int) -> str:
        return location.join(self.url, str(mip))

    def _chunk(self, mip: int) -> ShapeZYX:
        """Return the chunk, clipped to the level because Zarr v2 stores whole chunks."""
        z, y, x = (min(c, n) for c, n in zip(self.chunk, self.shape_at(mip), strict=True))
        return z, y, x
