"""The motion that an alignment leaves between adjacent sections, as their pair field observes it.

With coarse maps A (aligned → source) and section fields f, position p of aligned section z is at
q_z(p) = A_z⁻¹(p + f_z(p)) in the coarse-aligned section. The pair field says that the same tissue is at
q_z + pair(q_z) in the coarse-aligned section before, while the alignment puts q_{z-1}(p) there. The difference is
natural motion that was kept plus jitter that was not found; without a truth the two cannot be separated.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.affine import apply_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.types import Float64Array


def coarse_positions(
    field: Float[Tensor, "2 y x"],
    *,
    coarse: Float[Float64Array, "2 3"],
    grid: Grid,
    parts: PiecewiseAffine | None = None,
) -> Float[Tensor, "2 y x"]:
    """Return positions q, float64, px, in the coarse-aligned section.

    Args:
        field: f on `grid`, aligned → source, px; NaN is unknown.
        coarse: A, aligned → source; NaN if the section has none.
        grid: nodes in the aligned section.
        parts: parts of the section; None: it is whole.
    """
    # A section without a coarse map has no place, so nothing is known.
    if not np.isfinite(coarse).all():
        return torch.full(field.shape, torch.nan, dtype=torch.float64)
    source = grid.positions().double() + field.double()
    return apply_affine(invert_affine(coarse), source if parts is None else parts.to_whole(source))


def residual_motion(
    *,
    positions: Float[Tensor, "2 y x"],
    positions_before: Float[Tensor, "2 y x"],
    pair: Float[Tensor, "2 h w"],
    pair_grid: Grid,
) -> Float[Tensor, "2 y x"]:
    """Return the motion, float32, px, from section z to the section before it; NaN is unknown.

    Args:
        positions: q_z.
        positions_before: q_{z-1} at the same nodes.
        pair: pair field, fixed z, moving z - 1.
        pair_grid: its nodes; beyond them nothing is known.
    """
    # Sampling repeats the border value, which is no observation.
    inside = pair_grid.contains(positions)
    # Sampled about the grid's own corner: float32 positions stay small, so they keep their precision (C9).
    local = pair_grid.relative_to(pair_grid.origin)
    origin = positions.new_tensor(pair_grid.origin)[:, None, None]
    displacement = sample_known(pair, grid=local, positions=(positions - origin).float()).double()
    unknown = torch.full_like(positions, torch.nan)
    return torch.where(inside, positions + displacement - positions_before, unknown).float()
