"""Composition of displacement fields (C6).

Law: `warp(im, compose(outer=f, inner=g)) == warp(warp(im, f), g)`; composition is associative; 0 is its identity.
"""

from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known


def compose(*, outer: Float[Tensor, "2 y x"], inner: Float[Tensor, "2 y x"], spacing: float) -> Float[Tensor, "2 y x"]:
    """Compute the field of `p ↦ outer(inner(p))`, i.e. `g(p) + f(p + g(p))` for outer f and inner g.

    Both fields are on one grid of `spacing` mip-0 px. Beyond the border the outer displacement is that of the nearest
    node; subtract affine parts first if that is not accurate enough. Unknown (NaN) nodes of either stay unknown.
    """
    grid = Grid((outer.shape[-2], outer.shape[-1]), spacing)
    return inner + sample_known(outer, grid=grid, positions=grid.positions(outer.device) + inner)
