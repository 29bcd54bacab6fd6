"""Pair fields from sections that were aligned to a common frame, and their confidence.

Section z is aligned by v_z: what is at q in the aligned frame is at q + v_z(q) in section z. With the pair field of
fixed z and moving z-k, what is at y in section z is at y + pair(y) in section z-k. Hence

    id + pair = (id + v_{z-k}) ∘ (id + v_z)⁻¹, i.e. pair = compose(outer=v_{z-k}, inner=inverse(v_z)).

The pair field is known where both sections show tissue, else NaN (C8). It does not depend on the common frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.compose import compose
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.field.inverse import inverse
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.image.pooling import pool
from ssem_dask.registration.registration_method import PairFields, PairRequest


@dataclass(frozen=True, slots=True)
class Similarity:
    """Local similarity of two aligned sections."""

    values: Float[Tensor, "h w"]
    """Similarity in [0, 1], in the aligned frame."""
    grid: Grid


def compute_pair_fields(
    maps: Sequence[Float[Tensor, "2 ly lx"] | None],
    request: PairRequest,
    *,
    lattice: Grid,
    tissue: Bool[Tensor, "z y x"],
    grid: Grid,
    similarities: Mapping[tuple[int, int], Similarity],
) -> PairFields:
    """Compute pair fields of the core's sections.

    Args:
        maps: v of each section of the window on `lattice`; None for a section that could not be aligned.
        request: pairs that are wanted.
        lattice: `covering_lattice(request.nodes, image=grid)`.
        tissue: False where there is no tissue.
        grid: grid of the tissue's pixels, mip-0 px.
        similarities: similarity by (fixed, moving) index in the window.
    """
    nodes, core, neighbours = request.nodes, request.core, request.neighbours
    shape = (neighbours, len(core), *nodes.shape)
    fields = tissue.new_full((shape[0], shape[1], 2, *nodes.shape), torch.nan, dtype=torch.float32)
    confidence = torch.zeros(shape, dtype=torch.float32, device=tissue.device)
    positions = nodes.positions(tissue.device)
    for row, z in enumerate(core):
        fixed_map = maps[z]
        if fixed_map is None:
            continue
        back = inverse(fixed_map, spacing=lattice.spacing)
        aligned = positions + _crop(back, lattice=lattice, nodes=nodes)
        fixed_known = _shows_tissue(tissue[z], grid=grid, positions=positions, side=nodes.spacing)
        for k in range(1, neighbours + 1):
            moving_map = maps[z - k] if z - k >= 0 else None
            if moving_map is None or (z, z - k) not in similarities:
                continue
            pair = _crop(compose(outer=moving_map, inner=back, spacing=lattice.spacing), lattice=lattice, nodes=nodes)
            known = fixed_known & _shows_tissue(
                tissue[z - k], grid=grid, positions=positions + pair, side=nodes.spacing
            )
            fields[k - 1, row] = torch.where(known, pair, torch.full_like(pair, torch.nan))
            similarity = similarities[z, z - k]
            score = sample(similarity.values[None], grid=similarity.grid, positions=aligned, kind="bilinear")[0]
            confidence[k - 1, row] = torch.where(known, score.clamp(0.0, 1.0), torch.zeros_like(score))
    return PairFields(fields, confidence)


def covering_lattice(nodes: Grid, *, image: Grid) -> Grid:
    """Extend the grid of `nodes` by whole nodes until it reaches one node beyond the image on every side.

    Inverse and composition also need the fields around the nodes.
    """
    origin, shape = [], []
    for o, n, image_o, image_n in zip(nodes.origin, nodes.shape, image.origin, image.shape, strict=True):
        ahead = max(0, ceil_div(round(o - image_o), round(nodes.spacing))) + 1
        beyond = (image_o + image_n * image.spacing) - (o + n * nodes.spacing)
        origin.append(o - ahead * nodes.spacing)
        shape.append(n + ahead + max(0, ceil_div(round(beyond), round(nodes.spacing))) + 1)
    return Grid((shape[0], shape[1]), nodes.spacing, (origin[0], origin[1]))


def correlate_locally(
    a: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"], *, mask: Float[Tensor, "h w"], grid: Grid, side: int
) -> Similarity:
    """Compute the normalised cross-correlation of features in squares about every cell; negative values become 0.

    Args:
        a: features of one section.
        b: features of the other section.
        mask: cells that count.
        grid: grid of the cells.
        side: side of the squares, cells; odd.
    """

    def box(values: Tensor) -> Tensor:
        return avg_pool2d(values[:, None], side, stride=1, padding=side // 2)[:, 0]

    share = box(mask[None]).clamp(min=1e-6)
    mean_a, mean_b = box(a * mask) / share, box(b * mask) / share
    covariance = (box(a * b * mask) / share - mean_a * mean_b).sum(dim=0)
    variance_a = (box(a.square() * mask) / share - mean_a.square()).sum(dim=0).clamp(min=0.0)
    variance_b = (box(b.square() * mask) / share - mean_b.square()).sum(dim=0).clamp(min=0.0)
    correlation = covariance / (variance_a * variance_b).sqrt().clamp(min=1e-6)
    return Similarity(torch.where(mask > 0, correlation.clamp(0.0, 1.0), torch.zeros_like(correlation)), grid)


def _crop(values: Tensor, *, lattice: Grid, nodes: Grid) -> Tensor:
    """Cut the nodes out of the lattice that covers them."""
    row, column = (
        round((inner - outer) / nodes.spacing) for inner, outer in zip(nodes.origin, lattice.origin, strict=True)
    )
    return values[..., row : row + nodes.shape[0], column : column + nodes.shape[1]]


def _shows_tissue(tissue: Tensor, *, grid: Grid, positions: Tensor, side: float) -> Tensor:
    """Check whether at least half of the square of `side` mip-0 px about each position is tissue."""
    factor = max(1, round(side / grid.spacing))
    share = pool(tissue.float(), factor)
    blocks = Grid((share.shape[0], share.shape[1]), grid.spacing * factor, grid.origin)
    # The cell of the last node may extend beyond the image: half a node outside still belongs to it.
    inside = blocks.contains(positions)
    return inside & (sample(share[None], grid=blocks, positions=positions, kind="bilinear")[0] >= 0.5)
