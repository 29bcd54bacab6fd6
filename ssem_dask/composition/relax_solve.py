"""The joint solve on the nodes: distortion and natural motion of all sections from weighted pair fields.

Unknowns are d_z and m_z at every spatial frequency, with the variances of the frequency's band as their prior; see
`separation` for the model along z. Were every node of a pair worth the same, each frequency would be one banded system
along z, solved exactly. Where nodes differ, an observation of weight w between 0 (missing) and 1 stands for
w T + (1 - w) H(d, m): what the solution itself expects fills in for what is not known. That fixed point is found by
iteration, each as cheap as the exact solve. Noise may have any spectrum, and holes do not leak into fine frequencies,
as they do where weights multiply a coloured noise precision.
"""

from dataclasses import dataclass

import numpy as np

from ssem_dask.composition.separation import UNKNOWNS, SequenceModel, Variances
from ssem_dask.composition.spectra import Bands, from_spectrum, to_spectrum
from ssem_dask.types import Float64Array

PLANE_QUANTILE = 0.8
"""A pair is worth as much as this quantile of its known nodes; better ones count as much."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Posterior means on the nodes."""

    distortion: Float64Array
    """`(Z, 2, y, x)`."""
    motion: Float64Array
    """`(Z, 2, y, x)`: natural motion from z to z-1."""
    expected: Float64Array
    """`(K, Z, 2, y, x)`: what they make of the observations."""


def plane_weights(weights: Float64Array) -> Float64Array:
    """What each pair is worth as a whole `(K, Z)`, of node weights `(K, Z, y, x)`; 0 where no node is known."""
    out = np.zeros(weights.shape[:2])
    for index in np.ndindex(*out.shape):
        known = weights[index][weights[index] > 0]
        if known.size:
            out[index] = np.quantile(known, PLANE_QUANTILE)
    return out


def solve(
    observed: Float64Array,
    weights: Float64Array,
    *,
    expected: Float64Array,
    bands: Bands,
    fitted: list[Variances],
    iterations: int,
) -> Solution:
    """Find the posterior means.

    Args:
        observed: T `(K, Z, 2, y, x)`; anything finite where it is not known.
        weights: `(K, Z, y, x)`, 0 where T is not known.
        expected: a first guess of T, like `observed`.
        bands: of the frequencies.
        fitted: variances of each band.
        iterations: of filling in.
    """
    plane = plane_weights(weights)
    model = SequenceModel(plane)
    values, guess = model.pick(observed), model.pick(expected)
    share = np.minimum(model.pick(weights) / model.pick(plane)[:, None, None], 1.0)[:, None]
    n, shape = len(values), observed.shape[-2:]
    factors = [model.factor(v) for v in fitted]
    members = [np.nonzero((bands.index == b).ravel())[0] for b in range(bands.count)]
    unknowns = np.zeros((UNKNOWNS * model.count + 1, 2, shape[0] * shape[1]))
    for _ in range(iterations):
        spectrum = to_spectrum(guess + share * (values - guess)).reshape(n, 2, -1)
        for variances, factor, inside in zip(fitted, factors, members, strict=True):
            part = spectrum[:, :, inside].reshape(n, -1)
            right = model.adjoint(model.precision[:, None] * part / variances.noise)
            unknowns[:, :, inside] = factor.solve(right).reshape(len(unknowns), 2, -1)
        guess = from_spectrum(model.apply(unknowns.reshape(len(unknowns), -1)).reshape(n, 2, *shape))
    fields = from_spectrum(unknowns.reshape(-1, 2, *shape))
    return Solution(
        distortion=fields[0:-1:UNKNOWNS],
        motion=fields[1:-1:UNKNOWNS] + fields[-1],
        expected=np.nan_to_num(model.spread(guess)),
    )
