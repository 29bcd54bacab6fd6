"""A window's own check of what registration found, pair by pair, before anything is built on it.

Registration judges node by node (`confidence`): forward and backward must agree, nothing may fold, displacements stay
inside the search. This judges the pair as a whole, by what no node can know: whether most of the tissue was matched at
all, whether the field lies at the end of what could be searched, and whether the two sections look alike once they are
laid on each other. The bounds are far from what sound pairs show; they are there to catch what went wrong.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.field.quality import fold_rate
from ssem_dask.field.warp import sample_image
from ssem_dask.registration.pyramid import pool

UNMATCHED = "of the tissue matched"
"""How the fault of too few matched nodes ends; those that were found were each judged on their own."""
POOLED = 4
"""px of the working image that are compared as one."""

_LEAST_TISSUE = 0.05  # share of the nodes; below, there is nothing to judge
_LEAST_KNOWN = 0.1  # share of the nodes with tissue in both sections that must be known
_MOST_FOLDED = 0.05  # share of the cells
_MOST_AT_END = 0.5  # share of the known nodes
_END = 0.9  # of the search range
# Share of the tissue that is known, times the correlation of the images there, laid on each other. Unrelated sections
# that were made to match reach 0.07 (phantom, nerve cord at 4.6 nm, noise; windows of 384 and 512 px); neighbours show
# 0.43 and more, second neighbours 0.28, third ones 0.19.
_CHANCE = 0.1
_LEAST_COMPARED = 1024  # pooled px; fewer are alike or unlike by chance
_SIDE = 9  # pooled px, of the squares whose mean is taken out


def fault_of(
    field: Tensor,
    *,
    fixed: Tensor,
    moving: Tensor,
    valid: tuple[Tensor, Tensor],
    image: Grid,
    nodes: Grid,
    reach: float,
) -> str:
    """What is wrong with a pair field.

    Args:
        field: `(2, ny, nx)` on `nodes`, mip-0 px; NaN is unknown.
        fixed: `(y, x)`, coarse-aligned, any intensity unit.
        moving: the same.
        valid: masks `(y, x)` of the two, False where there is no tissue.
        image: grid of the two images' pixels.
        nodes: of the field.
        reach: longest displacement that the search could find, mip-0 px.

    Returns:
        A few words; empty if nothing is wrong.
    """
    positions = nodes.positions()
    tissue = torch.stack([mask.float() for mask in valid])
    factor = max(1, round(nodes.spacing / image.spacing))
    shares = pool(tissue, factor)
    cells = Grid((shares.shape[1], shares.shape[2]), image.spacing * factor, image.origin)
    at_nodes, inside = sample_image(shares, grid=cells, positions=positions, kind="nearest")
    shown = inside & (at_nodes > 0.5).all(dim=0)
    if float(shown.float().mean()) < _LEAST_TISSUE:
        return ""
    known = torch.isfinite(field).all(dim=0) & shown
    share = float(known[shown].float().mean())
    if share < _LEAST_KNOWN:
        return f"{100 * share:.0f} % {UNMATCHED}"
    if min(nodes.shape) > 1 and fold_rate(field, spacing=nodes.spacing) > _MOST_FOLDED:
        return "folded"
    length = torch.linalg.vector_norm(field[:, known], dim=0)
    if float((length > _END * reach).float().mean()) > _MOST_AT_END:
        return "at the end of the search range"
    alike = _likeness(field, fixed=fixed, moving=moving, valid=valid, image=image, nodes=nodes)
    return f"sections unlike (correlation {alike:.2f})" if share * alike < _CHANCE else ""


def flattened(image: Tensor, *, mask: Tensor) -> tuple[Tensor, Tensor]:
    """An image pooled to `POOLED` px with its slow course taken out, 0 off the tissue, and its mask, both `(h, w)`."""
    inside = pool(mask.float(), POOLED) > 0.99
    pooled = pool(torch.where(mask, torch.nan_to_num(image), torch.zeros_like(image)), POOLED)
    weight = _mean(inside.float()).clamp(min=1e-6)
    flat = torch.where(inside, pooled - _mean(pooled * inside) / weight, torch.zeros_like(pooled))
    return flat, inside


def pooled_grid(image: Grid, like: Tensor) -> Grid:
    """Grid of what `flattened` returns."""
    return Grid((like.shape[-2], like.shape[-1]), image.spacing * POOLED, image.origin)


def _likeness(
    field: Tensor, *, fixed: Tensor, moving: Tensor, valid: tuple[Tensor, Tensor], image: Grid, nodes: Grid
) -> float:
    """Correlation of the fixed and the warped moving image where the field is known; 1 where nothing can be told."""
    a, a_inside = flattened(fixed, mask=valid[0])
    b, b_inside = flattened(moving, mask=valid[1])
    grid = pooled_grid(image, a)
    places = grid.positions()
    displacement = sample_known(field, grid=nodes, positions=places)
    warped, reached = sample_image(
        torch.stack([b, b_inside.float()]), grid=grid, positions=places + displacement, kind="bilinear"
    )
    compared = a_inside & reached & (warped[1] > 0.99) & nodes.contains(places)
    x, y = a[compared].double(), warped[0][compared].double()
    if x.numel() < _LEAST_COMPARED or float(x.std()) == 0.0 or float(y.std()) == 0.0:
        return 1.0
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def _mean(image: Tensor) -> Tensor:
    return avg_pool2d(image[None, None], _SIDE, stride=1, padding=_SIDE // 2)[0, 0]
