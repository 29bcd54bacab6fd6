"""Known deformations: what cutting, mounting and imaging do to a section, random but reproducible.

A deformation is the pull field d_z of section z, observed → truth (C5): observed(p) = truth(p + d_z(p)). It is a
free-form cubic B-spline deformation (Rueckert et al. 1999, https://doi.org/10.1109/42.796284), followed by an affine
map about the centre of the section: p + d_z(p) = A_z(p + e_z(p)).

Law: d_z depends on (config, seed, z, shape) alone, so sections can be made independently and in any order.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ssem_dask.field.affine import rotation_about
from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import ConfigBase, Float64Array, ShapeYX

Preset: TypeAlias = Literal["standard", "smooth", "rough", "none"]

_STREAM: Final = 1  # keeps the random numbers of deformation and damage apart
_LATTICE_MARGIN_PX: Final = 64
"""Lattice beyond the section, since a torn section is sampled outside its border."""
_LEAST_JACOBIAN: Final = 0.1
"""Smallest local change of area |J| that is accepted."""
_SHRINK_FACTOR: Final = 0.8
"""Factor by which the elastic part is shrunk as long as |J| is below that."""


class DeformationConfig(ConfigBase):
    """Random deformation of every section, independent from section to section; all lengths in mip-0 px."""

    rotation: float = Field(default=2.0, ge=0.0, le=180.0)
    """Largest rotation, degrees; uniform in ±rotation."""
    shift: float = Field(default=15.0, ge=0.0)
    """Largest shift along y and along x, px; uniform in ±shift."""
    scale: float = Field(default=0.01, ge=0.0, lt=0.5)
    """Largest change of scale, a fraction; uniform in ±scale."""
    elastic: float = Field(default=4.0, ge=0.0)
    """Root mean square of the elastic displacement over the section, px per component."""
    elastic_spacing: tuple[float, float] = (64.0, 128.0)
    """Spacing of the B-spline's control points, px; drawn uniformly from this range for each section."""

    @model_validator(mode="after")
    def _ordered(self) -> "DeformationConfig":
        low, high = self.elastic_spacing
        if not 8.0 <= low <= high:
            raise ValueError(f"elastic_spacing is ({low}, {high}); give two spacings in px, 8 <= smaller <= larger.")
        return self

    @classmethod
    def preset(cls, name: Preset) -> "DeformationConfig":
        """Return a named deformation.

        `standard` is the default. `smooth` (256 px, 5 px rms) and `rough` (96 px, 4 px rms) are elastic only, with no
        rotation, shift or scaling; `none` leaves every section unchanged.
        """
        match name:
            case "standard":
                return cls()
            case "smooth":
                return cls(rotation=0.0, shift=0.0, scale=0.0, elastic=5.0, elastic_spacing=(256.0, 256.0))
            case "rough":
                return cls(rotation=0.0, shift=0.0, scale=0.0, elastic=4.0, elastic_spacing=(96.0, 96.0))
            case "none":
                return cls(rotation=0.0, shift=0.0, scale=0.0, elastic=0.0)


@dataclass(frozen=True, slots=True)
class Deformation:
    """The deformation of one section, defined at every position."""

    affine: Float64Array
    """(2, 3), the map applied after the elastic part, mip-0 px."""
    lattice: Grid
    """Control points of the elastic part."""
    values: Tensor
    """Elastic displacement (2, y, x) at the control points, px; a cubic B-spline passes through them."""

    def at(self, positions: Tensor) -> Tensor:
        """Return the displacements d(p) `(2, …)` float32 at `positions` `(2, …)`, mip-0 px."""
        elastic = self.elastic_at(positions)
        # The affine displacement is computed directly, not as a difference of large positions (C9).
        y, x = (positions + elastic).double()
        a = self.affine
        moved_y = (a[0, 0] - 1.0) * y + a[0, 1] * x + a[0, 2]
        moved_x = a[1, 0] * y + (a[1, 1] - 1.0) * x + a[1, 2]
        return elastic + torch.stack([moved_y, moved_x]).float()

    def elastic_at(self, positions: Tensor) -> Tensor:
        """Return the elastic part e(p) alone."""
        if not bool(self.values.any()):
            return torch.zeros_like(positions)
        return sample(self.values, grid=self.lattice, positions=positions, kind="bspline")


def draw_deformation(config: DeformationConfig, *, seed: int, z: int, shape_yx: ShapeYX) -> Deformation:
    """Draw the deformation of section z.

    The elastic part is scaled to the requested root mean square over the section. If the section would then fold (|J|
    < 0.1 somewhere), the elastic part is shrunk by factors of 0.8 until it does not.

    Args:
        config: distribution of deformations.
        seed: seed of the volume.
        z: section.
        shape_yx: extent (y, x) of the section, mip-0 px.
    """
    generator = np.random.default_rng([seed, _STREAM, z])
    spacing = float(generator.uniform(*config.elastic_spacing))
    degrees, shift_y, shift_x, scale = generator.uniform(-1.0, 1.0, size=4)
    affine = rotation_about(
        degrees=degrees * config.rotation,
        centre=(shape_yx[0] / 2, shape_yx[1] / 2),
        shift=(shift_y * config.shift, shift_x * config.shift),
        scale=1.0 + scale * config.scale,
    )
    lattice = _lattice(shape_yx, spacing=spacing)
    coefficients = torch.from_numpy(generator.standard_normal((2, *lattice.shape)).astype(np.float32))
    values = _spline_values(coefficients)
    probe = _probe(shape_yx, spacing=spacing)
    field = sample(values, grid=lattice, positions=probe.positions(), kind="bspline")
    rms = float(field.double().square().mean().sqrt())
    factor = config.elastic / rms
    while factor > 0.0 and _least_jacobian(field * factor, spacing=probe.spacing) < _LEAST_JACOBIAN:
        factor *= _SHRINK_FACTOR
    return Deformation(affine=affine, lattice=lattice, values=values * factor)


def _lattice(shape_yx: ShapeYX, *, spacing: float) -> Grid:
    """Return control points that cover the section and the margin, and two more that a cubic spline needs."""
    beyond = ceil_div(_LATTICE_MARGIN_PX, int(spacing)) + 2
    counts = (int(np.ceil(shape_yx[0] / spacing)) + 2 * beyond, int(np.ceil(shape_yx[1] / spacing)) + 2 * beyond)
    return Grid(counts, spacing, (-beyond * spacing, -beyond * spacing))


def _spline_values(coefficients: Tensor) -> Tensor:
    """Return the values of a cubic B-spline at its nodes; coefficients are mirrored at the border nodes."""
    line = torch.tensor([1.0, 4.0, 1.0]) / 6.0
    kernel = (line[:, None] * line[None, :])[None, None]
    return conv2d(pad(coefficients[:, None], (1, 1, 1, 1), mode="reflect"), kernel)[:, 0]


def _probe(shape_yx: ShapeYX, *, spacing: float) -> Grid:
    """Return a grid over the section that resolves the spline: 1/16 of its spacing."""
    step = max(1, int(spacing / 16))
    return Grid.of_section(shape_yx, spacing=step)


def _least_jacobian(field: Tensor, *, spacing: float) -> float:
    determinant = jacobian_determinant(field, spacing=spacing)
    return float(determinant.min()) if determinant.numel() else 1.0
