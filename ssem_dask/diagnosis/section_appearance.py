"""Appearance of a section by itself: contrast, sharpness, structure. A gain and an offset change only the contrast."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

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
    low, high = torch.quantile(_thinned(image[mask]), torch.tensor([0.25, 0.75])).tolist()
    fine, middle = (avg_pool2d(image[None], side, stride=1, padding=side // 2)[0] for side in (_FINE_PX, _MIDDLE_PX))
    # Squares that reach beyond the tissue would measure its border.
    inside = avg_pool2d(mask[None].float(), _MIDDLE_PX, stride=1, padding=_MIDDLE_PX // 2)[0] > 0.999
    if int(inside.sum()) < _LEAST_PIXELS:
        inside = mask
    finest, medium = (float(_thinned(d[inside]).abs().median()) for d in (image - fine, fine - middle))
    both = mask[:, 1:] & mask[:, :-1]
    return Appearance(
        contrast=(high - low) / _NORMAL_IQR,
        sharpness=finest / medium if medium > 0 else math.nan,
        structure=_correlation(image[:, 1:][both], image[:, :-1][both]),
    )


def _correlation(first: Tensor, second: Tensor) -> float:
    first, second = first.double() - first.double().mean(), second.double() - second.double().mean()
    power = float(first @ first) * float(second @ second)
    return float(first @ second) / math.sqrt(power) if power > 0 else math.nan


def _thinned(values: Tensor) -> Tensor:
    """Return at most about a million of the values: torch.quantile takes 16 million at most."""
    return values[:: max(1, values.numel() >> 20)]
