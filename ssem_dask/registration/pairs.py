"""Pair fields from sections that were aligned to a common frame, and how much they can be trusted.

Section z is aligned by v_z: what lies at q in the aligned frame lies at q + v_z(q) in section z. The pair field with
fixed z and moving z-k says what lies at y in section z lies at y + pair(y) in section z-k, hence

    id + pair = (id + v_{z-k}) ∘ (id + v_z)⁻¹, i.e. pair = compose(outer=v_{z-k}, inner=inverse(v_z)).

It is known where both sections show tissue, else NaN (C8). It does not depend on the common frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssem_dask.field.compose import compose
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.field.inverse import inverse
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.image.pooling import pool


@dataclass(frozen=True, slots=True)
class PairFields:
    """What registration finds in a window."""

    fields: Tensor
    """`(K, z, 2, ny, nx)` float32 pull fields, mip-0 px; [k-1, z] has fixed z and moving z-k; NaN is unknown."""
    confidence: Tensor
    """`(K, z, ny, nx)` float32 in [0, 1]; 0 where the field is unknown."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two aligned sections look, place by place."""

    values: Tensor
    """`(h, w)` in [0, 1], in the aligned frame."""
    grid: Grid


def pair_fields(
    maps: Sequence[Tensor | None],
    *,
    lattice: Grid,
    tissue: Tensor,
    grid: Grid,
    similarities: Mapping[tuple[int, int], Similarity],
    nodes: Grid,
    core: range,
    neighbours: int,
) -> PairFields:
    """Pair fields of the core's sections.

    Args:
        maps: v of each section of the window `(2, …)` on `lattice`; None for a section that could not be aligned.
        lattice: `covering_lattice(nodes, image=grid)`.
        tissue: `(z, y, x)` bool.
        grid: of the tissue's pixels, mip-0 px.
        similarities: by (fixed, moving) index in the window.
        nodes: where the fields are wanted.
        core: indices of the sections whose pairs are wanted.
        neighbours: K.
    """
    shape = (neighbours, len(core), *nodes.shape)
    fields = tissue.new_full((shape[0], shape[1], 2, *nodes.shape), torch.nan, dtype=torch.float32)
    confidence = torch.zeros(shape, dtype=torch.float32, device=tissue.device)
    positions = nodes.positions(tissue.device)
    for row, z in enumerate(core):
        own = maps[z]
        if own is None:
            continue
        back = inverse(own, spacing=lattice.spacing)
        aligned = positions + _cropped(back, lattice=lattice, nodes=nodes)
        known_here = _shows_tissue(tissue[z], grid=grid, positions=positions, reach=nodes.spacing)
        for k in range(1, neighbours + 1):
            other = maps[z - k] if z - k >= 0 else None
            if other is None or (z, z - k) not in similarities:
                continue
            pair = _cropped(compose(outer=other, inner=back, spacing=lattice.spacing), lattice=lattice, nodes=nodes)
            known = known_here & _shows_tissue(
                tissue[z - k], grid=grid, positions=positions + pair, reach=nodes.spacing
            )
            fields[k - 1, row] = torch.where(known, pair, torch.full_like(pair, torch.nan))
            alike = similarities[z, z - k]
            score = sample(alike.values[None], grid=alike.grid, positions=aligned, kind="bilinear")[0]
            confidence[k - 1, row] = torch.where(known, score.clamp(0.0, 1.0), torch.zeros_like(score))
    return PairFields(fields, confidence)


def covering_lattice(nodes: Grid, *, image: Grid) -> Grid:
    """The grid of `nodes`, extended by whole nodes until it reaches one node beyond the image on every side.

    Inverse and composition look sideways: they need the fields around the nodes too.
    """
    before, shape = [], []
    for o, n, image_o, image_n in zip(nodes.origin, nodes.shape, image.origin, image.shape, strict=True):
        ahead = max(0, ceil_div(round(o - image_o), round(nodes.spacing))) + 1
        beyond = (image_o + image_n * image.spacing) - (o + n * nodes.spacing)
        before.append(o - ahead * nodes.spacing)
        shape.append(n + ahead + max(0, ceil_div(round(beyond), round(nodes.spacing))) + 1)
    return Grid((shape[0], shape[1]), nodes.spacing, (before[0], before[1]))


def local_correlation(a: Tensor, b: Tensor, *, mask: Tensor, grid: Grid, side: int) -> Similarity:
    """Normalised cross-correlation of features in squares about every cell, negative values set to 0.

    Args:
        a: `(c, h, w)` features.
        b: the same of the other section.
        mask: `(h, w)` float32, cells that count.
        grid: of the cells.
        side: of the squares, cells; odd.
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


def _cropped(values: Tensor, *, lattice: Grid, nodes: Grid) -> Tensor:
    """Values on the lattice → on the nodes that it was made from."""
    top, left = (
        round((inner - outer) / nodes.spacing) for inner, outer in zip(nodes.origin, lattice.origin, strict=True)
    )
    return values[..., top : top + nodes.shape[0], left : left + nodes.shape[1]]


def _shows_tissue(tissue: Tensor, *, grid: Grid, positions: Tensor, reach: float) -> Tensor:
    """Whether at least half of the square of side `reach` mip-0 px about each position is tissue."""
    factor = max(1, round(reach / grid.spacing))
    share = pool(tissue.float(), factor)
    blocks = Grid((share.shape[0], share.shape[1]), grid.spacing * factor, grid.origin)
    # The cell of the last node may reach beyond the image: half a node outside still belongs to it.
    inside = blocks.contains(positions)
    return inside & (sample(share[None], grid=blocks, positions=positions, kind="bilinear")[0] >= 0.5)
