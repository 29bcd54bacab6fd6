"""Stateless random numbers: each is a hash of the seed and of integer lattice coordinates.

The finaliser is the 32-bit mixer `lowbias32` (Wellons 2018, https://nullprogram.com/blog/2018/07/31/).
Smooth noise is a cubic B-spline whose coefficients are such values; along an axis of knot distance h its
autocovariance is the B-spline of degree 7 over h, close to a Gaussian of standard deviation 0.85 h.
"""

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

from ssem_dask.types import Float32Array, Float64Array

UInt32Array: TypeAlias = NDArray[np.uint32]
IntArray: TypeAlias = NDArray[np.int64]

_AUTOCOVARIANCE = BSpline.basis_element(np.arange(9.0), extrapolate=False)
_VARIANCE = float(_AUTOCOVARIANCE(4.0))


def mix(values: UInt32Array) -> UInt32Array:
    """Mix bits: a bijection of the 32-bit integers that leaves no visible structure."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x7FEB352D)
    values ^= values >> np.uint32(15)
    values *= np.uint32(0x846CA68B)
    values ^= values >> np.uint32(16)
    return values


def hashed(seed: int, *keys: ArrayLike) -> UInt32Array:
    """Hash the seed and integer keys that broadcast against each other; the result is at least 1-D.

    Leading keys that are plain integers cost almost nothing.
    """
    state = _mix_int(_mix_int(seed & _MASK) ^ (seed >> 32) ^ 0x9E3779B9)
    rest = list(keys)
    while rest and isinstance(rest[0], int):
        state = _mix_int(state + _spread_int(rest.pop(0)))
    result = np.array([state], dtype=np.uint32)
    for key in rest:
        word = np.atleast_1d(np.asarray(key)).astype(np.uint32) * np.uint32(_GOLDEN)
        result = mix(result + word)
    return result


_MASK, _GOLDEN = 0xFFFFFFFF, 0x9E3779B1


def _spread_int(key: Any) -> int:
    return int(key) * _GOLDEN


def _mix_int(value: int) -> int:
    """Apply `mix` to one integer."""
    value &= _MASK
    value = (value ^ value >> 16) * 0x7FEB352D & _MASK
    value = (value ^ value >> 15) * 0x846CA68B & _MASK
    return value ^ value >> 16


def uniform(seed: int, *keys: ArrayLike) -> Float32Array:
    """Return uniform random numbers in [0, 1), float32."""
    return (hashed(seed, *keys) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def spline_weights(position: Float64Array) -> tuple[IntArray, Float32Array]:
    """Return the first of the four knots that matter at `position` (in knot distances), and their weights `(4, …)`."""
    base = np.floor(position)
    t = position - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6.0
    return base.astype(np.int64) - 1, weights.astype(np.float32)


def spline_matrix(position: Float64Array) -> tuple[int, Float32Array]:
    """Return the first knot, and the matrix `(n, knots)` from knot values to the values at `n` positions."""
    first, weights = spline_weights(position)
    start = int(first.min())
    matrix = np.zeros((len(position), int(first.max()) - start + 4), dtype=np.float32)
    rows = np.arange(len(position))
    for tap in range(4):
        matrix[rows, first - start + tap] += weights[tap]
    return start, matrix


def knots_at(seed: int, *keys: ArrayLike, z: float, z_period: ArrayLike) -> Float32Array:
    """Return knot values of unit variance that vary smoothly along z.

    Args:
        seed: seed of the volume.
        keys: stream and lattice coordinates; they broadcast, the result has their shape.
        z: depth, nm.
        z_period: knot distance along z, nm; broadcasts with the keys.
    """
    first, weights = spline_weights(np.atleast_1d(z / np.asarray(z_period, dtype=np.float64)))
    # The last axis holds the four knots along z, over which the weighted sum is taken.
    words = [key if isinstance(key, int) else np.asarray(key)[..., None] for key in keys]
    values = uniform(seed, *words, first[..., None] + np.arange(4))
    values -= np.float32(0.5)
    total = np.einsum("...k,...k->...", values, np.moveaxis(weights, 0, -1))
    # A uniform value has variance 1/12, a cubic B-spline of them _VARIANCE times that.
    return np.asarray(total * np.float32((12.0 / _VARIANCE) ** 0.5), dtype=np.float32)


def unit_plane(knots: Float32Array) -> Float32Array:
    """Scale knot values of unit variance so that the plane interpolated from them has unit variance."""
    return knots * np.float32(1.0 / _VARIANCE)


@lru_cache
def increment_ratio(step: float, *, period: float) -> float:
    """Return the root mean square difference of unit noise over `step`, for knots `period` apart."""
    share = float(_AUTOCOVARIANCE(4.0 + step / period)) / _VARIANCE if step < 4 * period else 0.0
    return float((2.0 * (1.0 - share)) ** 0.5)


def scattered_planes(
    seed: int, streams: tuple[int, ...], *, y: Float64Array, x: Float64Array, z: float, period: float, z_period: float
) -> Float32Array:
    """Return independent smooth unit noises `(streams, …)` at scattered positions of the plane at depth z.

    Args:
        seed: seed of the volume.
        streams: one per noise.
        y, x: positions `(…)`, nm.
        z: depth, nm.
        period, z_period: knot distance in the plane and along z, nm.
    """
    first_y, weight_y = spline_weights(y / period)
    first_x, weight_x = spline_weights(x / period)
    start_y, start_x = int(first_y.min()), int(first_x.min())
    rows = np.arange(start_y, int(first_y.max()) + 4)
    columns = np.arange(start_x, int(first_x.max()) + 4)
    stream = np.array(streams)[:, None, None]
    knots = unit_plane(knots_at(seed, stream, rows[:, None], columns[None, :], z=z, z_period=z_period))
    index = (first_y - start_y) * len(columns) + (first_x - start_x)
    flat = knots.reshape(len(streams), -1)
    total = np.zeros((len(streams), *y.shape), dtype=np.float32)
    for i in range(4):
        line = weight_x[0] * flat[:, index + i * len(columns)]
        for j in range(1, 4):
            line += weight_x[j] * flat[:, index + (i * len(columns) + j)]
        total += weight_y[i] * line
    return total
