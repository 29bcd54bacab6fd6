"""A window's own check of what registration found, pair by pair, before anything is built on it.

Registration judges node by node (`confidence`): forward and backward must agree, nothing may fold, displacements stay
inside the search. This judges the pair as a whole, by what no node can know: whether most of the tissue was matched at
all, whether the field lies at the end of what could be searched, and whether the two sections look alike once they are
laid on each other. The bounds are far from what sound pairs show; they are there to catch what went wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool

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
_BATCH = 8  # pairs at a time


@dataclass(frozen=True, slots=True)
class Looks:
    """The sections of a window as the check sees them."""

    images: Tensor
    """`(z, h, w)` as `flattened` returns them."""
    inside: Tensor
    """`(z, h, w)` float32, 0 or 1: their masks."""
    grid: Grid
    """Of the two."""
    tissue: Tensor
    """`(z, ny, nx)` bool: nodes that lie on tissue."""


def looks_of(images: Tensor, *, valid: Tensor, image: Grid, nodes: Grid) -> Looks:
    """Prepare sections to be checked, once for all pairs.

    Args:
        images: `(z, y, x)` float32, coarse-aligned, any intensity unit.
        valid: `(z, y, x)` bool, False where there is no tissue.
        image: grid of the images' pixels.
        nodes: of the fields.
    """
    flat, insides, tissue = [], [], []
    factor = max(1, round(nodes.spacing / image.spacing))
    positions = nodes.positions(images.device)
    for section, mask in zip(images, valid, strict=True):  # one by one: bounds memory
        pixels, inside = flattened(section, mask=mask)
        flat.append(pixels)
        insides.append(inside.float())
        share = pool(mask.float(), factor)
        cells = Grid((share.shape[0], share.shape[1]), image.spacing * factor, image.origin)
        at_nodes, within = sample_image(share[None], grid=cells, positions=positions, kind="nearest")
        tissue.append(within & (at_nodes[0] > 0.5))
    grid = Grid((flat[0].shape[0], flat[0].shape[1]), image.spacing * POOLED, image.origin)
    return Looks(torch.stack(flat), torch.stack(insides), grid, torch.stack(tissue))


def faults_of(
    fields: Tensor, *, pairs: Sequence[tuple[int, int]], looks: Looks, nodes: Grid, reach: float
) -> list[str]:
    """What is wrong with pair fields.

    Args:
        fields: `(n, 2, ny, nx)` on `nodes`, mip-0 px; NaN is unknown.
        pairs: (fixed, moving) of each: indices of sections.
        looks: of the sections.
        nodes: of the fields.
        reach: longest displacement that the search could find, mip-0 px.

    Returns:
        A few words for each pair; empty where nothing is wrong.
    """
    out = []
    for first in range(0, len(pairs), _BATCH):
        part = slice(first, first + _BATCH)
        index = torch.tensor(pairs[part], device=fields.device)
        measured = _measures(fields[part], index[:, 0], index[:, 1], looks, nodes, reach)
        out += [_judged(*row) for row in measured.tolist()]
    return out


def _measures(fields: Tensor, fixed: Tensor, moving: Tensor, looks: Looks, nodes: Grid, reach: float) -> Tensor:
    """`(n, 5)` float64: shares of tissue, of it known, of cells folded, of nodes at the end; likeness."""
    shown = looks.tissue[fixed] & looks.tissue[moving]
    found = torch.isfinite(fields).all(dim=1)
    known = found & shown
    count = known.sum(dim=(1, 2))
    determinant = jacobian_determinant(fields, spacing=nodes.spacing)
    cells = torch.isfinite(determinant)
    folded = ((determinant <= 0) & cells).sum(dim=(1, 2)) / cells.sum(dim=(1, 2)).clamp(min=1)
    far = (torch.linalg.vector_norm(fields, dim=1) > _END * reach) & known
    alike = _likeness(fields, found, fixed, moving, looks, nodes)
    columns = [
        shown.double().mean(dim=(1, 2)),
        count / shown.sum(dim=(1, 2)).clamp(min=1),
        folded,
        far.sum(dim=(1, 2)) / count.clamp(min=1),
        alike,
    ]
    return torch.stack([column.double() for column in columns], dim=1)


def _judged(tissue: float, share: float, folded: float, at_end: float, alike: float) -> str:
    if tissue < _LEAST_TISSUE:
        return ""
    if share < _LEAST_KNOWN:
        return f"{100 * share:.0f} % {UNMATCHED}"
    if folded > _MOST_FOLDED:
        return "folded"
    if at_end > _MOST_AT_END:
        return "at the end of the search range"
    return f"sections unlike (correlation {alike:.2f})" if share * alike < _CHANCE else ""


def flattened(image: Tensor, *, mask: Tensor) -> tuple[Tensor, Tensor]:
    """An image pooled to `POOLED` px with its slow course taken out, 0 off the tissue, and its mask, both `(h, w)`."""
    inside = pool(mask.float(), POOLED) > 0.99
    pooled = pool(torch.where(mask, torch.nan_to_num(image), torch.zeros_like(image)), POOLED)
    weight = _mean(inside.float()).clamp(min=1e-6)
    flat = torch.where(inside, pooled - _mean(pooled * inside) / weight, torch.zeros_like(pooled))
    return flat, inside


def _likeness(fields: Tensor, found: Tensor, fixed: Tensor, moving: Tensor, looks: Looks, nodes: Grid) -> Tensor:
    """Correlations `(n,)` of the fixed and the warped moving images where the fields are known; 1 where nothing can be
    told.
    """
    places = looks.grid.positions(fields.device)
    everywhere = places.expand(len(fields), -1, -1, -1)
    values = torch.cat([torch.where(found[:, None], fields, torch.zeros_like(fields)), found[:, None].float()], dim=1)
    sampled = sample_batch(values, grid=nodes, positions=everywhere)
    weight = sampled[:, 2]
    where = everywhere + sampled[:, :2] / weight.clamp(min=0.5)[:, None]
    stacked = torch.stack([looks.images[moving], looks.inside[moving]], dim=1)
    warped = sample_batch(stacked, grid=looks.grid, positions=where)
    compared = (
        (weight >= 0.5)
        & (looks.inside[fixed] > 0)
        & looks.grid.contains(where.transpose(0, 1))
        & (warped[:, 1] > 0.99)
        & nodes.contains(places)
    ).double()
    count = compared.sum(dim=(1, 2))
    a, b = looks.images[fixed].double(), warped[:, 0].double()

    def mean(of: Tensor) -> Tensor:
        return (of * compared).sum(dim=(1, 2), keepdim=True) / count.clamp(min=1)[:, None, None]

    a, b = a - mean(a), b - mean(b)
    product, energy_a, energy_b = (mean(of).flatten() for of in (a * b, a.square(), b.square()))
    told = (count >= _LEAST_COMPARED) & (energy_a > 0) & (energy_b > 0)
    return torch.where(told, product / (energy_a * energy_b).sqrt().clamp(min=1e-30), torch.ones_like(product))


def _mean(image: Tensor) -> Tensor:
    return avg_pool2d(image[None, None], _SIDE, stride=1, padding=_SIDE // 2)[0, 0]
