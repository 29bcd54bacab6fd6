"""Appearance of a section by itself: contrast, sharpness, structure. A gain and an offset change only the contrast."""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssem_dask.image.local_means import lower_median, quantiles, square_mean

_LEAST_PIXELS = 256
"""Pixels of tissue below which nothing is measured."""
_NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""
_FINE_PX, _MIDDLE_PX = 3, 9
"""Sides of the squares whose means separate fine, middle and coarse detail."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """Measures of one image; NaN if it shows too little tissue."""

    contrast: float
    """Robust standard deviation of the intensities of tissue."""
    sharpness: float
    """Strength of detail finer than 3 px, divided by that of detail between 3 and 9 px."""
    structure: float
    """Correlation of adjacent pixels: near 1 in tissue, 0 in white noise."""

    @classmethod
    def unknown(cls) -> "Appearance":
        """Return an appearance of which nothing is known."""
        return cls(math.nan, math.nan, math.nan)


def measure_appearance(image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"]) -> Appearance:
    """Measure an image over tissue.

    Args:
        image: float32, any intensity unit.
        mask: True on tissue.
    """
    if int(mask.sum()) < _LEAST_PIXELS:
        return Appearance.unknown()
    low, high = quantiles(image.flatten()[_some_of(mask)], [0.25, 0.75]).tolist()
    fine, middle = (square_mean(image, side).flatten() for side in (_FINE_PX, _MIDDLE_PX))
    # Squares that reach beyond the tissue would measure its border.
    inside = square_mean(mask.float(), _MIDDLE_PX) > 0.999
    some = _some_of(inside if int(inside.sum()) >= _LEAST_PIXELS else mask)
    fine = fine[some]
    finest, medium = (lower_median(d.abs()) for d in (image.flatten()[some] - fine, fine - middle[some]))
    both = mask[:, 1:] & mask[:, :-1]
    return Appearance(
        contrast=(high - low) / _NORMAL_IQR,
        sharpness=finest / medium if medium > 0 else math.nan,
        structure=_correlation(_values(image[:, 1:], both), _values(image[:, :-1], both)),
    )


def _correlation(first: Tensor, second: Tensor) -> float:
    first, second = first.double(), second.double()
    first, second = first.sub_(first.mean()), second.sub_(second.mean())
    power = float(first @ first) * float(second @ second)
    return float(first @ second) / math.sqrt(power) if power > 0 else math.nan


def _values(image: Tensor, mask: Tensor) -> Tensor:
    # Indices are several times as quick as a mask of as many pixels.
    return image.flatten() if bool(mask.all()) else image.flatten()[mask.flatten().nonzero()[:, 0]]


def _some_of(mask: Bool[Tensor, "y x"]) -> Int64[Tensor, " n"]:
    """Return the flat indices of at most about a million pixels of a mask, evenly chosen: more say nothing new."""
    chosen = mask.flatten().nonzero()[:, 0]
    return chosen[:: max(1, chosen.numel() >> 20)]
