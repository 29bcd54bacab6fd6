"""Held-out consistency: the distance between the fields of far pairs and compositions of near pairs; needs no truth.

The pair field k = 2 of section z points to z - 2 directly. The composition of the k = 1 fields of z and z - 1 reaches
the same section in two steps: compose(outer=p1_{z-1}, inner=p1_z). The consistency error is the distance between the
two end points, px. It is *held out* only if the k = 2 fields were not computed from the k = 1 fields.
"""

import torch
from torch import Tensor

from ssem_dask.field.compose import compose


def two_step_difference(*, near: Tensor, before: Tensor, far: Tensor, spacing: float) -> Tensor:
    """Return the lengths `(y, x)`, px, of p2_z - compose(outer=p1_{z-1}, inner=p1_z); NaN if one of them is unknown.

    Args:
        near: p1_z `(2, y, x)`, fixed z, moving z - 1.
        before: p1_{z-1}, fixed z - 1, moving z - 2.
        far: p2_z, fixed z, moving z - 2.
        spacing: px between nodes.
    """
    composed = compose(outer=before, inner=near, spacing=spacing)
    lengths: Tensor = torch.linalg.vector_norm(far - composed, dim=0)
    return lengths
