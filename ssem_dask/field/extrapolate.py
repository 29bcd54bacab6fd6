"""Filling of unknown nodes, for readers that know no unknown values.

Laws: known nodes keep their values; an affine field with unknown nodes is restored; the result has no NaN.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ssem_dask.field.affine import Affine, affine_field, fit_affine
from ssem_dask.field.grid import Grid


def field_affine(field: Float[Tensor, "2 y x"], *, grid: Grid) -> Affine | None:
    """Fit an affine map, aligned → source, to the known nodes of a field by least squares; None if they are below 3.

    Args:
        field: pull field on `grid`, mip-0 px; NaN is unknown.
        grid: grid of the field.
    """
    known = torch.isfinite(field).all(dim=0)
    if int(known.sum()) < 3:
        return None
    positions = grid.positions().double()
    targets = (positions + field)[:, known].T.numpy()
    return fit_affine(positions=positions[:, known].T.numpy(), targets=targets, weights=np.ones(len(targets)))


def filled(field: Float[Tensor, "2 y x"], *, grid: Grid) -> Float[Tensor, "2 y x"]:
    """Return the field with a value at every node.

    An unknown node gets the affine map that fits all known nodes best, plus what this map leaves at the nearest known
    node. With fewer than three known nodes it gets the value of the nearest, and without any 0.

    Args:
        field: mip-0 px; NaN is unknown.
        grid: grid of the field.
    """
    known = torch.isfinite(field).all(dim=0)
    if bool(known.all()):
        return field
    if not bool(known.any()):
        return torch.zeros_like(field)
    affine = field_affine(field, grid=grid)
    smooth = torch.zeros_like(field) if affine is None else affine_field(affine, grid=grid)
    rows, columns = distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    nearest = (field - smooth)[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
    return torch.where(known, field, smooth + nearest)
