"""Use of a computed alignment: `open_alignment(url)` warps sections and maps points."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ssem_dask.errors import SourceError
from ssem_dask.field.border import extrapolated
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample_known
from ssem_dask.field.inverse import preimages
from ssem_dask.geometry.box import Box
from ssem_dask.shown import without_secrets
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.warped_pixels import read_nodes, to_dtype, warped_labels, warped_sections
from ssem_dask.storage.fields import open_coarse, open_field
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float32Array, Float64Array, ShapeZYX

_SCALE_TOLERANCE = 1e-3
"""Relative error of a pixel size that formats make by rounding."""


class Alignment:
    """The fields of one run, to warp sections and map points.

    Fields pull: `aligned(p) = source(p + field(p))`, in mip-0 px, (y, x) (C1, C4, C5).
    """

    def __init__(self, url: str) -> None:
        """Open the run at `url`.

        Raises:
            SourceError: there is no run, or it has no section fields yet.
            ConventionError: its fields carry other conventions.
        """
        self.url = url
        self.record = read_run(url)
        self._field_url = SECTION.at(url)
        self._field, info = open_field(self._field_url)
        self.spacing: int = info.spacing
        """mip-0 px between nodes."""
        self.shape: ShapeZYX = info.shape_mip0
        """(z, y, x) of the aligned volume, mip 0."""

    @property
    def state(self) -> str:
        """`complete`, or `incomplete` if some of its results are missing."""
        return self.record.state

    @property
    def attributes(self) -> dict[str, Any]:
        """The run's record as plain values, for example to write it as JSON."""
        return dataclasses.asdict(self.record)

    def field(self, z: int) -> Float32Array:
        """Return the field `(2, y, x)` of section z on its nodes; NaN is unknown (C8)."""
        return np.asarray(self._field[self._checked(z)], dtype=np.float32)

    def fields(self) -> Float32Array:
        """Return all fields `(z, 2, y, x)`."""
        return np.asarray(self._field[:], dtype=np.float32)

    def coarse(self) -> Float64Array:
        """Return the affines `(z, 2, 3)`, aligned → source, that the fields start from."""
        return np.asarray(open_coarse(COARSE.at(self.url))[:], dtype=np.float64)

    def warp_section(
        self,
        volume: Volume,
        *,
        z: int,
        box: Box | None = None,
        kind: Interpolation = "bilinear",
        labels: bool = False,
    ) -> AnyArray:
        """Warp section z of a volume in the source's frame, for example another channel.

        Args:
            volume: of the source's sections; its pixels may be larger or smaller than the source's.
            z: index of the section.
            box: part (mip 0 of the volume, its z is not used) of the aligned section; None: all of it.
            kind: interpolation.
            labels: the values are ids: each is taken from the pixel that it points into.

        Returns:
            `(y, x)` in the volume's dtype, 0 where unknown.

        Raises:
            SourceError: the volume does not cover the source's sections.
        """
        scale = self.scale_of(volume)
        part = box or Box((self._checked(z), 0, 0), (z + 1, *volume.info.shape[1:]))
        sections = range(self._checked(z), z + 1)
        fields = read_nodes(self._field_url, sections=sections, box=part, spacing=self.spacing, scale=scale)
        if labels:
            return warped_labels(volume, field=fields[0].on_pixels(part), z=z, box=part)
        image, _ = next(warped_sections(volume, fields=fields, sections=sections, box=part, kind=kind))
        return to_dtype(image, volume.info.dtype)

    def scale_of(self, volume: Volume, *, size_given: bool = False) -> float:
        """Return the mip-0 px of the source per px of a volume of the same sections, from their pixel sizes.

        A volume of the source's own shape has its pixels, whatever its metadata say.

        Args:
            volume: the volume.
            size_given: whether the user gave its pixel size, which must then be right.

        Raises:
            SourceError: at its pixel size, the volume does not cover the source's sections.
        """
        if volume.info.shape == self.shape and not size_given:
            return 1.0
        return self._scale_by_pixel_size(volume)

    def _scale_by_pixel_size(self, volume: Volume) -> float:
        shape = volume.info.shape
        scale = volume.info.pixel_size / self.record.pixel_size
        nearest = round(scale) if scale > 1 else 1 / max(1, round(1 / scale))
        if abs(scale - nearest) < _SCALE_TOLERANCE * scale:
            scale = nearest
        covers = all(abs(n * scale - own) < max(1.0, scale) for n, own in zip(shape[1:], self.shape[1:], strict=True))
        if shape[0] != self.shape[0] or not covers:
            raise SourceError(
                f"{volume.url}: has {_extent(shape, volume.info.pixel_size)}, but the alignment {self.url} is for "
                f"{_extent(self.shape, self.record.pixel_size)}; give a volume of the same sections, and --pixel-size "
                "if its own is wrong."
            )
        return scale

    def map_points(self, points: ArrayLike, *, to: str) -> Float64Array:
        """Map points between the aligned volume and the source.

        Args:
            points: `(n, 3)` (z, y, x), mip-0 px, pixel i's centre at i + 1/2 (C3); z is a section's index.
            to: `source` (the points are aligned positions; exact) or `aligned` (the points are source positions; the
                field is inverted to 0.001 px by fixed-point iteration).

        Returns:
            `(n, 3)`; NaN where the field is unknown or the inverse does not converge.

        Raises:
            ValueError: `to` is neither of these, or a z is not the index of a section.
        """
        if to not in ("source", "aligned"):
            raise ValueError(f"map_points: to = {to!r}; use 'source' or 'aligned'.")
        mapped = np.array(points, dtype=np.float64)
        sections = mapped[:, 0].astype(int)
        grid = Grid((int(self._field.shape[2]), int(self._field.shape[3])), self.spacing)
        order = np.argsort(sections, kind="stable")
        found, starts = np.unique(sections[order], return_index=True)
        for z, rows in zip(found, np.split(order, starts[1:]), strict=True):
            field, nodes = extrapolated(torch.from_numpy(self.field(int(z))), grid=grid)
            positions = torch.from_numpy(mapped[rows, 1:].T.copy())
            if to == "aligned":
                positions = preimages(field, grid=nodes, targets=positions)
            else:
                positions = positions + _displacement(field, nodes, positions)
            mapped[rows, 1:] = positions.T.numpy()
        return mapped

    def _checked(self, z: int) -> int:
        if not 0 <= z < self.shape[0]:
            raise ValueError(f"Alignment {self.url}: there is no section {z}; it has 0 … {self.shape[0] - 1}.")
        return z


def _extent(shape: ShapeZYX, pixel_size: float) -> str:
    return f"{shape[0]} sections of {shape[1]} × {shape[2]} px of {pixel_size:g} nm"


def open_alignment(url: str) -> Alignment:
    """Open the alignment that `align` wrote to `url` (any fsspec URL)."""
    return Alignment(without_secrets(url))


def _displacement(field: torch.Tensor, grid: Grid, positions: torch.Tensor) -> torch.Tensor:
    return sample_known(field, grid=grid, positions=positions.float()).double()
