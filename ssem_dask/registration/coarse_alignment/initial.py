"""Pairs and sections relative to maps that are known of the sections: given by the user, or gross maps.

With G_z the known map aligned → source, pairs and sections relative to it are M' = G_{z-k}⁻¹ ∘ M ∘ G_z and
A'_z = G_z⁻¹ ∘ A_z. Everything that is solved for in this frame is a correction: sections without any observation keep
their known map, and the aligned frame stays that of the known maps.
"""

import numpy as np
from jaxtyping import Float64

from ssem_dask.field.affine import Affine, compose_affine, invert_affine
from ssem_dask.types import Float64Array


def pair_between(maps: Float64[Float64Array, "Z 2 3"], *, z: int, k: int) -> Affine:
    """Compute the map fixed z → moving z-k from those of the sections."""
    return compose_affine(outer=maps[z - k], inner=invert_affine(maps[z]))


def relative_pairs(
    maps: Float64[Float64Array, "Z 2 3"], affines: Float64[Float64Array, "K Z 2 3"]
) -> Float64[Float64Array, "K Z 2 3"]:
    """Compute M' of the pairs M; NaN stays NaN."""
    out = np.full_like(affines, np.nan)
    for step in range(len(affines)):
        k = step + 1
        for z in range(k, affines.shape[1]):
            inner = compose_affine(outer=affines[step, z], inner=maps[z])
            out[step, z] = compose_affine(outer=invert_affine(maps[z - k]), inner=inner)
    return out


def apply_corrections(
    maps: Float64[Float64Array, "Z 2 3"], corrections: Float64[Float64Array, "Z 2 3"]
) -> Float64[Float64Array, "Z 2 3"]:
    """Compute A_z from the corrections A'_z."""
    return np.array([compose_affine(outer=i, inner=a) for i, a in zip(maps, corrections, strict=True)])
