"""The motion that an alignment leaves between adjacent sections, as their pair field sees it.

With coarse maps A (aligned → source) and section fields f, position p of aligned section z lies at
q_z(p) = A_z⁻¹(p + f_z(p)) in the coarse-aligned section; the pair field says that the same tissue lies at
q_z + pair(q_z) in the coarse-aligned section before, while the alignment puts q_{z-1}(p) there. The difference is
natural motion that was kept and jitter that was not found; without a truth the two cannot be told apart.
"""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import apply_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.types import Float64Array


def coarse_positions(field: Tensor, *, coarse: Float64Array, grid: Grid) -> Tensor:
    """Positions q `(2, y, x)` float64, px, in the coarse-aligned section.

    Args:
        field: f `(2, y, x)` on `grid`, aligned → source, px; NaN is unknown.
        coarse: A `(2, 3)`, aligned → source; NaN where the section has none.
        grid: nodes in the aligned section.
    """
    if not np.isfinite(coarse).all():
        return torch.full(field.shape, torch.nan, dtype=torch.float64)
    return apply_affine(invert_affine(coarse), grid.positions().double() + field.double())


def motion_left(*, here: Tensor, before: Tensor, pair: Tensor, pair_grid: Grid) -> Tensor:
    """Motion `(2, y, x)` float32, px, from section z to the section before it; NaN is unknown.

    Args:
        here: q_z `(2, y, x)`.
        before: q_{z-1} `(2, y, x)` at the same nodes.
        pair: pair field `(2, h, w)`, fixed z, moving z - 1.
        pair_grid: its nodes; beyond them nothing is known.
    """
    inside = pair_grid.contains(here)
    local = pair_grid.relative_to(pair_grid.origin)
    origin = here.new_tensor(pair_grid.origin)[:, None, None]
    moved = sample_known(pair, grid=local, positions=(here - origin).float()).double()
    return torch.where(inside, here + moved - before, torch.full_like(here, torch.nan)).float()
