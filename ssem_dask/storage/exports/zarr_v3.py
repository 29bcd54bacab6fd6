"""OME-Zarr 0.6 on Zarr v3, sharded unless the user wants one file per chunk."""

from dataclasses import dataclass
from typing import ClassVar

from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.exports.target import Target, grown
from ssem_dask.storage.ngff06 import image_attributes_v06
from ssem_dask.types import AnyArray, ShapeZYX


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrV3Target(Target):
    """An OME-Zarr 0.6 image."""

    FORM: ClassVar[str] = "ngff-0.6"

    sharded: bool

    def check(self) -> None:
        """See `Target.check`; Zarr holds every type."""
        self.check_chunk()

    def prepare(self) -> None:
        """Create the arrays, and their group without the metadata of an image."""
        axes = (("c",) if self.info.channels else ()) + ngff.AXES
        for mip in range(self.mips):
            one = tuple(1 for _ in self.leading)
            arrays.create_array(
                self._level(mip),
                shape=(*self.leading, *self.shape_at(mip)),
                dtype=self.info.dtype,
                axes=axes,
                chunks=(*one, *self._chunk(mip)),
                shards=(*one, *self._shard(mip)) if self.sharded else None,
                fill_value=0,
                attributes={},
            )

    def reopen(self) -> None:
        """See `Target.reopen`."""
        with location.writing(self.url):
            location.delete(location.join(self.url, "zarr.json"), recursive=False)

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        return self._shard(mip)

    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """See `Target.write`; as usual in Zarr, a chunk of zeros is not stored."""
        with location.writing(self.url), fused_codecs():
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
        arrays.create_group(self.url, attributes=image_attributes_v06(image, labels=self.labels))

    def _level(self, mip: int) -> str:
        return location.join(self.url, str(mip))

    def _chunk(self, mip: int) -> ShapeZYX:
        z, y, x = (min(c, n) for c, n in zip(self.chunk, self.shape_at(mip), strict=True))
        return z, y, x

    def _shard(self, mip: int) -> ShapeZYX:
        return grown(self._chunk(mip), shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)
