"""Held-out consistency: do the fields of far pairs agree with those of near pairs? Needs no truth.

The pair field k = 2 of section z points to z - 2 directly; the composition of the k = 1 fields of z and z - 1 gets
there in two steps: compose(outer=p1_{z-1}, inner=p1_z). The distance between the two ends is the consistency error,
px. It is *held out* only as far as the k = 2 fields were not made from the k = 1 fields.
"""

import torch
from torch import Tensor

from ssem_dask.field.compose import compose


def two_step_difference(*, near: Tensor, before: Tensor, far: Tensor, spacing: float) -> Tensor:
    """Lengths `(y, x)`, px, of p2_z - compose(outer=p1_{z-1}, inner=p1_z); NaN where one of them is unknown.

    Args:
        near: p1_z `(2, y, x)`, fixed z, moving z - 1.
        before: p1_{z-1}, fixed z - 1, moving z - 2.
        far: p2_z, fixed z, moving z - 2.
        spacing: px between nodes.
    """
    ends = compose(outer=before, inner=near, spacing=spacing)
    lengths: Tensor = torch.linalg.vector_norm(far - ends, dim=0)
    return lengths
