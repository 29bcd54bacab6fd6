"""Regions in which a section differs from both of its neighbours: folds, cracks, dirt, empty parts.

In a smoothed image, a region is *odd* if the section is darker than both neighbours, or brighter than both, by several
times the usual difference, or if it is empty where both show tissue. The neighbours of a spoilt section are odd against
one side only, so they are not marked. Sections are compared after alignment, at a coarse mip.

A long, thin region is a band, such as a fold (dark) or a crack (bright or empty).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from ssem_dask.image.local_means import quantiles, square_mean
from ssem_dask.types import AnyArray, BoolArray

SMOOTH_SHARE = 1 / 40
"""Side of the square over which images are averaged, as a share of the section's shorter side."""
ODD_DEVIATIONS = 3.0
"""Difference from both neighbours, in robust standard deviations of the difference, that is odd."""
GROWN_DEVIATIONS = 1.8
"""Difference down to which an odd region is followed (hysteresis thresholding)."""
_LEAST_AREA_SHARE = 0.001
"""Smallest piece that counts, as a share of the section."""
_BORDER_PX = 3
"""Pixels along the border of tissue that are not judged, since alignment leaves them mixed with empty space."""


@dataclass(frozen=True, slots=True)
class OddRegions:
    """The odd regions of one section. Lengths are shares of the side of a square of the section's area.

    In a strip, any object is as long as the shorter side.
    """

    dark: float
    """Share of the judged area that is darker than in both neighbours."""
    bright: float
    """Share that is brighter than in both neighbours."""
    empty: float
    """Share that is empty where both neighbours show tissue."""
    length: float
    """Length of the longest piece of these."""
    width: float
    """Mean width of that piece: its area divided by its length."""
    tone: float
    """Mean intensity of that piece relative to the neighbours' there, in standard deviations of tissue."""

    @classmethod
    def none(cls) -> "OddRegions":
        """Return the regions of a section that cannot be judged."""
        return cls(*([math.nan] * 6))


@dataclass(frozen=True, slots=True)
class ComparedSection:
    """An aligned section as it is compared with others; made once, since a section has several neighbours."""

    image: Float[Tensor, "y x"]
    """float32, any intensity unit."""
    mask: Bool[Tensor, "y x"]
    """True on tissue."""
    level: Float[Tensor, "y x"]
    """Smoothed image of mean 0 and deviation 1 over tissue, 0 elsewhere."""

    @classmethod
    def of(cls, image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"]) -> "ComparedSection":
        """Return an aligned section, ready to be compared."""
        return cls(image, mask, _standardised(image, mask))


def find_odd_regions(
    section: ComparedSection,
    *,
    inside: Bool[Tensor, "y x"],
    before: ComparedSection,
    after: ComparedSection,
    one_sided: bool,
) -> OddRegions:
    """Find where a section differs from both neighbours.

    Args:
        section: the section.
        inside: True where the aligned section shows a part of its source; elsewhere nothing is missing.
        before: the section before it.
        after: the section after it.
        one_sided: both neighbours are on one side. Tissue changes along z, so the section may then well be darker or
            brighter than both, and only empty regions are odd.
    """
    image, mask = section.image, section.mask
    sections = [section.level, before.level, after.level]
    judged = before.mask & after.mask & inside
    if int(judged.sum()) < _LEAST_AREA_SHARE * judged.numel() + 64:
        return OddRegions.none()
    judged &= torch.from_numpy(ndimage.binary_erosion(judged.numpy(), iterations=_BORDER_PX))
    area = max(1, int(judged.sum()))
    compared = judged & mask
    own = sections[0]
    # The neighbours' own difference says how much tissue changes from section to section here.
    spread = _spread((sections[1] - sections[2])[judged])
    lower, upper = torch.minimum(sections[1], sections[2]), torch.maximum(sections[1], sections[2])
    if one_sided:
        compared &= False
    darkness, brightness = ((d / spread * compared).numpy() for d in (lower - own, own - upper))
    pieces = [_hysteresis(darkness), _hysteresis(brightness), _clean((judged & ~mask).numpy())]
    # Bands are rarely of one tone: the rim of a fold is dark where its inside is empty.
    union = ndimage.binary_closing(pieces[0] | pieces[1] | pieces[2], iterations=2)
    side = math.sqrt(image.numel())
    length, width, longest = _longest_piece(union, side=side)
    tone = math.nan
    if longest is not None:
        middle = ((sections[1] + sections[2]) / 2).numpy()
        level = _raw_level(image, mask)
        tone = float((level.numpy()[longest] - middle[longest]).mean())
    return OddRegions(
        dark=float(pieces[0].sum()) / area,
        bright=float(pieces[1].sum()) / area,
        empty=float(pieces[2].sum()) / area,
        length=length,
        width=width,
        tone=tone,
    )


def _raw_level(image: Tensor, mask: Tensor) -> Tensor:
    """Return intensities in standard deviations of tissue, empty space included."""
    values = image[mask]
    if values.numel() < 2:
        return image * 0
    return (image - values.mean()) / values.std().clamp(min=1e-6)


def _standardised(image: Tensor, mask: Tensor) -> Tensor:
    """Return the level of a `ComparedSection`."""
    known = mask.float()
    smooth = _box(image * known) / _box(known).clamp(min=1e-3)
    values = smooth[mask]
    if values.numel() < 2:
        return torch.zeros_like(image)
    low, middle, high = quantiles(values[:: max(1, values.numel() >> 20)], [0.16, 0.5, 0.84])
    return torch.where(mask, (smooth - middle) / ((high - low) / 2).clamp(min=1e-6), torch.zeros_like(smooth))


def _box(values: Tensor) -> Tensor:
    reach = max(2, round(SMOOTH_SHARE * min(values.shape) / 2))
    return square_mean(values, 2 * reach + 1)


def _spread(values: Tensor) -> float:
    """Return the robust standard deviation of each of two values with this difference."""
    if values.numel() < 2:
        return 1.0
    return max(0.2, float((values - values.median()).abs().median()) * 1.4826 / math.sqrt(2.0))


def _hysteresis(deviation: AnyArray) -> BoolArray:
    """Return the pieces above `GROWN_DEVIATIONS` that reach `ODD_DEVIATIONS` somewhere."""
    pieces = _clean(deviation > GROWN_DEVIATIONS)
    labels, count = ndimage.label(pieces, structure=np.ones((3, 3)))
    if not count:
        return pieces
    keep = np.zeros(count + 1, dtype=bool)
    keep[labels[deviation > ODD_DEVIATIONS]] = True
    keep[0] = False
    return np.asarray(keep[labels])


def _clean(mask: AnyArray) -> BoolArray:
    """Remove pieces that are smaller than `_LEAST_AREA_SHARE` of the image."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(mask.shape, dtype=bool)
    keep = np.bincount(labels.ravel()) >= max(9, _LEAST_AREA_SHARE * mask.size)
    keep[0] = False
    return np.asarray(keep[labels])


def _longest_piece(mask: BoolArray, *, side: float) -> tuple[float, float, BoolArray | None]:
    """Return length and mean width of the longest piece, as shares of a side, and its mask."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    best = 0.0, 0.0
    longest = None
    for number in range(1, count + 1):
        piece = labels == number
        points = np.argwhere(piece).astype(np.float64)
        points -= points.mean(axis=0)
        _, axes = np.linalg.eigh(points.T @ points)
        extent = float(np.ptp(points @ axes[:, 1])) + 1.0
        if extent / side > best[0]:
            best = extent / side, len(points) / extent / side
            longest = piece
    return *best, longest
