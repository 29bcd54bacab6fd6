"""The joint solve on the nodes: distortion and natural motion of all sections from weighted pair fields.

Unknowns are d_z and m_z at every spatial frequency, with the variances of the frequency's band as their prior; see
`separation` for the model along z. An observation at node x of pair (k, z) carries weight w, between 0 (missing) and
about 1, so the posterior mean minimises

    Σ_kz (T - H(d, m))ᵀ W½ N⁻¹ W½ (T - H(d, m)) + prior(d, m),

with N the noise spectrum of pairs k. Solved by conjugate gradients; the preconditioner takes W to be constant over
each pair's plane, where the problem falls apart into one banded system along z for each frequency. With such weights
it is exact and one iteration does.
"""

from dataclasses import dataclass

import numpy as np

from ssem_dask.composition.separation import SequenceModel, Variances
from ssem_dask.composition.spectra import Bands, from_spectrum, to_spectrum
from ssem_dask.types import Float64Array

_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class Solution:
    """Posterior means on the nodes."""

    distortion: Float64Array
    """`(Z, 2, y, x)`."""
    motion: Float64Array
    """`(Z, 2, y, x)`: natural motion from z to z-1."""
    expected: Float64Array
    """`(K, Z, 2, y, x)`: what they make of the observations."""


def solve(
    observed: Float64Array, weights: Float64Array, *, bands: Bands, fitted: list[Variances], iterations: int
) -> Solution:
    """Find the posterior means.

    Args:
        observed: T `(K, Z, 2, y, x)`, no NaN.
        weights: `(K, Z, y, x)`, 0 where T is not known.
        bands: of the frequencies.
        fitted: variances of each band.
        iterations: at most so many steps of conjugate gradients.
    """
    plane = weights.mean(axis=(2, 3))
    model = SequenceModel(np.where(plane > _LEAST_WEIGHT, plane, 0.0))
    unit = SequenceModel(np.where(plane > _LEAST_WEIGHT, 1.0, 0.0))
    values, root = model.pick(observed), np.sqrt(model.pick(weights))[:, None]
    n, shape = len(values), observed.shape[-2:]
    noise = np.asarray([v.noise for v in fitted])[bands.index]
    sharpness = unit.precision[:, None, None, None] / noise
    factors = [model.factor(v) for v in fitted]
    members = [np.nonzero((bands.index == b).ravel())[0] for b in range(bands.count)]

    def by_band(coefficients: Float64Array) -> Float64Array:
        """The preconditioner: all frequencies of a band at once."""
        flat = coefficients.reshape(len(coefficients), 2, -1)
        out = np.empty_like(flat)
        for factor, inside in zip(factors, members, strict=True):
            part = flat[:, :, inside]
            out[:, :, inside] = factor.solve(part.reshape(len(part), -1)).reshape(part.shape)
        return out.reshape(coefficients.shape)

    def data(residual: Float64Array) -> Float64Array:
        """Hᵀ W½ N⁻¹ W½ of values on the nodes."""
        back = to_spectrum(root * from_spectrum(sharpness * to_spectrum(root * residual)))
        return model.adjoint(back.reshape(n, -1)).reshape(-1, 2, *shape)

    def forward(unknowns: Float64Array) -> Float64Array:
        return from_spectrum(model.apply(unknowns.reshape(len(unknowns), -1)).reshape(n, 2, *shape))

    def prior(unknowns: Float64Array) -> Float64Array:
        flat = unknowns.reshape(len(unknowns), 2, -1)
        out = np.empty_like(flat)
        for factor, inside in zip(factors, members, strict=True):
            part = flat[:, :, inside]
            out[:, :, inside] = factor.prior(part.reshape(len(part), -1)).reshape(part.shape)
        return out.reshape(unknowns.shape)

    right = data(values)
    unknowns = np.zeros_like(right)
    left = right
    step = by_band(left)
    direction, power = step, float((left * step).sum())
    first = power
    for _ in range(iterations):
        if power <= 1e-6 * first or power <= 0.0:
            break
        image = data(forward(direction)) + prior(direction)
        length = power / float((direction * image).sum())
        unknowns = unknowns + length * direction
        left = left - length * image
        step = by_band(left)
        power, previous = float((left * step).sum()), power
        direction = step + (power / previous) * direction
    fields = from_spectrum(unknowns)
    return Solution(
        distortion=fields[0:-1:2],
        motion=fields[1:-1:2] + fields[-1],
        expected=np.nan_to_num(model.spread(forward(unknowns))),
    )
