"""Pair fields of sequences whose distortion and natural motion are known, as sums of smooth fields."""

import numpy as np
import torch

from ssem_dask.composition.relax.spectra import from_spectrum
from ssem_dask.field.affine import IDENTITY
from ssem_dask.types import Float64Array

NODES = (12, 14)
SPACING = 32.0


def motion(rng: np.random.Generator, count: int, size: int, *, sigma: float, r: float = 0.9) -> Float64Array:
    """AR(1) sequences `(count, size)`."""
    out = np.zeros((count, size))
    out[0] = rng.normal(size=size) * sigma
    for z in range(1, count):
        out[z] = r * out[z - 1] + rng.normal(size=size) * sigma * (1 - r**2) ** 0.5
    return out


def observed(distortion: Float64Array, natural: Float64Array, steps: int) -> Float64Array:
    """T `(K, Z, …)` without noise."""
    count = len(distortion)
    out = np.zeros((steps, *distortion.shape))
    for k in range(1, steps + 1):
        for z in range(k, count):
            out[k - 1, z] = distortion[z - k] - distortion[z] + natural[z - k + 1 : z + 1].sum(axis=0)
    return out


def smooth_fields(rng: np.random.Generator, count: int, *, sigma: float) -> Float64Array:
    """Independent smooth fields `(count, 2, y, x)` without affine part, rms `sigma`."""
    coefficients = np.zeros((count, 2, *NODES))
    coefficients[:, :, 2:5, 2:5] = rng.normal(size=(count, 2, 3, 3))
    fields = from_spectrum(coefficients)
    return np.asarray(fields * sigma / fields.std())


def natural_fields(rng: np.random.Generator, count: int, *, sigma: float) -> Float64Array:
    """Smooth natural motion `(count, 2, y, x)`, AR(1) along z."""
    coefficients = np.zeros((count, 2, *NODES))
    coefficients[:, :, 2:5, 2:5] = motion(rng, count, 18, sigma=1.0).reshape(count, 2, 3, 3)
    fields = from_spectrum(coefficients)
    return np.asarray(fields * sigma / fields.std())


def compose_pairs(values: Float64Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair fields and full confidence; NaN where z-k does not exist."""
    pairs = torch.from_numpy(values).float()
    for k in range(1, len(pairs) + 1):
        pairs[k - 1, :k] = torch.nan
    return pairs, torch.isfinite(pairs).all(dim=2).float()


def still(count: int) -> Float64Array:
    return np.broadcast_to(IDENTITY, (count, 2, 3)).copy()
