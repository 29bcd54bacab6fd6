"""A distribution of non-negative values that is accumulated in constant memory.

Quantiles come from a histogram with logarithmic bins, the idea of DDSketch (Masson, Rim & Lee 2019,
https://doi.org/10.14778/3352063.3352135).
"""

import math

import torch
from torch import Tensor

_LOWEST, _HIGHEST = 1e-4, 1e6
_BINS = 20000
_STEP = math.log(_HIGHEST / _LOWEST) / _BINS
"""Logarithmic width of a bin: 0.12 %, the resolution of the quantiles."""


class Distribution:
    """Quantiles and moments of the values added so far; NaN is skipped.

    Quantiles are accurate to 0.12 %, and values below 1e-4 count as 0. The mean square is exact, in float64.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(_BINS + 1, dtype=torch.int64)
        self._total = 0
        self._squares = 0.0
        self._sum = 0.0

    def add(self, values: Tensor) -> None:
        """Add values of any shape.

        Raises:
            ValueError: a value is negative.
        """
        known = values[torch.isfinite(values)].double().reshape(-1)
        if known.numel() == 0:
            return
        if float(known.min()) < 0:
            raise ValueError("Distribution.add: got a negative value, but it holds lengths.")
        # Bin 0 holds values that are practically zero; bin b > 0 is centred at LOWEST · exp(b · STEP).
        index = (torch.log(known.clamp(min=1e-12) / _LOWEST) / _STEP).round().clamp(0, _BINS).long()
        self._counts += torch.bincount(index, minlength=_BINS + 1)
        self._total += known.numel()
        self._squares += float(known.square().sum())
        self._sum += float(known.sum())

    @property
    def count(self) -> int:
        """Number of values."""
        return self._total

    def quantile(self, share: float) -> float:
        """Return the smallest value that at least `share` of the values do not exceed; NaN if there is none."""
        if self._total == 0:
            return math.nan
        rank = max(1, math.ceil(share * self._total))
        index = int(torch.searchsorted(self._counts.cumsum(0), rank))
        return 0.0 if index == 0 else _LOWEST * math.exp(index * _STEP)

    @property
    def median(self) -> float:
        """The median; NaN if there is no value."""
        return self.quantile(0.5)

    @property
    def mean(self) -> float:
        """The mean; NaN if there is no value."""
        return self._sum / self._total if self._total else math.nan

    @property
    def rms(self) -> float:
        """Root mean square; NaN if there is no value."""
        return math.sqrt(self._squares / self._total) if self._total else math.nan
