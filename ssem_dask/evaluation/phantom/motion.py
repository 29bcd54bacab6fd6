"""Natural motion: neurites run obliquely, and neighbouring ones run together.

The motion is a sum of smooth noises of several scales, bounded at any depth. At each scale the step from one section
to the next is strongly correlated along z and decorrelates over some sections (fine) to tens of sections (coarse),
as measured on naturally aligned FIB-SEM.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.randomness import increment_ratio, knots_at, spline_matrix, unit_plane
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float32Array, Float64Array

_STREAM = 100


@dataclass(frozen=True, slots=True)
class _Scale:
    """One in-plane scale of the motion."""

    period: float
    """Knot distance in the plane, nm."""
    z_periods: tuple[float, float]
    """Knot distances along z, nm; two, so that the correlation has a long tail."""
    share: float
    """Share of the variance of the step from section to section."""


_SCALES = (
    _Scale(700.0, (90.0, 250.0), 0.15),
    _Scale(1800.0, (140.0, 450.0), 0.35),
    _Scale(7000.0, (200.0, 1200.0), 0.5),
)


def natural_motion(config: PhantomConfig, z: int, grid: Grid) -> Tensor:
    """Return the position of section z's tissue in the reference tissue, which is that of section 0.

    Args:
        config: the phantom.
        z: section.
        grid: nodes at which to return the motion.

    Returns:
        `(2, y, x)` float32, mip-0 px, pull (C5): the tissue at p in section z is that at `p + motion(p)` in section 0,
        except for the slow change of outlines. Zero everywhere at z = 0.
    """
    y, x = (
        (origin + (np.arange(n, dtype=np.float64) + 0.5) * grid.spacing) * config.pixel_size
        for n, origin in zip(grid.shape, grid.origin, strict=True)
    )
    return torch.from_numpy(motion_nm(config, z=z, y=y, x=x) / np.float32(config.pixel_size))


def motion_nm(config: PhantomConfig, *, z: int, y: Float64Array, x: Float64Array) -> Float32Array:
    """Return the natural motion `(2, len(y), len(x))` in nm on the product of two axes of positions in nm."""
    total = np.zeros((2, len(y), len(x)), dtype=np.float32)
    if config.oblique == 0.0 or z == 0:
        return total
    components = np.arange(4).reshape(4, 1, 1)
    for index, scale in enumerate(_SCALES):
        first_y, matrix_y = spline_matrix(y / scale.period)
        first_x, matrix_x = spline_matrix(x / scale.period)
        rows = np.arange(first_y, first_y + matrix_y.shape[1])[:, None]
        columns = np.arange(first_x, first_x + matrix_x.shape[1])[None, :]
        z_period = np.repeat(scale.z_periods, 2).reshape(4, 1, 1)  # component 2 * part + axis
        steps = [increment_ratio(config.section_thickness, period=p) for p in scale.z_periods for _ in range(2)]
        # oblique is the length of a vector of two components; each scale has two z periods.
        size = config.oblique * (scale.share / 4) ** 0.5 / np.array(steps, dtype=np.float32).reshape(4, 1, 1)
        keys = (_STREAM + index, components, rows, columns)
        knots = knots_at(config.seed, *keys, z=z * config.section_thickness, z_period=z_period)
        knots -= knots_at(config.seed, *keys, z=0.0, z_period=z_period)
        knots = unit_plane(size.astype(np.float32) * knots)
        total += matrix_y @ (knots[:2] + knots[2:]) @ matrix_x.T
    return total
