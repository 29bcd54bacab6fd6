"""Fields as an OME-Zarr 0.6 scene: two images, and between them a displacement field each way.

    OUT.zarr/                              the scene: a bijection aligned → source
      aligned/  source/                    the images, or only their metadata, without pixels
      coordinateTransformations/
        to_source/  to_aligned/            fields (c = dz, dy, dx; z, y, x), nm; dz is 0
        to_source_known/  to_aligned_known/   1 at nodes whose value was not filled in
        residual                           (z, 3): mean, 99th percentile and largest error of the inverse, nm

Chunks of zeros are not stored, so dz takes no room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ssem_dask.geometry.chunks import round_up
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.exports.field_target import (
    DIRECTIONS,
    RESIDUAL_COLUMNS,
    DirectedField,
    Direction,
    FieldTarget,
    SectionExport,
)
from ssem_dask.storage.ngff06 import (
    FIELD_LEVEL,
    field_attributes_v06,
    image_attributes_v06,
    node_attributes_v06,
    scene_attributes,
)

_FOLDER = "coordinateTransformations"
_CHUNK_PX = 256
"""Nodes of a chunk along y and x."""
_KNOWN = "_known"
_RESIDUAL = "residual"
IMAGES = ("aligned", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTarget(FieldTarget):
    """A scene with the fields of a run."""

    FORM: ClassVar[str] = "fields"
    INVERTS: ClassVar[bool] = True

    images: tuple[tuple[str, str, str], ...] = ()
    """Name, type of the pixels, and name for viewers of the images that are written without pixels."""

    def prepare(self) -> None:
        """See `FieldTarget.prepare`."""
        for direction in DIRECTIONS:
            nodes = self.nodes(direction)
            chunk, shard = self._chunks(nodes)
            self._create(direction, shape=(3, self.shape[0], *nodes), chunk=(1, *chunk), shard=(3, *shard))
            self._create(direction + _KNOWN, shape=(self.shape[0], *nodes), chunk=chunk, shard=shard)
        arrays.create_array(
            self._url(_RESIDUAL),
            shape=(self.shape[0], len(RESIDUAL_COLUMNS)),
            dtype="float32",
            axes=("z", "column"),
            chunks=(self.depth, len(RESIDUAL_COLUMNS)),
            shards=None,
            fill_value=float("nan"),
            attributes={"columns": list(RESIDUAL_COLUMNS), "unit": "nanometer"},
        )
        for name, dtype, _ in self.images:
            arrays.create_array(
                location.join(self.url, name, "0"),
                shape=self.shape,
                dtype=dtype,
                axes=ngff.AXES,
                chunks=tuple(min(n, limit) for n, limit in zip(self.shape, (8, 1024, 1024), strict=True)),
                shards=None,
                fill_value=0,
                attributes={},
            )

    def reopen(self) -> None:
        """See `FieldTarget.reopen`."""
        with location.writing(self.url):
            location.delete(location.join(self.url, "zarr.json"), recursive=False)

    def write(self, sections: Sequence[SectionExport], *, start: int) -> None:
        """See `FieldTarget.write`."""
        planes = slice(start, start + len(sections))
        for direction in DIRECTIONS:
            fields = [_directed(section, direction) for section in sections]
            values = np.zeros((3, len(sections), *self.nodes(direction)), dtype=np.float32)
            for z, field in enumerate(fields):
                values[1:, z] = field.values * np.float32(self.pixel_size)
            self._write(direction, (slice(None), planes), values)
            known = np.stack([field.known for field in fields]).astype(np.uint8)
            self._write(direction + _KNOWN, (planes,), known)
        residuals = np.array([section.residual for section in sections], dtype=np.float32) * self.pixel_size
        with location.writing(self.url), fused_codecs():
            arrays.open_array(self._url(_RESIDUAL), mode="r+")[planes] = residuals

    def finish(self) -> None:
        """See `FieldTarget.finish`."""
        for direction in DIRECTIONS:
            placement = self.placement(direction)
            known = f"known nodes of {direction}"
            self._describe(direction, field_attributes_v06(direction, placement))
            self._describe(direction + _KNOWN, node_attributes_v06(known, placement))
        for name, dtype, title in self.images:
            image = ngff.ImageMetadata(
                name=title,
                pixel_size=self.pixel_size,
                section_thickness=self.section_thickness,
                mips=1,
                dtype=np.dtype(dtype),
            )
            arrays.create_group(location.join(self.url, name), attributes=image_attributes_v06(image, labels=False))
        aligned, source = IMAGES
        forward, inverse = (location.join(_FOLDER, direction) for direction in DIRECTIONS)
        scene = scene_attributes(
            source=aligned,
            target=source,
            forward=forward,
            inverse=inverse,
            name="aligned to source",
            note={"ssem_dask_fields": self._note()},
        )
        arrays.create_group(self.url, attributes=scene)

    def inverse_error(self) -> dict[str, float]:
        """Return the error of `to_aligned`, nm: the median over sections of its mean, and its largest values."""
        with location.reading(self.url), fused_codecs():
            rows = np.asarray(arrays.open_array(self._url(_RESIDUAL), mode="r")[:], dtype=np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return {}
        mean, p99, largest = rows[:, 0], rows[:, 1], rows[:, 2]
        return {"median": float(np.median(mean)), "p99": float(p99.max()), "largest": float(largest.max())}

    def _note(self) -> dict[str, Any]:
        return {
            "inverse_error_nm": self.inverse_error(),
            "spacing_px": {"to_source": self.spacing, "to_aligned": self.inverse_spacing},
            "note": "to_aligned is exact at its nodes and interpolated between them; to_source is the result itself. "
            "Unknown nodes are filled in; *_known marks the others. The images hold no pixels unless they were copied.",
        }

    def _chunks(self, nodes: tuple[int, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the extent of a chunk, and that of the one shard of the sections of a task."""
        y, x = (min(n, _CHUNK_PX) for n in nodes)
        return (self.depth, y, x), (self.depth, round_up(nodes[0], multiple=y), round_up(nodes[1], multiple=x))

    def _create(self, name: str, *, shape: tuple[int, ...], chunk: tuple[int, ...], shard: tuple[int, ...]) -> None:
        arrays.create_array(
            self._array(name),
            shape=shape,
            dtype="float32" if len(shape) == 4 else "uint8",
            axes=("c", "z", "y", "x")[-len(shape) :],
            chunks=chunk,
            shards=shard,
            fill_value=0,
            attributes={},
        )

    def _write(self, name: str, index: tuple[slice, ...], values: np.ndarray[Any, Any]) -> None:
        with location.writing(self.url), fused_codecs():
            arrays.open_array(self._array(name), mode="r+")[index] = values

    def _describe(self, name: str, attributes: dict[str, Any]) -> None:
        arrays.create_group(self._url(name), attributes=attributes)

    def _array(self, name: str) -> str:
        return location.join(self._url(name), FIELD_LEVEL)

    def _url(self, name: str) -> str:
        return location.join(self.url, _FOLDER, name)


def _directed(section: SectionExport, direction: Direction) -> DirectedField:
    field = section.to_source if direction == "to_source" else section.to_aligned
    assert field is not None
    return field
