"""Shift of a region that bands cut off, found from all of its pixels at once.

A strip beside a wide fold is too narrow for blocks. Its pixels together still have one best shift against each
neighbour. Two neighbours that give the same shift, found independently among thousands, do not agree by chance.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from ssem_dask.registration.section_parts.block_matching import correlation_surfaces
from ssem_dask.types import IndexArray

_LEAST_CORRELATION = 0.2
_LEAST_GAIN = 0.08  # of the correlation, over staying with the largest region
_AGREE = 6.0  # px, of the shifts against two neighbours
_WITH_LARGEST = 2  # px around the displacement of the largest region that count as staying with it


def moved_regions(
    section: Float[Tensor, "y x"],
    neighbours: Sequence[tuple[Float[Tensor, "y x"], Bool[Tensor, "y x"]]],
    *,
    regions: Int64[IndexArray, "y x"],
    largest: int,
    displacement: Float[Tensor, "2 3"],
    reach: int,
    least_jump: float,
) -> Float[Tensor, "p 2 3"] | None:
    """Return the affine displacement of each region; None unless all regions but the largest have moved against it.

    Args:
        section: locally normalised.
        neighbours: image, locally normalised, and tissue of two neighbours.
        regions: 0, 1, … of each px, -1 for none.
        largest: index of the largest region.
        displacement: of the largest region, section → neighbours, px.
        reach: largest shift that is tried, px.
        least_jump: px between a region and the largest one, below which nothing has moved.
    """
    maps = []
    for index in range(int(regions.max()) + 1):
        if index == largest:
            maps.append(displacement)
            continue
        region = torch.from_numpy(regions == index)
        centre = region.nonzero().double().mean(dim=0) + 0.5
        stays = displacement[:, :2].double() @ centre + displacement[:, 2]
        shift = _agreed_shift(section, neighbours, region=region, stays=stays, reach=reach)
        if shift is None or float((shift - stays).norm()) < least_jump:
            return None
        own = displacement.clone()
        own[:, 2] += (shift - stays).to(own.dtype)
        maps.append(own)
    return torch.stack(maps)


def best_shift(
    section: Float[Tensor, "y x"],
    other: Float[Tensor, "y x"],
    *,
    region: Bool[Tensor, "y x"],
    other_valid: Bool[Tensor, "y x"],
    reach: int,
) -> tuple[Float[Tensor, "2"], float]:
    """Return the shift (y, x) at which a region resembles a neighbour most, px, and the correlation there.

    Args:
        section: locally normalised.
        other: the neighbour, locally normalised.
        region: of the section, not empty.
        other_valid: where the neighbour shows tissue.
        reach: largest shift that is tried, px.
    """
    surface = _surface(section, other, region=region, other_valid=other_valid, reach=reach)
    peak = np.unravel_index(int(surface.argmax()), surface.shape)
    return torch.tensor(peak, dtype=torch.float64) - reach, float(surface[peak])


def _agreed_shift(
    section: Tensor, neighbours: Sequence[tuple[Tensor, Tensor]], *, region: Tensor, stays: Tensor, reach: int
) -> Tensor | None:
    """Return the shift (y, x) that all neighbours give a region; None if they do not agree, or if it may stay."""
    shifts = []
    for other, mask in neighbours:
        surface = _surface(section, other, region=region, other_valid=mask, reach=reach)
        peak = np.unravel_index(int(surface.argmax()), surface.shape)
        middle = (stays.round().long() + reach).clamp(0, 2 * reach).tolist()
        rows, columns = (slice(max(0, i - _WITH_LARGEST), i + _WITH_LARGEST + 1) for i in middle)
        best = float(surface[peak])
        if best < max(_LEAST_CORRELATION, float(surface[rows, columns].max()) + _LEAST_GAIN):
            return None
        shifts.append(torch.tensor(peak, dtype=torch.float64) - reach)
    found = torch.stack(shifts)
    mean = found.mean(dim=0)
    return mean if float((found - mean).norm(dim=1).max()) <= _AGREE / 2 else None


def _surface(section: Tensor, other: Tensor, *, region: Tensor, other_valid: Tensor, reach: int) -> Tensor:
    """Return the correlation `(2·reach + 1, 2·reach + 1)` of a region with a neighbour at each shift."""
    rows, columns = (np.flatnonzero(region.any(dim=axis).numpy()) for axis in (1, 0))
    (top, bottom), (left, right) = ((int(i[0]), int(i[-1]) + 1) for i in (rows, columns))
    share = region[top:bottom, left:right].to(section.dtype)
    around = slice(top, bottom + 2 * reach), slice(left, right + 2 * reach)
    theirs, their_share = (pad(x, [reach] * 4)[around] for x in (other * other_valid, other_valid.to(section.dtype)))
    block = section[top:bottom, left:right] * share
    return correlation_surfaces(
        block[None], share[None], theirs[None], their_share[None], least=float(share.sum()) / 2
    )[0]
