"""The joint solve on the nodes: distortion and natural motion of all sections from weighted pair fields.

Unknowns are d_z and m_z at every spatial frequency, with the variances of the frequency's band as their prior; see
`sequence` for the model along z. If every node of a pair had the same weight, each frequency would be one banded system
along z, solved exactly. With weights w between 0 (missing) and 1 that differ from node to node, an observation is
replaced by

    w T + (1 - w) H(d, m),

so the prediction of the solution itself fills in for what is not known (imputation, as in the EM algorithm: Dempster,
Laird & Rubin, J. Royal Statistical Society B 39, 1977). This fixed point is found by iteration, each step as cheap as
the exact solve. Noise may have any spectrum, and holes do not leak into high frequencies, as they do if weights
multiply a coloured noise precision.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.composition.relax.spectra import Bands, CosineTransform
from ssem_dask.composition.separation.sequence import UNKNOWNS_PER_SECTION, SequenceModel, Variances
from ssem_dask.types import Float64Array


@dataclass(frozen=True, slots=True)
class Solution:
    """Posterior means on the nodes."""

    distortion: Float[Tensor, "Z 2 y x"]
    """d."""
    motion: Float[Tensor, "Z 2 y x"]
    """m: natural motion from z to z-1."""
    expected: Float[Tensor, "K Z 2 y x"]
    """H(d, m): the observations that they predict."""


def solve_on_nodes(
    observed: Float[Tensor, "K Z 2 y x"],
    weights: Float[Tensor, "K Z y x"],
    *,
    by_pair: Float[Float64Array, "K Z"],
    expected: Float[Tensor, "K Z 2 y x"],
    bands: Bands,
    priors: list[Variances],
    iterations: int,
) -> Solution:
    """Return the posterior means, on the device of the observations; matrices along z are made in double precision.

    Args:
        observed: T; anything finite where it is not known.
        weights: of the nodes, 0 where T is not known.
        by_pair: weights of the pairs as a whole, see `pair_weights`.
        expected: a first guess of T.
        bands: of the frequencies.
        priors: variances of each band.
        iterations: of filling in.
    """
    device = observed.device
    model = SequenceModel(by_pair)
    n, shape = len(model.precision), (observed.shape[-2], observed.shape[-1])
    if n == 0:
        # Nothing was observed: the sections stay where they are.
        zeros = observed.new_zeros(model.count, *observed.shape[2:])
        return Solution(distortion=zeros, motion=zeros.clone(), expected=torch.zeros_like(observed))
    pairs = tuple(torch.from_numpy(index).to(device) for index in model.indices)
    # Pairs without any weight are left out of the system.
    values, guess = observed[pairs], expected[pairs]
    # Relative to the pair's weight, which the model along z has already; better nodes count as much.
    share = (weights[pairs] / torch.from_numpy(by_pair).to(weights)[pairs][:, None, None]).clamp(max=1.0)[:, None]
    transform = CosineTransform.of(shape, device=device)
    # Two matrices per band: from observations to unknowns, and from observations to predicted observations.
    exact = [_posterior_matrix(model, v).to(device) for v in priors]
    design = torch.from_numpy(model.apply(np.eye(UNKNOWNS_PER_SECTION * model.count + 1))).to(device)
    posteriors, projections = [p.float() for p in exact], [(design @ p).float() for p in exact]
    order = _BandOrder.of(bands, device=device)

    def apply_by_band(matrices: list[Tensor], spectrum: Tensor) -> Tensor:
        # One product per band; all coefficients of a band share its matrix.
        out = spectrum.new_empty(len(matrices[0]), spectrum.shape[1])
        for matrix, span in zip(matrices, order.spans, strict=True):
            out[:, span] = matrix @ spectrum[:, span]
        out = _take_columns(out, order.inverse)
        return transform.inverse(out.reshape(-1, 2, *shape))

    spectrum = torch.zeros(0)
    for _ in range(iterations):
        # w T + (1 - w) H(d, m), then the exact solve of every frequency.
        filled = torch.lerp(guess, values, share)
        spectrum = _take_columns(transform.forward(filled).reshape(n, -1), order.forward)
        guess = apply_by_band(projections, spectrum)
    # The iterations need predicted observations alone; the unknowns are computed once, from the last spectrum.
    fields = apply_by_band(posteriors, spectrum)
    everywhere = torch.zeros_like(observed)
    everywhere[pairs] = guess
    # The last unknown is the mean motion, which belongs to the motion of every section.
    return Solution(
        distortion=fields[0:-1:UNKNOWNS_PER_SECTION],
        motion=fields[1:-1:UNKNOWNS_PER_SECTION] + fields[-1],
        expected=everywhere,
    )


@dataclass(frozen=True, slots=True)
class _BandOrder:
    """The order in which the coefficients of a band, of both components, are consecutive.

    One gathering for all bands, since a gathering takes as long as the products with the matrices.
    """

    forward: Tensor
    """Index of each coefficient in that order."""
    inverse: Tensor
    """The way back."""
    spans: list[slice]
    """Coefficients of each band in that order."""

    @classmethod
    def of(cls, bands: Bands, *, device: torch.device) -> "_BandOrder":
        # dy and dx share their statistics, so both belong to the same band.
        index = np.tile(bands.index.ravel(), 2)
        order = torch.from_numpy(np.argsort(index, kind="stable")).to(device)
        ends = np.bincount(index, minlength=bands.count).cumsum().tolist()
        spans = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return cls(order, torch.argsort(order), spans)


def _take_columns(values: Tensor, order: Tensor) -> Tensor:
    """Return columns of `(n, m)` in another order; on a CPU by numpy, which takes a third of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().take(order.numpy(), axis=1))
    return values.index_select(1, order)


def _posterior_matrix(model: SequenceModel, variances: Variances) -> Tensor:
    """Return the matrix `(3Z + 1, n)` from observations to the posterior means of the unknowns.

    Windows are short enough for whole matrices, and products of these run faster than banded solves, above all on GPUs.
    """
    # The columns are the responses to unit observations.
    weighted = np.diag(model.precision / variances.noise)
    return torch.from_numpy(model.factor(variances).solve(model.adjoint(weighted)))
