"""Paths of neighbour pairs, along which a farther pair gets its start.

A start is only as good as the pairs on its path. If a section between is spoilt, by a fold or as an image of another
place, its own pairs are wrong in part, and would take every pair across it along. Such a path is *broken*.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.confidence import measure_disagreement

LEAST_AGREEING = 0.8
"""Share of the nodes of two neighbours that must agree forward and back. Sound sections reach 0.94 and more, those on
either side of a large fold 0.6."""
_BATCH = 8

Pair = tuple[int, int]
"""(fixed, moving), indices in the window."""


def path_between(pair: Pair) -> list[Pair]:
    """List the neighbour pairs that lead from the fixed section to the moving one."""
    direction = 1 if pair[1] > pair[0] else -1
    return [(z, z + direction) for z in range(pair[0], pair[1], direction)]


def neighbour_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """List the k = 1 pairs that the given ones are composed of, each once."""
    return sorted({hop for pair in pairs if min(pair) >= 0 for hop in path_between(pair)})


def broken_hops(fields: Mapping[Pair, Tensor], *, nodes: Grid, tolerance: float) -> set[Pair]:
    """Find neighbours of whose nodes too few agree forward and back, so that nothing should start through them.

    Args:
        fields: fields `(2, y, x)` on the nodes, both directions of each pair.
        nodes: their grid.
        tolerance: longest round trip of nodes that agree, mip-0 px.

    Returns:
        Both directions of each such pair.
    """
    hops = [(a, b) for a, b in fields if a == b + 1 and (b, a) in fields]
    shares = []
    for first in range(0, len(hops), _BATCH):
        batch = hops[first : first + _BATCH]
        forward = torch.stack([fields[pair] for pair in batch])
        backward = torch.stack([fields[moving, fixed] for fixed, moving in batch])
        distance = measure_disagreement(forward=forward, backward=backward, nodes=nodes)
        shares.append((distance <= tolerance).float().mean(dim=(1, 2)))
    # One transfer for all: reading a tensor per pair would wait for the GPU each time.
    values = torch.cat(shares).tolist() if shares else []
    broken = [hop for hop, share in zip(hops, values, strict=True) if share < LEAST_AGREEING]
    return {pair for a, b in broken for pair in ((a, b), (b, a))}
