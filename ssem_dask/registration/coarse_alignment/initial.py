"""Initial affines of the sections, given by the user, and corrections of them.

With I_z the initial map aligned → source, pairs and sections relative to it are M' = I_{z-k}⁻¹ ∘ M ∘ I_z and
A'_z = I_z⁻¹ ∘ A_z. Everything that is solved for in this frame is a correction: sections without any observation keep
their initial affine, and the aligned frame stays that of the initial affines.
"""

import numpy as np
from jaxtyping import Float64

from ssem_dask.field.affine import Affine, compose_affine, invert_affine
from ssem_dask.types import Float64Array


def initial_pair(initial: Float64[Float64Array, "Z 2 3"], *, z: int, k: int) -> Affine | None:
    """Compute the map fixed z → moving z-k from the initial affines; None if one of them is NaN."""
    fixed, moving = initial[z], initial[z - k]
    if not (np.isfinite(fixed).all() and np.isfinite(moving).all()):
        return None
    return compose_affine(outer=moving, inner=invert_affine(fixed))


def fill_missing(initial: Float64[Float64Array, "Z 2 3"]) -> Float64[Float64Array, "Z 2 3"]:
    """Replace NaN sections by the nearest one that is not, of two the earlier."""
    known = np.flatnonzero(np.isfinite(initial).all(axis=(1, 2)))
    nearest = np.abs(np.arange(len(initial))[:, None] - known[None, :]).argmin(axis=1)
    return np.asarray(initial[known[nearest]])


def relative_pairs(
    initial: Float64[Float64Array, "Z 2 3"], affines: Float64[Float64Array, "K Z 2 3"]
) -> Float64[Float64Array, "K Z 2 3"]:
    """Compute M' of the pairs M; NaN stays NaN. No initial affine may be NaN."""
    out = np.full_like(affines, np.nan)
    for step in range(len(affines)):
        k = step + 1
        for z in range(k, affines.shape[1]):
            inner = compose_affine(outer=affines[step, z], inner=initial[z])
            out[step, z] = compose_affine(outer=invert_affine(initial[z - k]), inner=inner)
    return out


def apply_corrections(
    initial: Float64[Float64Array, "Z 2 3"], corrections: Float64[Float64Array, "Z 2 3"]
) -> Float64[Float64Array, "Z 2 3"]:
    """Compute A_z from the corrections A'_z."""
    return np.array([compose_affine(outer=i, inner=a) for i, a in zip(initial, corrections, strict=True)])
