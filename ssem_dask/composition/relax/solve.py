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
import torch
from torch import Tensor

from ssem_dask.composition.relax.spectra import Bands, Waves
from ssem_dask.composition.separation.sequence import UNKNOWNS, SequenceModel, Variances
from ssem_dask.types import Float64Array


@dataclass(frozen=True, slots=True)
class Solution:
    """Posterior means on the nodes."""

    distortion: Tensor
    """`(Z, 2, y, x)`."""
    motion: Tensor
    """`(Z, 2, y, x)`: natural motion from z to z-1."""
    expected: Tensor
    """`(K, Z, 2, y, x)`: what they make of the observations."""


def solve(
    observed: Tensor,
    weights: Tensor,
    *,
    plane: Float64Array,
    expected: Tensor,
    bands: Bands,
    fitted: list[Variances],
    iterations: int,
) -> Solution:
    """Find the posterior means, where the observations are; matrices along z are made in double precision.

    Args:
        observed: T `(K, Z, 2, y, x)`; anything finite where it is not known.
        weights: `(K, Z, y, x)`, 0 where T is not known.
        plane: `(K, Z)`, what the pairs are worth as a whole, see `plane_weights`.
        expected: a first guess of T, like `observed`.
        bands: of the frequencies.
        fitted: variances of each band.
        iterations: of filling in.
    """
    device = observed.device
    model = SequenceModel(plane)
    n, shape = len(model.precision), (observed.shape[-2], observed.shape[-1])
    places = tuple(torch.from_numpy(index).to(device) for index in model.places)
    values, guess = observed[places], expected[places]
    worth = weights[places] / torch.from_numpy(plane).to(weights)[places][:, None, None]
    share = worth.clamp(max=1.0)[:, None]
    waves = Waves.of(shape, device=device)
    exact = [_posterior(model, v).to(device) for v in fitted]
    design = torch.from_numpy(model.apply(np.eye(UNKNOWNS * model.count + 1))).to(device)
    posteriors, projections = [p.float() for p in exact], [(design @ p).float() for p in exact]
    order, back, spans = _by_bands(bands, device=device)

    def on_nodes(matrices: list[Tensor], spectrum: Tensor) -> Tensor:
        out = spectrum.new_empty(len(matrices[0]), spectrum.shape[1])
        for matrix, span in zip(matrices, spans, strict=True):
            out[:, span] = matrix @ spectrum[:, span]
        out = _taken(out, back)
        return waves.back(out.reshape(-1, 2, *shape))

    spectrum = torch.zeros(0)
    for _ in range(iterations):
        spectrum = _taken(waves.forth(torch.lerp(guess, values, share)).reshape(n, -1), order)
        guess = on_nodes(projections, spectrum)
    fields = on_nodes(posteriors, spectrum)
    everywhere = torch.zeros_like(observed)
    everywhere[places] = guess
    return Solution(distortion=fields[0:-1:UNKNOWNS], motion=fields[1:-1:UNKNOWNS] + fields[-1], expected=everywhere)


def _by_bands(bands: Bands, *, device: torch.device) -> tuple[Tensor, Tensor, list[slice]]:
    """The order that puts the coefficients of a band, of both components, side by side; the way back; where bands lie.

    One gathering for all bands, since it takes as long as the products with the matrices.
    """
    index = np.tile(bands.index.ravel(), 2)
    order = torch.from_numpy(np.argsort(index, kind="stable")).to(device)
    ends = np.bincount(index, minlength=bands.count).cumsum().tolist()
    return order, torch.argsort(order), [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """Columns of `(n, m)` in another order; on a CPU by numpy, which takes a third of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().take(order.numpy(), axis=1))
    return values.index_select(1, order)


def _posterior(model: SequenceModel, variances: Variances) -> Tensor:
    """The matrix `(3Z + 1, n)` from observations to the posterior means of the unknowns.

    Windows are short enough for whole matrices, and products of these run faster than banded solves, above all on GPUs.
    """
    weighted = np.diag(model.precision / variances.noise)
    return torch.from_numpy(model.factor(variances).solve(model.adjoint(weighted)))
