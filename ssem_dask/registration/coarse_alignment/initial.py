"""Working from an affine per section that is given.

With I_z the given map aligned → source, pairs and sections seen from it are M' = I_{z-k}⁻¹ ∘ M ∘ I_z and
A'_z = I_z⁻¹ ∘ A_z. Everything that is solved for in this frame is a correction: what nothing is known about keeps what
was given, and the aligned frame stays the one that was given.
"""

import numpy as np

from ssem_dask.field.affine import compose_affine, invert_affine
from ssem_dask.types import Float64Array


def pair_start(given: Float64Array, *, z: int, k: int) -> Float64Array | None:
    """The map fixed z → moving z-k that the given affines `(Z, 2, 3)` make; None where one of them is NaN."""
    fixed, moving = given[z], given[z - k]
    if not (np.isfinite(fixed).all() and np.isfinite(moving).all()):
        return None
    return compose_affine(outer=moving, inner=invert_affine(fixed))


def filled(given: Float64Array) -> Float64Array:
    """`given` `(Z, 2, 3)` with NaN sections replaced by the nearest given one, of two the earlier."""
    known = np.flatnonzero(np.isfinite(given).all(axis=(1, 2)))
    nearest = np.abs(np.arange(len(given))[:, None] - known[None, :]).argmin(axis=1)
    return np.asarray(given[known[nearest]])


def pairs_seen_from(given: Float64Array, affines: Float64Array) -> Float64Array:
    """M' `(K, Z, 2, 3)` of the pairs M; NaN stays NaN. No section of `given` `(Z, 2, 3)` may be NaN."""
    out = np.full_like(affines, np.nan)
    for step in range(len(affines)):
        k = step + 1
        for z in range(k, affines.shape[1]):
            inner = compose_affine(outer=affines[step, z], inner=given[z])
            out[step, z] = compose_affine(outer=invert_affine(given[z - k]), inner=inner)
    return out


def sections_from(given: Float64Array, corrections: Float64Array) -> Float64Array:
    """A_z `(Z, 2, 3)` of the corrections A'_z."""
    return np.array([compose_affine(outer=i, inner=a) for i, a in zip(given, corrections, strict=True)])
