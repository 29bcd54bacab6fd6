"""Base of OME-Zarr images on Zarr v2 and v3, with the file that opens them in WEBKNOSSOS.

`datasource-properties.json` makes the folder a dataset of WEBKNOSSOS too, which reads the same arrays.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.exports.target import Target
from ssem_dask.types import AnyArray, ShapeZYX

WEBKNOSSOS = "datasource-properties.json"
_COLOR_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")
_LABEL_TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrImageTarget(Target):
    """An OME-Zarr image."""

    METADATA: ClassVar[str]
    """File with the metadata that make the group an image."""
    WEBKNOSSOS_FORMAT: ClassVar[str]
    """Name of the format of the arrays in WEBKNOSSOS."""

    def check(self) -> None:
        """See `Target.check`; Zarr holds every type."""
        self.check_chunk()

    def reopen(self) -> None:
        """See `Target.reopen`."""
        with location.writing(self.url):
            for name in (WEBKNOSSOS, self.METADATA):
                location.delete(location.join(self.url, name), recursive=False)

    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """See `Target.write`; as usual in Zarr, a chunk of zeros is not stored."""
        with location.writing(self.url), fused_codecs():
            level = arrays.open_array(self.level(mip), mode="r+")
            z, y, x = (slice(a, a + n) for a, n in zip(start, values.shape[-3:], strict=True))
            level[..., z, y, x] = values

    def finish(self) -> None:
        """Write the group's attributes, and the file of WEBKNOSSOS if that has such values."""
        image = ngff.ImageMetadata(
            name=self.name,
            pixel_size=self.info.pixel_size,
            section_thickness=self.info.section_thickness,
            mips=self.mips,
            channels=self.info.channels,
            dtype=self.info.dtype,
        )
        with location.writing(self.url):
            if self.info.dtype.name in (_LABEL_TYPES if self.labels else _COLOR_TYPES):
                location.write_json(location.join(self.url, WEBKNOSSOS), self._webknossos())
            self.write_attributes(image)

    @abstractmethod
    def write_attributes(self, image: ngff.ImageMetadata) -> None:
        """Write the attributes of the group."""

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.url.rstrip("/").rpartition("/")[2]

    def level(self, mip: int) -> str:
        """Return the URL of the array of a level."""
        return location.join(self.url, str(mip))

    def level_chunk(self, mip: int) -> ShapeZYX:
        """Return the chunk, clipped to the level, since Zarr stores whole chunks."""
        z, y, x = (min(c, n) for c, n in zip(self.chunk, self.shape_at(mip), strict=True))
        return z, y, x

    def _webknossos(self) -> Mapping[str, Any]:
        pixel, thickness = self.info.pixel_size, self.info.section_thickness
        names = self.info.channels or ("segmentation" if self.labels else "color",)
        return {
            "version": 1,
            "id": {"name": self.name, "team": ""},
            "scale": {"factor": [pixel, pixel, thickness], "unit": "nanometer"},
            "dataLayers": [self._layer(name, channel) for channel, name in enumerate(names)],
        }

    def _layer(self, name: str, channel: int) -> dict[str, Any]:
        z, y, x = self.info.shape
        has_channels = bool(self.info.channels)
        order = {axis: i for i, axis in enumerate(ngff.CHANNEL_AXES if has_channels else ngff.AXES)}
        mags: list[dict[str, Any]] = []
        for mip in range(self.mips):
            of_channel = {"channelIndex": channel} if has_channels else {}
            mags.append({"mag": [2**mip, 2**mip, 1], "path": f"./{mip}", "axisOrder": order, **of_channel})
        dtype = self.info.dtype.name
        return {
            "name": name,
            "category": "segmentation" if self.labels else "color",
            "boundingBox": {"topLeft": [0, 0, 0], "width": x, "height": y, "depth": z},
            "elementClass": "float" if dtype == "float32" else dtype,
            "dataFormat": self.WEBKNOSSOS_FORMAT,
            "numChannels": 1,
            "mags": mags,
        }
