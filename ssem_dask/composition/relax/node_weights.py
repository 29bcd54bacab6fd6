"""What the observations are worth in the solve: of nodes, and of pairs as a whole."""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.device import plane_batches
from ssem_dask.types import Float64Array

LEAST_WEIGHT = 0.003
"""Weight of a known node without any confidence, relative to a typical one."""
PLANE_QUANTILE = 0.8
"""A pair is worth as much as this quantile of its known nodes; better ones count as much."""


def node_weights(pairs: Tensor, confidence: Tensor, *, typical: float | None = None) -> Tensor:
    """Weights `(K, Z, y, x)` float32 of the observations: relative to a typical one and at most 1; 0 where unknown.

    Args:
        pairs: `(K, Z, 2, y, x)`.
        confidence: `(K, Z, y, x)`.
        typical: confidence; None takes the median of k = 1.
    """
    known = torch.isfinite(pairs).all(dim=2) & (confidence > 0)
    values = torch.where(known, torch.nan_to_num(confidence), torch.zeros_like(confidence)).float()
    if typical is None:
        typical = typical_confidence(values[0])
    return torch.where(known, (values / typical).clamp(LEAST_WEIGHT, 1.0), torch.zeros_like(values))


def typical_confidence(near: Tensor) -> float:
    """The median of what is known of confidences of neighbours; 1 where nothing is."""
    known = near[near > 0]
    return float(known.median()) if known.numel() else 1.0


def plane_weights(weights: Tensor) -> Float64Array:
    """What each pair is worth as a whole `(K, Z)`, of node weights `(K, Z, y, x)`; 0 where no node is known."""
    planes = weights.flatten(0, 1).flatten(1)
    found = []
    for batch in plane_batches(planes, like=weights):
        values = _sorted(batch)  # what is not known comes first
        known = (values > 0).sum(dim=1, keepdim=True)
        place = values.shape[1] - known + (known - 1).clamp(min=0) * PLANE_QUANTILE
        below, last = place.floor().long(), values.shape[1] - 1
        low, high = (values.gather(1, at.clamp(max=last)) for at in (below, below + 1))
        found.append(torch.where(known > 0, low + (high - low) * (place - below), torch.zeros_like(low))[:, 0])
    return torch.cat(found).double().cpu().numpy().reshape(tuple(weights.shape[:2]))


def _sorted(values: Tensor) -> Tensor:
    """Rows `(n, m)`, each in ascending order; on a CPU by numpy, which takes a tenth of torch's time."""
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort().values


def spoken_for(weights: Tensor) -> Tensor:
    """`(Z, y, x)`: where any pair, of this section or to it, is known."""
    known = weights > 0
    out = known.any(dim=0)
    for k in range(1, len(weights) + 1):
        out[:-k] |= known[k - 1, k:]
    return out
