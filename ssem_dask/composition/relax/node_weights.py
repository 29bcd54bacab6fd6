"""Weights of the observations in the solve: of nodes, and of pairs as a whole."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.field.device import plane_batches
from ssem_dask.types import Float64Array

MIN_WEIGHT = 0.003
"""Weight of a known node without any confidence, relative to a typical one."""
PAIR_QUANTILE = 0.8
"""The weight of a pair is this quantile of the weights of its known nodes; better ones count as much."""


def node_weights(
    pairs: Float[Tensor, "K Z 2 y x"], confidence: Float[Tensor, "K Z y x"], *, typical: float | None = None
) -> Float[Tensor, "K Z y x"]:
    """Return float32 weights of the observations: relative to a typical one and at most 1; 0 where unknown.

    Args:
        pairs: pair fields; NaN is unknown.
        confidence: of their nodes.
        typical: confidence of weight 1; None takes the median of k = 1.
    """
    known = torch.isfinite(pairs).all(dim=2) & (confidence > 0)
    values = torch.where(known, torch.nan_to_num(confidence), torch.zeros_like(confidence)).float()
    # The median of neighbours is a yardstick that a few bad pairs do not change.
    if typical is None:
        typical = median_confidence(values[0])
    # The floor keeps known nodes apart from unknown ones, which have weight 0; above the typical, more is not better.
    return torch.where(known, (values / typical).clamp(MIN_WEIGHT, 1.0), torch.zeros_like(values))


def median_confidence(confidence: Float[Tensor, "*n"]) -> float:
    """Return the median of known confidences of neighbours, those above 0; 1 if nothing is known."""
    known = confidence[confidence > 0]
    return float(known.median()) if known.numel() else 1.0


def pair_weights(weights: Float[Tensor, "K Z y x"]) -> Float[Float64Array, "K Z"]:
    """Return the weight of each pair as a whole, from the weights of its nodes; 0 if no node is known."""
    planes = weights.flatten(0, 1).flatten(1)
    quantiles = []
    for batch in plane_batches(planes, like=weights):
        values = _sort_rows(batch)  # unknown nodes have weight 0, so they come first
        known = (values > 0).sum(dim=1, keepdim=True)
        # torch.quantile takes whole rows only, and at most 16 million values.
        position = values.shape[1] - known + (known - 1).clamp(min=0) * PAIR_QUANTILE
        below, last = position.floor().long(), values.shape[1] - 1
        low, high = (values.gather(1, index.clamp(max=last)) for index in (below, below + 1))
        quantile = low + (high - low) * (position - below)
        quantiles.append(torch.where(known > 0, quantile, torch.zeros_like(low))[:, 0])
    return torch.cat(quantiles).double().cpu().numpy().reshape(tuple(weights.shape[:2]))


def _sort_rows(values: Tensor) -> Tensor:
    """Return rows `(n, m)`, each in ascending order; on a CPU by numpy, which takes a tenth of torch's time."""
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort().values


def observed_mask(weights: Float[Tensor, "K Z *n"]) -> Bool[Tensor, "Z *n"]:
    """Return where any pair with weight belongs to the section, as its fixed or as its moving section."""
    known = weights > 0
    # A pair at index [k-1, z] observes both z and z-k.
    out = known.any(dim=0)
    for k in range(1, len(weights) + 1):
        out[:-k] |= known[k - 1, k:]
    return out
