"""OME-Zarr 0.4 on Zarr v2: one file per chunk, `0/z/y/x`, compressed by Blosc (zstd), which every reader supports."""

from dataclasses import dataclass
from typing import ClassVar

import numcodecs
import zarr

from ssem_dask.storage import location, ngff
from ssem_dask.storage.exports.target import grown
from ssem_dask.storage.exports.zarr_image import ZarrImageTarget
from ssem_dask.types import ShapeZYX


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrV2Target(ZarrImageTarget):
    """An OME-Zarr 0.4 image."""

    FORM: ClassVar[str] = "ngff-0.4"
    METADATA: ClassVar[str] = ".zattrs"
    WEBKNOSSOS_FORMAT: ClassVar[str] = "zarr"

    def prepare(self) -> None:
        """Create the group, without the metadata of an image, and the arrays."""
        with location.writing(self.url):
            location.write_bytes(location.join(self.url, ".zgroup"), b'{"zarr_format": 2}')
            for mip in range(self.mips):
                self._create(mip)

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        return grown(self.level_chunk(mip), shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)

    def write_attributes(self, image: ngff.ImageMetadata) -> None:
        """See `ZarrImageTarget.write_attributes`."""
        attributes = ngff.image_attributes_v04(image, labels=self.labels)
        location.write_json(location.join(self.url, self.METADATA), attributes)

    def _create(self, mip: int) -> None:
        if location.exists(location.join(self.level(mip), ".zarray")):
            return  # created by this export before it was interrupted
        zarr.create_array(
            location.open_store(self.level(mip), read_only=False),
            shape=(*self.leading, *self.shape_at(mip)),
            dtype=self.info.dtype,
            chunks=(*(1 for _ in self.leading), *self.level_chunk(mip)),
            compressors=numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.SHUFFLE),
            filters=None,
            fill_value=0,
            zarr_format=2,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
