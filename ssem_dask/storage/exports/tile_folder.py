"""Tiles for VAST: PNG files of one section each, and a `.vsvi` file that describes them.

    OUT/
      OUT.vsvi                                     what VAST opens; one per channel if there are channels
      mip0/slice00012/00012_tr1-tc3.png            section 12, first row, third column

Sections count from 0 as in the volume, rows and columns from 1. All tiles have the same size: what is beyond the
volume is 0.
"""

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.extras import require_extra
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage import location
from ssem_dask.storage.exports.target import Target, grown
from ssem_dask.types import AnyArray, ShapeZYX

TILE: ShapeZYX = (1, 1024, 1024)
_NAME = "mip{mip}/slice{z:05d}/{z:05d}_tr{row}-tc{column}.png"
_TEMPLATE = "slice%05d/%05d_tr%d-tc%d.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTarget(Target):
    """A folder of tiles."""

    FORM: ClassVar[str] = "vast"

    def check(self) -> None:
        """See `Target.check`."""
        require_extra("formats", purpose="export --vast")
        self.check_chunk()
        if self.chunk[0] != 1:
            raise ConfigError(f"export: a tile is of one section, but the chunk is {self.chunk}; give 1 Y X.")
        if self.labels or self.info.dtype != np.uint8:
            kind = "labels" if self.labels else f"{self.info.dtype} pixels"
            raise SourceError(
                f"{self.url}: VAST shows images of uint8, but the source has {kind}; "
                "convert them, or write --ngff or --precomputed."
            )

    def prepare(self) -> None:
        """Do nothing: folders are made with their first file."""

    def reopen(self) -> None:
        """See `Target.reopen`."""
        with location.writing(self.url):
            for name, _ in self._images():
                location.delete(location.join(self.url, name), recursive=False)

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        return grown(self.chunk, shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)

    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """See `Target.write`; tiles of zeros are written too, since VAST would take the nearest section instead."""
        encode = importlib.import_module("imagecodecs").png_encode
        by_channel = values if self.leading else values[None]
        _, height, width = self.chunk
        with location.writing(self.url):
            for (_, folder), image in zip(self._images(), by_channel, strict=True):
                for z, section in enumerate(image, start[0]):
                    for top in range(0, section.shape[0], height):
                        for left in range(0, section.shape[1], width):
                            tile = np.zeros((height, width), dtype=section.dtype)
                            part = section[top : top + height, left : left + width]
                            tile[: part.shape[0], : part.shape[1]] = part
                            row, column = (start[1] + top) // height + 1, (start[2] + left) // width + 1
                            name = _NAME.format(mip=mip, z=z, row=row, column=column)
                            location.write_bytes(location.join(self.url, folder, name), encode(tile))

    def finish(self) -> None:
        """Write the `.vsvi` files."""
        with location.writing(self.url):
            for name, folder in self._images():
                location.write_json(
                    location.join(self.url, name), self._description(name.removesuffix(".vsvi"), folder)
                )

    def _images(self) -> list[tuple[str, str]]:
        """Return the `.vsvi` file of each channel, and its folder of tiles."""
        name = self.url.rstrip("/").rpartition("/")[2]
        if not self.info.channels:
            return [(f"{name}.vsvi", "")]
        return [(f"{name}-{i}.vsvi", f"channel{i}") for i in range(len(self.info.channels))]

    def _description(self, name: str, folder: str) -> dict[str, Any]:
        z, y, x = self.info.shape
        _, height, width = self.chunk
        place = f"./{folder}/" if folder else "./"
        return {
            "Comment": name,
            "ServerType": "imagetiles",
            "SourceFileNameTemplate": f"{place}mip0/{_TEMPLATE}",
            "SourceParamSequence": "ssrc",
            "SourceMinS": 0,
            "SourceMaxS": z - 1,
            "SourceMinR": 1,
            "SourceMaxR": ceil_div(y, height),
            "SourceMinC": 1,
            "SourceMaxC": ceil_div(x, width),
            "MipMapFileNameTemplate": f"{place}mip%d/{_TEMPLATE}",
            "MipMapParamSequence": "mssrc",
            "SourceMinM": min(1, self.mips - 1),
            "SourceMaxM": self.mips - 1,
            "SourceTileSizeX": width,
            "SourceTileSizeY": height,
            "SourceBytesPerPixel": 1,
            "MissingImagePolicy": "nearest",
            "TargetDataSizeX": x,
            "TargetDataSizeY": y,
            "TargetDataSizeZ": z,
            "OffsetX": 0,
            "OffsetY": 0,
            "OffsetZ": 0,
            "OffsetMip": 0,
            "TargetVoxelSizeXnm": self.info.pixel_size,
            "TargetVoxelSizeYnm": self.info.pixel_size,
            "TargetVoxelSizeZnm": self.info.section_thickness,
            "TargetLayerName": name,
        }
