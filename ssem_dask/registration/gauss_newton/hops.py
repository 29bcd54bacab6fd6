"""Paths of neighbour pairs, along which a farther pair gets its start.

A start is only as good as the pairs on its path. If a section between is spoilt, by a fold or as an image of another
place, its own pairs are wrong in part, and would take every pair across it along. Such a path is *broken*. A section
that shows no tissue, or agrees with no neighbour, is *skipped*: the sections on both sides of it become neighbours.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.confidence import measure_disagreement

LEAST_AGREEING = 0.8
"""Share of the nodes of two neighbours that must agree forward and back. Sound sections reach 0.94 and more, those on
either side of a large fold 0.6."""
LEAST_AGREEING_ACROSS = 0.5
"""Share of the nodes of two sections on both sides of a skipped one, which resemble each other less."""
_BATCH = 8

Pair = tuple[int, int]
"""(fixed, moving), indices in the window."""


def path_between(pair: Pair, *, skipped: Collection[int] = ()) -> list[Pair]:
    """List the pairs of neighbours that lead from the fixed section to the moving one.

    Args:
        pair: the two sections.
        skipped: sections between them that the path does not touch.
    """
    direction = 1 if pair[1] > pair[0] else -1
    between = [z for z in range(pair[0] + direction, pair[1], direction) if z not in skipped]
    return list(pairwise([pair[0], *between, pair[1]]))


def neighbour_pairs(pairs: Iterable[Pair], *, skipped: Collection[int] = ()) -> list[Pair]:
    """List the pairs of neighbours that the given ones are composed of, each once; `skipped` as of `path_between`."""
    return sorted({hop for pair in pairs if min(pair) >= 0 for hop in path_between(pair, skipped=skipped)})


def spoilt_sections(broken: Collection[Pair], *, count: int) -> set[int]:
    """Find the sections between two neighbours with both of which the pair is broken.

    Args:
        broken: pairs of neighbours in both directions, see `broken_hops`.
        count: number of sections.
    """
    return {z for z in range(1, count - 1) if (z, z - 1) in broken and (z + 1, z) in broken}


def broken_hops(fields: Mapping[Pair, Tensor], hops: Iterable[Pair], *, nodes: Grid, tolerance: float) -> set[Pair]:
    """Find neighbours of whose nodes too few agree forward and back, so that nothing should start through them.

    Args:
        fields: fields `(2, y, x)` on the nodes, both directions of each pair.
        hops: pairs of neighbours; those without a field are left out.
        nodes: their grid.
        tolerance: longest round trip of nodes that agree, mip-0 px.

    Returns:
        Both directions of each such pair.
    """
    hops = sorted({(max(hop), min(hop)) for hop in hops} & fields.keys())
    hops = [(a, b) for a, b in hops if (b, a) in fields]
    shares = []
    for first in range(0, len(hops), _BATCH):
        batch = hops[first : first + _BATCH]
        forward = torch.stack([fields[pair] for pair in batch])
        backward = torch.stack([fields[moving, fixed] for fixed, moving in batch])
        distance = measure_disagreement(forward=forward, backward=backward, nodes=nodes)
        shares.append((distance <= tolerance).float().mean(dim=(1, 2)))
    # One transfer for all: reading a tensor per pair would wait for the GPU each time.
    values = torch.cat(shares).tolist() if shares else []
    least = [LEAST_AGREEING if a == b + 1 else LEAST_AGREEING_ACROSS for a, b in hops]
    broken = [hop for hop, share, wanted in zip(hops, values, least, strict=True) if share < wanted]
    return {pair for a, b in broken for pair in ((a, b), (b, a))}
