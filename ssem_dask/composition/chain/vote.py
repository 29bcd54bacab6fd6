"""Vector voting: one field out of several candidates for it, of which some may be wrong.

At each node the largest subset of candidates that agree with each other within a tolerance wins; of equally large ones
the one with the nearest neighbour (the earliest candidates). The result is the weighted mean of the winners.
Their weights are blurred over the nodes, so that the result does not jump where the majority changes.
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.composition.smooth import fill_unknown, gaussian_blur

WEIGHT_FLOOR = 1e-3
"""Weight of a winner whose own weight is 0: it counts only if no better one does."""


class Vote(NamedTuple):
    """The result of a vote."""

    field: Float[Tensor, "2 y x"]
    """No NaN."""
    unknown: Bool[Tensor, "y x"]
    """Where no candidate was known: there the field is continued smoothly from known nodes, or 0 if there are none."""


def vote(
    candidates: Float[Tensor, "k 2 y x"], *, weights: Float[Tensor, "k y x"], tolerance: float, blur: float
) -> Vote:
    """Vote on a field, node by node.

    Args:
        candidates: nearest neighbour first, mip-0 px; NaN is unknown and has no vote.
        weights: 0 or more; NaN counts as 0.
        tolerance: largest distance in mip-0 px between candidates that agree.
        blur: sigma in nodes of the weights' blur.
    """
    winners = _winners(candidates, tolerance=tolerance)
    # The floor lets a lone candidate without confidence win.
    known = torch.isfinite(candidates).all(dim=1)
    strength = torch.nan_to_num(weights).clamp(min=0.0) + WEIGHT_FLOOR
    share = gaussian_blur(torch.where(winners, strength, torch.zeros_like(strength)), sigma=blur)
    share = torch.where(known, share, torch.zeros_like(share))
    # A node whose winners' weights all blurred away elsewhere still belongs to its winners.
    share = share + 1e-6 * winners
    values = torch.where(known[:, None], candidates, torch.zeros_like(candidates))
    total = share.sum(dim=0)
    mean = (values * share[:, None]).sum(dim=0) / total.clamp(min=1e-12)
    unknown = ~known.any(dim=0)
    field = torch.where(unknown, torch.full_like(mean, torch.nan), mean)
    return Vote(fill_unknown(field), unknown)


def _winners(candidates: Tensor, *, tolerance: float) -> Tensor:
    """Return which candidates belong to the winning subset of their node, `(k, y, x)` bool."""
    count = candidates.shape[0]
    distance = torch.linalg.vector_norm(candidates[:, None] - candidates[None], dim=2)
    agree = distance <= tolerance  # False where either is NaN; the diagonal says whether a candidate is known
    winners = torch.zeros_like(agree[0])
    undecided = torch.ones_like(winners[0])
    # Largest subsets first, and of equal size in lexicographic order: the first that agrees is the winner. There are
    # 2^k subsets, of at most a handful of candidates.
    for size in range(count, 0, -1):
        for subset in combinations(range(count), size):
            members = torch.tensor(subset, device=candidates.device)
            chosen = undecided & agree[members][:, members].all(dim=0).all(dim=0)
            winners[members] |= chosen
            undecided = undecided & ~chosen
    return winners
