"""Find the parts of a section: regions that a fold, a crack or a seam moved against each other.

Blocks of the section are matched with the neighbours on either side. If one map explains them, the section is whole,
which is the usual and quick answer. If it does not, the search is repeated as far as tissue can move. Two maps that
explain the blocks better still prove no break, since smooth distortion would do the same. At a break, blocks on either
side follow their own map up to the line, and the maps differ there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.image.local_means import square_mean
from ssem_dask.registration.section_parts.bands import filled_regions, find_bands, level_range, separated_regions
from ssem_dask.registration.section_parts.block_matching import (
    BLOCK,
    BlockMatches,
    block_positions,
    join_matches,
    match_blocks,
    normalise_locally,
)
from ssem_dask.registration.section_parts.part_maps import PartFit, fit_parts, fit_regions, unexplained
from ssem_dask.registration.section_parts.region_matching import moved_regions
from ssem_dask.types import IndexArray

PIXEL_NM = 20.0
"""nm per px that the lengths are meant for; coarser if sections are large."""
LARGEST_SIDE = 1024
"""px of a section's longer side up to which its parts are found; of larger ones a coarser mip is used."""
NEAR = 8
"""px that coarse-aligned sections are searched at first."""
FAR = 56
"""px that a section is searched if one map does not explain it."""
_STRIDE = BLOCK // 3
_MOST_BLOCKS = 400  # per neighbour; the stride grows with the section
_SAMPLE = 100  # blocks that are searched farther at first
_LEAST_CORRELATION = 0.22  # of a block nearby, below which it is searched farther
_MOST_UNEXPLAINED = 0.15  # share of the blocks that one map may leave unexplained before they are searched farther
_LEAST_GAIN = 0.05  # of the mean robust cost
_LEAST_JUMP = 4.0  # px, difference of two maps along the line between their parts
_LEAST_JUMP_AT_BAND = 2.0  # px, where the image shows a fold or a crack
_TEARING_JUMP = 10.0  # px, difference that no smooth distortion makes within a block
_AT_LINE = 40.0  # px, distance of blocks that decide whether there is a break
_LEAST_AT_LINE = 6  # blocks
_FOLLOWS = 2.0  # px, of a block to the map that it follows
_LEAST_CONTRAST = 0.2  # share of the blocks there that follow their own map, less those that follow the mean of both
_LEAST_SIDE_CONTRAST = 0.05  # the same for each side and neighbour
_NEIGHBOURS = 2  # that must see a break
_LEAST_RELATED = 0.45  # share of the blocks that two maps must explain; less in sections of different places
_LEAST_RELATED_LIKENESS = 0.16  # median correlation of these blocks; noise reaches 0.1
_LIKENESS_OVER = 15  # px, side of the square over which the likeness of a px is measured
_LIKENESS_SEARCH = 2  # px
_UNARY, _PAIRWISE = 10.0, 10.0  # weights of a difference in likeness of 1, and of the px around
_REGULAR = 8.0  # px, standard deviation of the kernel that joins px
_MEAN_FIELD_ROUNDS = 15
_LEAST_AREA = 0.03  # share of the section of a part


