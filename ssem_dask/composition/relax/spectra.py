"""In-plane spatial frequencies of fields: the cosine transform of the nodes, in bands.

DCT-II, orthonormal, so a transform and its inverse are adjoint. A band holds the coefficients whose wavelength is
within a factor of about 1.4; statistics are pooled over a band, and over dy and dx.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, dctn, idctn
from torch import Tensor

from ssem_dask.types import AnyArray, Float64Array, ShapeYX

LEAST_COEFFICIENTS = 8
"""A band of fewer coefficients is joined to the next: too few to fit three variances to."""
STEP = 2**0.5


def to_spectrum(fields: AnyArray) -> AnyArray:
    """Coefficients of `(…, y, x)`."""
    return np.asarray(dctn(fields, axes=(-2, -1), norm="ortho"))


def from_spectrum(coefficients: AnyArray) -> AnyArray:
    """Fields of coefficients `(…, y, x)`."""
    return np.asarray(idctn(coefficients, axes=(-2, -1), norm="ortho"))


@dataclass(frozen=True, slots=True)
class Waves:
    """The transform on a device: on a GPU two products with a matrix of cosines."""

    y: Tensor | None
    """`(y, y)` float32, rows are cosines; None on the CPU."""
    x: Tensor | None

    @classmethod
    def of(cls, shape: ShapeYX, *, device: torch.device) -> "Waves":
        """Of fields of `shape` nodes."""
        if device.type == "cpu":
            return cls(None, None)
        y, x = (torch.from_numpy(np.asarray(dct(np.eye(n), axis=0, norm="ortho"))).float().to(device) for n in shape)
        return cls(y, x)

    def forth(self, fields: Tensor) -> Tensor:
        """Coefficients of `(…, y, x)` float32."""
        if self.y is None or self.x is None:
            return torch.from_numpy(to_spectrum(fields.numpy()))
        return self.y @ fields @ self.x.T

    def back(self, coefficients: Tensor) -> Tensor:
        """Fields of coefficients `(…, y, x)` float32."""
        if self.y is None or self.x is None:
            return torch.from_numpy(from_spectrum(coefficients.numpy()))
        return self.y.T @ coefficients @ self.x


@dataclass(frozen=True, slots=True)
class Bands:
    """Which coefficient belongs to which band."""

    index: NDArray[np.intp]
    """`(y, x)`: band of each coefficient, coarse to fine."""
    wavelengths: Float64Array
    """Shortest wavelength of each band, in nodes."""

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.wavelengths)


def bands_of(shape: ShapeYX) -> Bands:
    """Bands for fields of `shape` nodes."""
    # Coefficient i of n has i half periods over n nodes.
    fy, fx = (np.arange(n) / (2.0 * n) for n in shape)
    frequency = np.hypot(fy[:, None], fx[None, :])
    lowest = 0.5 / max(shape)
    level = np.floor(np.log(np.maximum(frequency, lowest) / lowest * (1 + 1e-9)) / np.log(STEP)).astype(np.intp)
    index = np.zeros(shape, dtype=np.intp)
    wavelengths: list[float] = []
    pending = np.zeros(shape, dtype=np.bool_)
    for value in range(int(level.max()) + 1):
        pending |= level == value
        if pending.sum() >= LEAST_COEFFICIENTS:
            index[pending] = len(wavelengths)
            wavelengths.append(1.0 / float(frequency[pending].max()))
            pending = np.zeros(shape, dtype=np.bool_)
    if pending.any() or not wavelengths:
        last = max(len(wavelengths) - 1, 0)
        index[pending] = last
        shortest = 1.0 / max(float(frequency[index == last].max()), lowest)
        wavelengths = [*wavelengths[:last], shortest]
    return Bands(index=index, wavelengths=np.asarray(wavelengths))
