"""Sections that pairs tie to each other: which have a place, and into which pieces the stack falls."""

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssem_dask.types import BoolArray, Float64Array

PLACED_SHARE = 0.1
"""Support of a pair, relative to the usual best one, above which it ties its two sections."""


def tied_pairs(support: Float[Float64Array, "K Z"], *, usual: Float[Float64Array, "K Z"] | None = None) -> BoolArray:
    """Return which pairs (z, z-k) tie their sections to each other.

    Args:
        support: mean confidence of the pair fields over all nodes, 0 where unknown.
        usual: support that says what is usual; None: `support` itself.
    """
    best = _best_support(support if usual is None else usual)
    middle = float(np.median(best[best > 0])) if bool((best > 0).any()) else 0.0
    tied: BoolArray = (support > 0) & (support >= PLACED_SHARE * middle)
    return tied


def placed_sections(
    support: Float[Float64Array, "K Z"], *, usual: Float[Float64Array, "K Z"] | None = None
) -> BoolArray:
    """Return which sections (z,) a pair ties to another section; arguments as of `tied_pairs`."""
    return tied_sections(tied_pairs(support, usual=usual))


def tied_sections(links: BoolArray) -> BoolArray:
    """Return the sections (z,) that any of the pairs (k, z) ties to another."""
    placed: BoolArray = np.asarray(links.any(axis=0))
    for k, row in enumerate(links, start=1):
        placed[:-k] |= row[k:]
    return placed


def _best_support(support: Float64Array) -> Float64Array:
    best: Float64Array = np.asarray(support.max(axis=0))
    for k, row in enumerate(support, start=1):
        best[:-k] = np.maximum(best[:-k], row[k:])
    return best


def connected_pieces(links: BoolArray, *, placed: BoolArray) -> tuple[tuple[int, ...], ...]:
    """Return the connected pieces of two or more sections, if there are several."""
    k, z = np.nonzero(links)
    count = links.shape[1]
    _, labels = connected_components(coo_array((np.ones(len(k)), (z, z - k - 1)), shape=(count, count)), directed=False)
    pieces = [np.flatnonzero((labels == label) & placed) for label in np.unique(labels)]
    pieces = sorted((piece for piece in pieces if len(piece) > 1), key=lambda piece: int(piece[0]))
    return tuple(tuple(int(z) for z in piece) for piece in pieces) if len(pieces) > 1 else ()
