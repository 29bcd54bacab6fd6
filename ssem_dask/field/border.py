"""Fields beyond their outermost nodes: half a node spacing, up to the border of the section.

There a field continues as it changes between its last two nodes. A section that was turned or mirrored has a field with
a gradient of up to 2 px per px; with the value of the last node instead, its border would show the tissue mirrored.
Law: a field that is an affine map at the nodes is that map up to the border.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid

Sides = tuple[tuple[bool, bool], tuple[bool, bool]]
"""Whether a field is extended before its first and after its last node, along y and along x."""
EVERYWHERE: Sides = ((True, True), (True, True))


def extrapolated(
    field: Float[Tensor, "*n y x"], *, grid: Grid, sides: Sides = EVERYWHERE
) -> tuple[Float[Tensor, "*n h w"], Grid]:
    """Add a node beyond the outermost ones, so that interpolation reaches the border of the section.

    Args:
        field: displacement; NaN is unknown.
        grid: its nodes.
        sides: where nodes are added; elsewhere the field is a part of a larger one.

    Returns:
        The field and its nodes. A node that is added is unknown if the one beside it is. If only the one beside that is
        unknown, the field is constant there.
    """
    shape, origin = [*grid.shape], [*grid.origin]
    for axis, (before, after) in zip((-2, -1), sides, strict=True):
        parts = [field]
        for is_added, last, inner in ((before, 0, 1), (after, -1, -2)):
            if is_added:
                edge = field.narrow(axis, last % field.shape[axis], 1)
                beside = field.narrow(axis, inner % field.shape[axis], 1)
                parts.insert(0 if last == 0 else len(parts), _continued(edge, beside))
        field = torch.cat(parts, dim=axis)
        shape[axis] += before + after
        origin[axis] -= before * grid.spacing
    return field, Grid((shape[0], shape[1]), grid.spacing, (origin[0], origin[1]))


def _continued(edge: Tensor, beside: Tensor) -> Tensor:
    return torch.where(torch.isfinite(beside), 2.0 * edge - beside, edge)
