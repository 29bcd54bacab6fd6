"""Sides of a line that a person has drawn along a fold or a crack: each is placed by itself.

The line is the border, so nothing decides whether there is a break. A side is placed by all of its pixels at once, and
by its blocks near that place. Points of a person count more than either. A side that resembles nothing moves with the
largest one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssem_dask.registration.section_parts.bands import filled_regions, find_bands, separated_regions
from ssem_dask.registration.section_parts.block_matching import (
    BLOCK,
    BlockMatches,
    block_positions,
    join_matches,
    match_blocks,
    normalise_locally,
)
from ssem_dask.registration.section_parts.find_parts import FAR, NEAR, Neighbour, SectionParts
from ssem_dask.registration.section_parts.part_maps import MAX_PARTS, fit_parts, fit_regions
from ssem_dask.registration.section_parts.region_matching import best_shift
from ssem_dask.types import IndexArray

_STRIDE = BLOCK // 3
_LEAST_CORRELATION = 0.15  # of a side with one neighbour
_AGREE = 6.0  # px, of the shifts against two neighbours
_LEAST_BLOCKS = 6
_LEAST_SHARE = 0.3  # of the blocks of a side that must be near its place


def drawn_sides(border: Bool[Tensor, "y x"], *, valid: Bool[Tensor, "y x"]) -> Int64[IndexArray, "y x"] | None:
    """Return the side, 0, 1, …, of each px of tissue, -1 elsewhere; None if the lines do not cut it into several.

    Args:
        border: px that the lines cross.
        valid: where the section shows tissue.
    """
    regions = separated_regions(valid & ~border)
    if regions is None:
        return None
    sizes = np.bincount(regions[regions >= 0])
    rank = np.full(len(sizes) + 1, -1)  # the last one is that of px without a side
    for number, index in enumerate(np.argsort(-sizes)[:MAX_PARTS]):
        rank[index] = number
    return np.asarray(rank[regions])


def place_sides(
    section: Float[Tensor, "y x"],
    neighbours: Sequence[Neighbour],
    *,
    valid: Bool[Tensor, "y x"],
    sides: Int64[IndexArray, "y x"],
    points: Mapping[int, Float[Tensor, "2 3"]],
) -> SectionParts:
    """Place each side of the lines of a section.

    Args:
        section: coarse-aligned, any intensity unit.
        neighbours: sections around it, coarse-aligned.
        valid: False in empty space.
        sides: 0, 1, … of each px, the largest first, -1 for none.
        points: by side, the displacement section → neighbours that a person's points give, px.
    """
    bands = find_bands(section, [neighbour.levels for neighbour in neighbours], valid=valid)
    # A fold of many px is part of one side or of both, and shows no tissue.
    inside = valid & ~bands
    regions = [torch.from_numpy(sides == side) & inside for side in range(int(sides.max()) + 1)]
    # Each by itself, since a local mean across the line would be a picture of the other side.
    image = torch.stack([normalise_locally(section, region) for region in regions]).sum(dim=0)
    reach = min(FAR, max(image.shape) // 3)
    blocks = _blocks(image, neighbours, valid=inside, reach=reach, sides=sides)
    maps: list[Tensor] = []
    for side, region in enumerate(regions):
        start = points.get(side)
        if start is None:
            shift = _common_shift(image, neighbours, region=region, reach=reach)
            start = None if shift is None else torch.cat([torch.zeros(2, 2), shift[:, None].float()], dim=1)
        if start is None:
            maps.append(maps[0] if maps else torch.zeros(2, 3))
        else:
            maps.append(_refined(start.float(), blocks, side))
    labels = torch.from_numpy(filled_regions(sides).astype(np.int64))
    return SectionParts(torch.eye(2, 3, dtype=torch.float64) + torch.stack(maps).double(), labels)


def _blocks(
    image: Tensor, neighbours: Sequence[Neighbour], *, valid: Tensor, reach: int, sides: IndexArray
) -> tuple[BlockMatches, Tensor] | None:
    """Return the matches of blocks that are on one side, and their sides; None if there are none."""
    if min(image.shape) < BLOCK:
        return None
    found = []
    for index, other in enumerate(neighbours):
        positions = block_positions(valid, neighbour_valid=other.valid, stride=_STRIDE)
        if len(positions):
            found.append(
                match_blocks(
                    image,
                    other.normalised,
                    valid=valid,
                    neighbour_valid=other.valid,
                    positions=positions,
                    reach=reach,
                    index=index,
                )
            )
    if not found:
        return None
    matches, fit = fit_regions(join_matches(found), sides)
    return matches, fit.labels


def _common_shift(image: Tensor, neighbours: Sequence[Neighbour], *, region: Tensor, reach: int) -> Tensor | None:
    """Return the shift of a region: the mean if neighbours agree, or else the one that resembles most; None: none."""
    if not bool(region.any()):
        return None
    found = [best_shift(image, n.normalised, region=region, other_valid=n.valid, reach=reach) for n in neighbours]
    likely = sorted((each for each in found if each[1] >= _LEAST_CORRELATION), key=lambda each: -each[1])
    if not likely:
        return None
    near = [shift for shift, _ in likely if float((shift - likely[0][0]).norm()) <= _AGREE]
    return torch.stack(near).mean(dim=0)


def _refined(start: Tensor, blocks: tuple[BlockMatches, Tensor] | None, side: int) -> Tensor:
    """Return the affine displacement of a side that its blocks near a start agree on; the start if there are few."""
    if blocks is None:
        return start
    matches, labels = blocks
    own = matches.part(labels == side)
    places = torch.cat([own.positions, torch.ones(len(own.positions), 1)], dim=1)
    near = (own.displacements - places @ start.mT).norm(dim=1) <= NEAR
    if int(near.sum()) < max(_LEAST_BLOCKS, _LEAST_SHARE * len(near)):
        return start
    return fit_parts(own.part(near), most=1)[0].maps[0]
