"""Displacements of blocks of one section against a neighbour, by masked normalised cross-correlation.

Padfield, *Masked object registration in the Fourier domain* (2012), eq. 18, for many small blocks at once. Images are
locally normalised first, so a gain, an offset or slow shading of a section changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from ssem_dask.image.local_means import square_mean, square_sums

BLOCK = 48
"""Side of a block, px."""
_NORMALISED_OVER = 9  # px, side of the square of the local mean and spread, applied twice
_MAX_VALUE = 3.0  # local standard deviations; folds and dirt must not outweigh tissue
_LEAST_SPREAD = 0.05  # of the spread of the image, added to the local one, so that empty resin stays flat
_LEAST_VALID = 0.5  # share of a block that must be valid in both sections
_CLEARLY = 0.06  # correlation; the best of many places reaches more by chance than the best of few
_LEAST_POWER = 1e-3  # geometric mean of the energies per px of a block, below which there is nothing to compare
_BATCH_VALUES = 1 << 20  # values of a batch of surfaces, which bounds memory


@dataclass(frozen=True, slots=True)
class BlockMatches:
    """The best displacement of each block, and how well it matches there."""

    positions: Float[Tensor, "n 2"]
    """Centres (y, x) of the blocks in the section, px."""
    displacements: Float[Tensor, "n 2"]
    """Displacement (y, x) from the section to the neighbour, px."""
    correlations: Float[Tensor, "n"]
    """Normalised cross-correlation at the displacement, 0 to 1."""
    neighbours: Int64[Tensor, "n"]
    """Index of the neighbour."""

    def part(self, which: Bool[Tensor, "n"]) -> "BlockMatches":
        """Return some of the matches."""
        return BlockMatches(
            self.positions[which], self.displacements[which], self.correlations[which], self.neighbours[which]
        )

    def improved(self, other: "BlockMatches", *, which: Bool[Tensor, "n"]) -> "BlockMatches":
        """Return these matches, some of them replaced if those of `other`, made for these alone, are clearly better."""
        index = which.nonzero()[:, 0]
        better = other.correlations > self.correlations[index] + _CLEARLY
        index = index[better]
        displacements, correlations = self.displacements.clone(), self.correlations.clone()
        displacements[index], correlations[index] = other.displacements[better], other.correlations[better]
        return BlockMatches(self.positions, displacements, correlations, self.neighbours)


def join_matches(matches: Sequence[BlockMatches]) -> BlockMatches:
    """Join the matches of a section with several neighbours."""
    return BlockMatches(
        *(torch.cat([getattr(match, field.name) for match in matches]) for field in fields(BlockMatches))
    )


def normalise_locally(image: Float[Tensor, "y x"], valid: Bool[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """Subtract the local mean and divide by the local spread; 0 where the image is not valid."""
    share = valid.to(image.dtype)
    if not bool(valid.any()):
        return torch.zeros_like(image)
    if bool(valid.all()):  # means over what is in the image are means over what is valid
        centred = image - _local_mean(image)
        spread, values = _local_mean(centred.square()).sqrt(), image
    else:
        weight = _local_mean(share).clamp_min(1e-3)
        centred = image - _local_mean(image * share) / weight
        spread, values = (_local_mean(centred.square() * share) / weight).sqrt(), image[valid]
    least = _LEAST_SPREAD * values.std().nan_to_num().clamp_min(1e-6)
    return (centred / (spread + least) * share).clamp(-_MAX_VALUE, _MAX_VALUE)


def block_positions(
    valid: Bool[Tensor, "y x"], *, neighbour_valid: Bool[Tensor, "y x"], stride: int
) -> Float[Tensor, "n 2"]:
    """Return the centres (y, x) of the blocks of a section that show tissue in both sections, px.

    Args:
        valid: where the section shows tissue; at least half of a block must.
        neighbour_valid: where the neighbour does.
        stride: distance of neighbouring blocks, px.
    """
    both = (valid & neighbour_valid).float()
    shares = both.unfold(0, BLOCK, stride).unfold(1, BLOCK, stride).mean(dim=(2, 3))
    return shares.ge(_LEAST_VALID).nonzero().float() * stride + BLOCK / 2


def match_blocks(
    section: Float[Tensor, "y x"],
    neighbour: Float[Tensor, "y x"],
    *,
    valid: Bool[Tensor, "y x"],
    neighbour_valid: Bool[Tensor, "y x"],
    positions: Float[Tensor, "n 2"],
    reach: int,
    index: int = 0,
) -> BlockMatches:
    """Find for each block of a section the displacement at which a neighbour resembles it most.

    Args:
        section: locally normalised.
        neighbour: locally normalised, of the same shape.
        valid: where the section shows tissue.
        neighbour_valid: where the neighbour shows tissue.
        positions: centres of the blocks, px.
        reach: largest displacement that is tried, px.
        index: of the neighbour, for the result.
    """
    corners = (positions - BLOCK / 2).long()
    side = BLOCK + 2 * reach
    images = [section * valid, valid.to(section.dtype)]
    theirs = [pad(x, [reach] * 4) for x in (neighbour * neighbour_valid, neighbour_valid.to(section.dtype))]
    # Where all is valid, the energy under a block is a sum over a square, the same for all blocks.
    rows, columns = corners.unbind(dim=1)
    whole = square_sums(images[1], BLOCK)[rows, columns] == BLOCK**2
    whole &= square_sums(theirs[1], side)[rows, columns] == side**2
    energy = square_sums(theirs[0].square(), BLOCK)
    shifts, peaks = torch.zeros_like(positions), positions.new_zeros(len(positions))
    for which, best, own, other, lags in (
        (whole, _best_of_whole, images[:1], theirs[:1], [energy]),
        (~whole, _best, images, theirs, []),
    ):
        for part in torch.split(which.nonzero()[:, 0], max(1, _BATCH_VALUES // side**2)):
            if not len(part):
                continue
            tiles = [
                torch.stack([x[y : y + size, c : c + size] for y, c in corners[part].tolist()])
                for size, values in ((BLOCK, own), (side, other), (2 * reach + 1, lags))
                for x in values
            ]
            offsets, peaks[part] = best(*tiles)
            shifts[part] = offsets - reach
    return BlockMatches(positions, shifts, peaks, torch.full((len(positions),), index))


def _best_of_whole(blocks: Tensor, surroundings: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_best` does, for blocks that are valid throughout, in valid surroundings.

    Args:
        blocks: (n, BLOCK, BLOCK).
        surroundings: (n, H, W).
        energy: (n, dy, dx), of the surroundings under the block at each offset.
    """
    size, lags = surroundings.shape[-2:], energy.shape[1]
    product = torch.fft.rfft2(blocks, s=size).conj() * torch.fft.rfft2(surroundings)
    surface = torch.fft.irfft2(product, s=size)[:, :lags, :lags]
    power = blocks.square().sum(dim=(1, 2))[:, None, None] * energy.clamp_min(0)
    return _peaks(surface / power.sqrt().clamp_min(_LEAST_POWER * BLOCK**2))


