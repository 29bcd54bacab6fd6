"""OME-Zarr 0.6 on Zarr v3, sharded unless the user wants one file per chunk."""

from dataclasses import dataclass
from typing import ClassVar

from ssem_dask.storage import arrays, ngff
from ssem_dask.storage.exports.target import grown
from ssem_dask.storage.exports.zarr_image import ZarrImageTarget
from ssem_dask.storage.ngff06 import image_attributes_v06
from ssem_dask.types import ShapeZYX


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrV3Target(ZarrImageTarget):
    """An OME-Zarr 0.6 image."""

    FORM: ClassVar[str] = "ngff-0.6"
    METADATA: ClassVar[str] = "zarr.json"
    WEBKNOSSOS_FORMAT: ClassVar[str] = "zarr3"

    sharded: bool

    def prepare(self) -> None:
        """Create the arrays, and their group without the metadata of an image."""
        axes = (("c",) if self.info.channels else ()) + ngff.AXES
        for mip in range(self.mips):
            one = tuple(1 for _ in self.leading)
            arrays.create_array(
                self.level(mip),
                shape=(*self.leading, *self.shape_at(mip)),
                dtype=self.info.dtype,
                axes=axes,
                chunks=(*one, *self.level_chunk(mip)),
                shards=(*one, *self.unit(mip)) if self.sharded else None,
                fill_value=0,
                attributes={},
            )

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        return grown(self.level_chunk(mip), shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)

    def write_attributes(self, image: ngff.ImageMetadata) -> None:
        """See `ZarrImageTarget.write_attributes`."""
        arrays.create_group(self.url, attributes=image_attributes_v06(image, labels=self.labels))