@dataclass(frozen=True, slots=True)
class SectionParts:
    """The parts of a section."""

    maps: Float[Tensor, "p 2 3"]
    """Affine of each part, section → neighbours, px of the images; the largest part is the first."""
    labels: Int64[Tensor, "y x"]
    """Part of each px of the section."""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A section that others are compared with; what they need of it is computed once."""

    image: Float[Tensor, "y x"]
    """Coarse-aligned, any intensity unit."""
    valid: Bool[Tensor, "y x"]
    """False in empty space."""

    @cached_property
    def normalised(self) -> Float[Tensor, "y x"]:
        """See `normalise_locally`."""
        return normalise_locally(self.image, self.valid)

    @cached_property
    def levels(self) -> tuple[float, float] | None:
        """See `level_range`."""
        return level_range(self.image, self.valid)


def find_parts(
    section: Float[Tensor, "y x"], neighbours: Sequence[Neighbour], *, valid: Bool[Tensor, "y x"]
) -> SectionParts | None:
    """Find the parts of a section; None if it is whole, or if nothing can be said.

    Two neighbours are needed, since a break that only one of them sees may be its own.

    Args:
        section: coarse-aligned, any intensity unit.
        neighbours: the sections around it, coarse-aligned, the preferred ones first.
        valid: False in empty space.
    """
    if min(section.shape) < 2 * BLOCK:
        return None
    bands = find_bands(section, [neighbour.levels for neighbour in neighbours[:_NEIGHBOURS]], valid=valid)
    inside = valid & ~bands
    image = normalise_locally(section, inside)
    others: list[tuple[Tensor, Tensor]] = []
    found: list[BlockMatches] = []
    for neighbour in neighbours:
        matches = _matched(image, neighbour, valid=inside, index=len(found))
        if matches is not None:
            found.append(matches)
            others.append((neighbour.normalised, neighbour.valid))
        if len(found) == _NEIGHBOURS:
            break
    if len(found) < _NEIGHBOURS:
        return None
    matches = join_matches(found)
    regions = separated_regions(inside)
    if regions is not None:
        used, split = fit_regions(matches, regions)
        if all(_is_break(used, split, part, least_jump=_LEAST_JUMP_AT_BAND) for part in range(len(split.maps))):
            return _sorted_parts(split.maps, filled_regions(regions), valid=valid)
        maps = _moved_as_wholes(image, others, used, split, regions)
        if maps is not None:
            return _sorted_parts(maps, filled_regions(regions), valid=valid)
    fit = _without_smooth(matches, fit_parts(matches, least_gain=_LEAST_GAIN))
    return None if fit is None else _labelled(fit, image, others, valid=inside)


def _moved_as_wholes(
    image: Tensor, others: Sequence[tuple[Tensor, Tensor]], matches: BlockMatches, split: PartFit, regions: IndexArray
) -> Float[Tensor, "p 2 3"] | None:
    """Return the map of each region if these moved against the largest one, whose map blocks give; None otherwise."""
    largest = int(np.argmax(np.bincount(regions[regions >= 0])))
    if int((split.labels == largest).sum()) < _LEAST_AT_LINE or len(matches.positions) == 0:
        return None
    return moved_regions(
        image,
        others,
        regions=regions,
        largest=largest,
        displacement=split.maps[largest],
        reach=min(FAR, max(image.shape) // 3),
        least_jump=_LEAST_JUMP,
    )


def _matched(image: Tensor, neighbour: Neighbour, *, valid: Tensor, index: int) -> BlockMatches | None:
    """Match the blocks with a neighbour nearby, and those that one map does not explain farther away.

    None if the neighbour shows too little of the same tissue.
    """
    matched = partial(
        match_blocks, image, neighbour.normalised, valid=valid, neighbour_valid=neighbour.valid, index=index
    )
    positions = block_positions(valid, neighbour_valid=neighbour.valid, stride=_stride_of(image))
    if len(positions) < _LEAST_AT_LINE:
        return None
    near = matched(positions=positions, reach=NEAR)
    # A block that resembles nothing nearby is best there by chance, and chance may agree with the map.
    odd = unexplained(near, fit_parts(near, most=1)[-1]) | (near.correlations < _LEAST_CORRELATION)
    if float(odd.float().mean()) <= _MOST_UNEXPLAINED:
        return near
    reach = min(FAR, max(image.shape) // 3)
    sample = _sample(odd)
    near = near.improved(matched(positions=near.positions[sample], reach=reach), which=sample)
    rest = odd & ~sample
    if bool(rest.any()):
        # If a sample of the blocks shows no second map, the others would show none either.
        if len(fit_parts(near.part(~rest), most=2, least_gain=_LEAST_GAIN / 2)) == 1:
            near = near.part(~rest)
        else:
            near = near.improved(matched(positions=near.positions[rest], reach=reach), which=rest)
    explained = ~unexplained(near, fit_parts(near, most=2)[-1])
    # Maps explain some blocks of noise as well, but these resemble nothing.
    is_related = float(explained.float().mean()) >= _LEAST_RELATED
    return near if is_related and float(near.correlations[explained].median()) >= _LEAST_RELATED_LIKENESS else None


def _sample(which: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Return every n-th of some blocks, so that about `_SAMPLE` are left; all of them if there are few."""
    chosen = which.nonzero()[:, 0]
    out = torch.zeros_like(which)
    # The step is rounded down, so up to twice as many blocks are in the sample.
    out[chosen[:: max(1, len(chosen) // _SAMPLE)]] = True
    return out


def _stride_of(image: Tensor) -> int:
    blocks = (image.shape[0] - BLOCK) * (image.shape[1] - BLOCK)
    return max(_STRIDE, ceil_div(int(blocks**0.5), int(_MOST_BLOCKS**0.5)))


def _without_smooth(matches: BlockMatches, fits: Sequence[PartFit]) -> PartFit | None:
    """Return the fit with the most parts that breaks separate; None if there is no break."""
    for fit in reversed(fits[1:]):
        if all(_is_break(matches, fit, part) for part in range(len(fit.maps))):
            return fit
    return None


def _is_break(matches: BlockMatches, fit: PartFit, part: int, *, least_jump: float = _LEAST_JUMP) -> bool:
    """Check whether a break separates a part from the one around it, to the eyes of every neighbour."""
    places = torch.cat([matches.positions, torch.ones(len(matches.positions), 1)], dim=1)
    predicted = torch.einsum("pij,nj->npi", fit.maps, places)
    distance = torch.cdist(matches.positions, matches.positions)
    own = fit.labels == part
    if not bool(own.any()) or bool(own.all()):
        return False
    # A wide band separates the blocks of both sides.
    near = distance < max(_AT_LINE, float(distance[own][:, ~own].min()) + 1)
    others = [other for other in range(len(fit.maps)) if other != part]
    edges = [own & (near & (fit.labels == other)).any(dim=1) for other in others]
    edge, other = max(zip(edges, others, strict=True), key=lambda found: int(found[0].sum()))
    edge = edge | ((fit.labels == other) & (near & own).any(dim=1))
    if int(edge.sum()) < _LEAST_AT_LINE:
        return False
    jump = float((predicted[edge, part] - predicted[edge, other]).norm(dim=1).median())
    if jump < least_jump:
        return False
    # Distortion as steep as this would tear tissue, so blocks of both whole parts decide.
    where = own | (fit.labels == other) if jump >= _TEARING_JUMP else edge
    theirs = torch.where(own[:, None], predicted[:, part], predicted[:, other])
    middle = (predicted[:, part] + predicted[:, other]) / 2
    radius = min(max(jump / 4, _FOLLOWS), 2 * _FOLLOWS)
    contrasts = []
    for index in torch.unique(matches.neighbours):
        seen = matches.neighbours == index
        for side, rival in ((own, other), (~own, part)):
            blocks = seen & where & side
            if int(blocks.sum()) < _LEAST_AT_LINE // 2:
                continue
            follows = [
                float(((matches.displacements - places)[blocks].norm(dim=1) < radius).float().mean())
                for places in (theirs, middle, predicted[:, rival])
            ]
            contrasts.append(follows[0] - max(follows[1:]))
    return (
        len(contrasts) >= 2
        and sum(contrasts) / len(contrasts) >= _LEAST_CONTRAST
        and min(contrasts) > _LEAST_SIDE_CONTRAST
    )


def _labelled(
    fit: PartFit,
    image: Tensor,
    others: Sequence[tuple[Tensor, Tensor]],
    *,
    valid: Tensor,
) -> SectionParts | None:
    """Give each px to the part under whose map it resembles the neighbours most."""
    likeness = torch.stack(
        [
            torch.stack(
                [_likeness(image, other, valid=valid, other_valid=mask, displacement=part) for other, mask in others]
            ).nanmean(dim=0)
            for part in fit.maps
        ]
    )
    # Where the map of a part leads out of the neighbours, nothing can be compared, and the px around decide.
    likeness = torch.where(torch.isfinite(likeness).all(dim=0), likeness, torch.zeros_like(likeness))
    labels = _without_islands(
        _regular(likeness, weight=valid * _texture(image)).argmax(dim=0).numpy(), least=_LEAST_AREA * float(valid.sum())
    )
    return _sorted_parts(fit.maps, labels, valid=valid)


def _sorted_parts(maps: Tensor, labels: IndexArray, *, valid: Tensor) -> SectionParts | None:
    """Return the parts, the largest first; None if only one is left."""
    sizes = np.bincount(labels[valid.numpy()], minlength=len(maps))
    order = [int(i) for i in np.argsort(-sizes) if sizes[i] > 0]
    if len(order) < 2:
        return None
    rank = np.zeros(len(maps), dtype=np.int64)
    rank[order] = np.arange(len(order))
    affine = torch.eye(2, 3, dtype=torch.float64) + maps[order].double()
    return SectionParts(affine, torch.from_numpy(rank[labels]))


def _regular(likeness: Tensor, *, weight: Tensor) -> Tensor:
    """Return probabilities `(p, y, x)` of the parts: mean-field inference, where neighbouring px agree.

    Krähenbühl and Koltun, *Efficient inference in fully connected CRFs* (2011), with one Gaussian kernel. Px without
    texture pass nothing on, so the border between two parts is drawn to a fold or a crack.
    """
    share = _smoothed(weight[None]).clamp_min(1e-3)
    unary = _UNARY * likeness
    chance = unary.softmax(dim=0)
    for _ in range(_MEAN_FIELD_ROUNDS):
        chance = (unary + _PAIRWISE * _smoothed(weight * chance) / share).softmax(dim=0)
    return chance


def _texture(image: Tensor) -> Tensor:
    """Return the share 0 to 1 of the usual local spread of a locally normalised image."""
    return _mean(image.square()).sqrt().clamp_max(1.0)


def _smoothed(values: Tensor) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(values.numpy(), (0, _REGULAR, _REGULAR)))


def _likeness(image: Tensor, other: Tensor, *, valid: Tensor, other_valid: Tensor, displacement: Tensor) -> Tensor:
    """Return the local correlation `(y, x)` of a section with a neighbour that is moved by a map, NaN if unknown."""
    grid = Grid((image.shape[0], image.shape[1]), 1.0)
    positions = grid.positions()
    places = positions + torch.einsum("ij,jyx->iyx", displacement[:, :2], positions) + displacement[:, 2, None, None]
    moved, known = sample_image(other[None], grid=grid, positions=places, kind="bilinear", tissue=other_valid)
    own = image * known
    power = _mean(own.square())
    best = torch.full_like(image, -1.0)
    reach = range(-_LIKENESS_SEARCH, _LIKENESS_SEARCH + 1)
    for shift in ((dy, dx) for dy in reach for dx in reach):
        theirs = torch.roll(moved[0], shift, dims=(0, 1))
        best = torch.maximum(best, _mean(own * theirs) / (power * _mean(theirs.square())).sqrt().clamp_min(1e-3))
    return torch.where(valid & known, best, torch.full_like(best, torch.nan))


def _mean(image: Tensor) -> Tensor:
    return square_mean(image, _LIKENESS_OVER, inside=True)


def _without_islands(labels: IndexArray, *, least: float) -> IndexArray:
    """Give regions of less than some px to the label next to them."""
    kept = np.full(labels.shape, -1)
    for label in np.unique(labels):
        regions, count = ndimage.label(labels == label)
        large = np.flatnonzero(np.bincount(regions.ravel(), minlength=count + 1)[1:] >= least) + 1
        kept[np.isin(regions, large)] = label
    if (kept < 0).all():
        return np.zeros_like(labels)
    nearest = ndimage.distance_transform_edt(kept < 0, return_distances=False, return_indices=True)
    return np.asarray(kept[tuple(nearest)])