def _best(blocks: Tensor, shares: Tensor, surroundings: Tensor, their_shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the offset (n, 2) of the best match in the surroundings, and its correlation (n)."""
    return _peaks(correlation_surfaces(blocks, shares, surroundings, their_shares, least=_LEAST_VALID * BLOCK**2))


def _peaks(surface: Tensor) -> tuple[Tensor, Tensor]:
    peaks, index = surface.flatten(1).max(dim=1)
    columns = surface.shape[2]
    return torch.stack([index // columns, index % columns], dim=1).to(surface.dtype), peaks


def correlation_surfaces(
    blocks: Float[Tensor, "n h w"],
    shares: Float[Tensor, "n h w"],
    surroundings: Float[Tensor, "n H W"],
    their_shares: Float[Tensor, "n H W"],
    *,
    least: float,
) -> Float[Tensor, "n dy dx"]:
    """Return the correlation of each block with its surroundings at every offset; 0 where too little is compared.

    Args:
        blocks: 0 where they are not valid.
        shares: 1 where they are valid, 0 elsewhere.
        surroundings: larger than the blocks; 0 where they are not valid.
        their_shares: 1 where these are valid.
        least: px that must be valid in both.
    """
    size = surroundings.shape[-2:]
    rows, columns = (n - m + 1 for n, m in zip(size, blocks.shape[-2:], strict=True))

    def correlated(first: Tensor, second: Tensor) -> Tensor:
        surface: Tensor = torch.fft.irfft2(first.conj() * second, s=size)[:, :rows, :columns]
        return surface

    block, share, energy = (torch.fft.rfft2(x, s=size) for x in (blocks, shares, blocks.square()))
    theirs, their_share, their_energy = (
        torch.fft.rfft2(x) for x in (surroundings, their_shares, surroundings.square())
    )
    power = correlated(share, their_energy).clamp_min(0) * correlated(energy, their_share).clamp_min(0)
    surface = correlated(block, theirs) / power.sqrt().clamp_min(_LEAST_POWER * blocks.shape[-2] * blocks.shape[-1])
    surface[correlated(share, their_share) < least] = 0.0
    return surface


def _local_mean(image: Tensor) -> Tensor:
    for _ in range(2):
        image = square_mean(image, _NORMALISED_OVER, inside=True)
    return image
