"""How well the known nodes of a pair determine its affine part."""

import numpy as np
import torch

from ssem_dask.composition.relax.relative import pair_affine_weights
from ssem_dask.field.grid import Grid

GRID = Grid((24, 40), 16.0)


def weight_of(*known: tuple[slice, slice], value: float = 1.0) -> float:
    weights = torch.zeros(1, 1, *GRID.shape)
    for rows, columns in known:
        weights[0, 0, rows, columns] = value
    return float(pair_affine_weights(weights, grid=GRID)[0, 0])


def test_a_pair_that_is_known_everywhere_or_here_and_there_has_full_weight() -> None:
    everywhere = slice(None), slice(None)
    assert weight_of(everywhere) == 1.0
    assert weight_of(everywhere, value=0.1) == 1.0
    assert weight_of((slice(0, None, 2), slice(None)), (slice(1, None, 2), slice(0, None, 3))) == 1.0


def test_the_smaller_the_known_corner_the_less_weight_has_a_pair() -> None:
    half = weight_of((slice(None), slice(0, 20)))
    quarter = weight_of((slice(0, 12), slice(0, 20)))
    few = weight_of((slice(0, 4), slice(0, 5)))
    assert 0.2 < half < 0.5
    assert half > 2 * quarter > 4 * few
    assert few < 1e-3


def test_nodes_on_a_line_and_no_nodes_determine_nothing() -> None:
    assert weight_of((slice(3, 4), slice(None))) < 1e-6
    assert weight_of() < 1e-6


def test_both_ends_of_a_section_determine_it_better_than_one() -> None:
    both = weight_of((slice(None), slice(0, 5)), (slice(None), slice(35, None)))
    assert both > 5 * weight_of((slice(None), slice(0, 10)))
    assert np.isfinite(both)
