"""Bands across a section, darker or brighter than tissue: a fold or a crack that separates it into regions.

A band is where the local mean leaves the range that it has in the neighbour sections, gain and offset allowed for. Only
regions that a band cuts off from each other entirely are separated; blocks decide whether they moved.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor

from ssem_dask.image.local_means import square_mean
from ssem_dask.types import IndexArray

_SMOOTH = 5  # px, side of the square of the local mean
_RANGE = 0.002, 0.998  # quantiles of the local mean of the neighbours
_MARGIN = 0.04  # of that range, beyond it
_WIDENED = 2  # px that a band is widened by, since its border is a mixture
_LEAST_BAND = 0.003  # share of the tissue of a connected piece of a band
_LEAST_TEXTURE = 0.25  # of the usual local spread
_LEAST_REGION = 0.06  # share of the tissue of a region that counts
_QUANTILES_OF = 1 << 18  # local means, at least, from which quantiles are taken; neighbouring ones hardly differ


def level_range(image: Float[Tensor, "y x"], valid: Bool[Tensor, "y x"]) -> tuple[float, float] | None:
    """Return the range of the local mean of a section, gain and offset allowed for; None if it shows no tissue.

    Args:
        image: section, any intensity unit.
        valid: where it shows tissue.
    """
    values = _thinned(_scaled(image, valid))[_thinned(valid)]
    if not values.numel():
        return None
    low, high = np.quantile(values.numpy(), _RANGE)
    return float(low), float(high)


def find_bands(
    image: Float[Tensor, "y x"], ranges: Sequence[tuple[float, float] | None], *, valid: Bool[Tensor, "y x"]
) -> Bool[Tensor, "y x"]:
    """Return the px of a section that are darker or brighter than anything in its neighbours.

    Args:
        image: section, any intensity unit.
        ranges: `level_range` of some neighbours, whose images have the same unit up to gain and offset.
        valid: where the section shows tissue.
    """
    known = [span for span in ranges if span is not None]
    if not known or not bool(valid.any()):
        return torch.zeros_like(valid)
    scaled = _scaled(image, valid)
    low, high = min(low for low, _ in known), max(high for _, high in known)
    margin = _MARGIN * (high - low)
    odd = ((scaled < low - margin) | (scaled > high + margin)) & valid
    least = _LEAST_BAND * int(valid.sum())
    if int(odd.sum()) < least:
        return torch.zeros_like(valid)
    pieces, count = ndimage.label(odd.numpy())
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= least
    large[0] = False
    if not large.any():
        return torch.zeros_like(valid)
    return torch.from_numpy(ndimage.binary_dilation(large[pieces], iterations=_WIDENED)) & valid


def separated_regions(inside: Bool[Tensor, "y x"]) -> Int64[IndexArray, "y x"] | None:
    """Return the region, 0, 1, …, of each px of tissue that bands cut into several, -1 elsewhere; None if it is one.

    Args:
        inside: tissue without bands.
    """
    if bool(inside.all()):
        return None
    regions, count = ndimage.label(inside.numpy())
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(sizes >= _LEAST_REGION * int(inside.sum())) + 1
    if len(large) < 2:
        return None
    rank = np.full(count + 1, -1)
    rank[large] = np.arange(len(large))
    return np.asarray(rank[regions])


def filled_regions(regions: Int64[IndexArray, "y x"]) -> Int64[IndexArray, "y x"]:
    """Give px that belong to no region, -1, to the nearest one."""
    nearest = ndimage.distance_transform_edt(regions < 0, return_distances=False, return_indices=True)
    return np.asarray(regions[tuple(nearest)])


def _scaled(image: Tensor, valid: Tensor) -> Tensor:
    """Return the local mean, 0 at the median of textured tissue and 1 quartile distance per unit."""
    mean, square = _local_means(image, valid)
    means, known = _thinned(mean), _thinned(valid)
    spread = (_thinned(square) - means.square()).clamp_min(0).sqrt()
    if not bool(known.any()):
        return mean
    # A wide band must not shift the scale that it is measured by; it shows no texture.
    textured = known & (spread > _LEAST_TEXTURE * spread[known].median())
    low, middle, high = np.quantile(means[textured if bool(textured.any()) else known].numpy(), (0.25, 0.5, 0.75))
    return (mean - float(middle)) / max(float(high - low), 1e-6)


def _thinned(values: Tensor) -> Tensor:
    """Return every n-th row and column, so that a bounded number is left."""
    step = max(1, math.isqrt(values.numel() // _QUANTILES_OF))
    return values[::step, ::step]


def _local_means(image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Average the image and its square over the valid px around each px."""
    share = valid.to(image.dtype)
    known = square_mean(share, _SMOOTH).clamp_min(1e-3)
    return square_mean(image * share, _SMOOTH) / known, square_mean(image.square() * share, _SMOOTH) / known
