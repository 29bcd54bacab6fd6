"""Hypothesis strategies for fields, images, affines, boxes and tilings."""

import numpy as np
import torch
from hypothesis import strategies as st

from ssem_dask.field.affine import rotation_about
from ssem_dask.types import Float64Array, ShapeYX

SHAPE: ShapeYX = (40, 48)
SPACING = 8.0
MARGIN = 6
"""Nodes next to the border that laws of the interior leave out."""


def smooth_noise(channels: int, shape: ShapeYX, *, seed: int, cycles: int) -> torch.Tensor:
    """Random sums of waves with at most `cycles` cycles over the shape; rms about 1."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    out = np.zeros((channels, *shape))
    for c in range(channels):
        for _ in range(8):
            fy, fx, phase = rng.uniform(-cycles, cycles), rng.uniform(-cycles, cycles), rng.uniform(0, 2 * np.pi)
            out[c] += 0.5 * np.cos(2 * np.pi * (fy * y + fx * x) + phase)
    return torch.from_numpy(out.astype(np.float32))


@st.composite
def fields(draw: st.DrawFn, max_rms: float = 4.0) -> torch.Tensor:
    """Smooth fields without folds on SHAPE at SPACING, mip-0 px."""
    seed, rms = draw(st.integers(0, 2**31)), draw(st.floats(0.0, max_rms))
    return rms * smooth_noise(2, SHAPE, seed=seed, cycles=1)


@st.composite
def images(draw: st.DrawFn) -> torch.Tensor:
    """Smooth images `(1, y, x)` on SHAPE."""
    return smooth_noise(1, SHAPE, seed=draw(st.integers(0, 2**31)), cycles=2)


@st.composite
def affines(draw: st.DrawFn) -> Float64Array:
    """Rotations with scale, shear and shift."""
    rotation = rotation_about(
        degrees=draw(st.floats(-180, 180)),
        centre=(draw(st.floats(-1e4, 1e4)), draw(st.floats(-1e4, 1e4))),
        shift=(draw(st.floats(-1e3, 1e3)), draw(st.floats(-1e3, 1e3))),
        scale=draw(st.floats(0.7, 1.4)),
    )
    rotation[0, 1] += draw(st.floats(-0.1, 0.1))
    return rotation


def interior(values: torch.Tensor) -> torch.Tensor:
    """Without MARGIN nodes at the border of the last two axes."""
    return values[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
