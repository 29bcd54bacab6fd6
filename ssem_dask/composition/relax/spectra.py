"""In-plane spatial frequencies of fields: the cosine transform of the nodes, in bands.

DCT-II, orthonormal, so the transform and its inverse are adjoint. A cosine series repeats the border value, so fields
need not be periodic. A band holds the coefficients whose wavelengths are within a factor of about 1.4; statistics are
pooled over a band, and over dy and dx.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.fft import dct, dctn, idctn
from torch import Tensor

from ssem_dask.types import AnyArray, BoolArray, Float64Array, IndexArray, ShapeYX

MIN_COEFFICIENTS = 8
"""A band of fewer coefficients is merged with the next: too few to fit three variances to."""
BAND_RATIO = 2**0.5
"""Ratio of the frequencies at the two ends of a band."""


def to_spectrum(fields: AnyArray) -> AnyArray:
    """Return the cosine coefficients of fields `(…, y, x)`."""
    return np.asarray(dctn(fields, axes=(-2, -1), norm="ortho"))


def from_spectrum(coefficients: AnyArray) -> AnyArray:
    """Return the fields of cosine coefficients `(…, y, x)`."""
    return np.asarray(idctn(coefficients, axes=(-2, -1), norm="ortho"))


@dataclass(frozen=True, slots=True)
class CosineTransform:
    """The transform on a device: scipy's on the CPU, two products with a matrix of cosines on a GPU."""

    y: Tensor | None
    """`(y, y)` float32, rows are cosines; None on the CPU."""
    x: Tensor | None
    """`(x, x)` float32, rows are cosines; None on the CPU."""

    @classmethod
    def of(cls, shape: ShapeYX, *, device: torch.device) -> "CosineTransform":
        """Return the transform of fields of `shape` nodes."""
        # torch has no DCT; on a GPU products with matrices of some hundred rows are as fast as its FFT would be.
        if device.type == "cpu":
            return cls(None, None)
        y, x = (torch.from_numpy(np.asarray(dct(np.eye(n), axis=0, norm="ortho"))).float().to(device) for n in shape)
        return cls(y, x)

    def forward(self, fields: Float[Tensor, "*n y x"]) -> Float[Tensor, "*n y x"]:
        """Return the coefficients of float32 fields."""
        if self.y is None or self.x is None:
            return torch.from_numpy(to_spectrum(fields.numpy()))
        return self.y @ fields @ self.x.T

    def inverse(self, coefficients: Float[Tensor, "*n y x"]) -> Float[Tensor, "*n y x"]:
        """Return the fields of float32 coefficients."""
        if self.y is None or self.x is None:
            return torch.from_numpy(from_spectrum(coefficients.numpy()))
        return self.y.T @ coefficients @ self.x


@dataclass(frozen=True, slots=True)
class Bands:
    """The band of each coefficient."""

    index: Int[IndexArray, "y x"]
    """Band of each coefficient, low to high frequency."""
    wavelengths: Float[Float64Array, " bands"]
    """Shortest wavelength of each band, in nodes."""

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.wavelengths)

    @classmethod
    def of(cls, shape: ShapeYX) -> "Bands":
        """Return the bands of fields of `shape` nodes."""
        # Coefficient i of n has i half periods over n nodes.
        fy, fx = (np.arange(n) / (2.0 * n) for n in shape)
        frequency = np.hypot(fy[:, None], fx[None, :])
        lowest = 0.5 / max(shape)
        # The factor keeps a frequency at the edge of a band from falling on either side by rounding.
        level = np.floor(np.log(np.maximum(frequency, lowest) / lowest * (1 + 1e-9)) / np.log(BAND_RATIO))
        # Bands of equal width in the logarithm; narrow ones at low frequencies wait until they hold enough.
        index = np.zeros(shape, dtype=np.intp)
        wavelengths: list[float] = []
        pending = np.zeros(shape, dtype=np.bool_)
        for value in range(int(level.max()) + 1):
            pending |= level == value
            if pending.sum() >= MIN_COEFFICIENTS:
                index[pending] = len(wavelengths)
                wavelengths.append(1.0 / float(frequency[pending].max()))
                pending = np.zeros(shape, dtype=np.bool_)
        # Too few coefficients are left at the highest frequencies: they join the last band.
        if pending.any() or not wavelengths:
            last = max(len(wavelengths) - 1, 0)
            index[pending] = last
            shortest = 1.0 / max(float(frequency[index == last].max()), lowest)
            wavelengths = [*wavelengths[:last], shortest]
        return cls(index=index, wavelengths=np.asarray(wavelengths))

    def elastic(self, band: int) -> BoolArray:
        """Return which coefficients `(y, x)` belong to a band, without those that hold the affine part of a field."""
        # A constant and the longest cosine along either axis, which is nearly a slope.
        i, j = np.indices(self.index.shape)
        return np.asarray((self.index == band) & (i + j > 1))
