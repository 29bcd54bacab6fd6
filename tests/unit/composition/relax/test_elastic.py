"""Solving for a window of sections with its overlap gives what solving for all of them gives."""

import numpy as np
import torch

from ssem_dask.composition.relax.elastic import SHORT_NODES, solve_elastic
from ssem_dask.composition.relax.node_weights import node_weights
from ssem_dask.composition.relax.relative import split_pairs
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.field.grid import Grid
from tests.support.relaxed_sequences import (
    NODES,
    SPACING,
    compose_pairs,
    natural_fields,
    observed,
    smooth_fields,
    still,
)


def test_a_window_equals_the_whole() -> None:
    rng = np.random.default_rng(9)
    count, overlap, core = 120, 32, range(50, 70)
    values = observed(smooth_fields(rng, count, sigma=3.0), natural_fields(rng, count, sigma=1.0), 2)
    values += rng.normal(size=values.shape) * 0.1
    pairs, confidence = compose_pairs(values)
    grid, config = Grid(NODES, SPACING), RelaxConfig(rounds=2, iterations=2)
    weights = node_weights(pairs, confidence)
    whole = solve_elastic(
        split_pairs(pairs, weights, grid=grid),
        weights,
        turn=still(count),
        grid=grid,
        fitted=None,
        certainty=0.0,
        config=config,
        short=SHORT_NODES * SPACING,
    )
    reach = slice(core.start - overlap, core.stop + overlap)
    part, sure = pairs[:, reach].clone(), confidence[:, reach]
    for k in (1, 2):
        part[k - 1, :k] = torch.nan
    weights = node_weights(part, sure)
    window = solve_elastic(
        split_pairs(part, weights, grid=grid),
        weights,
        turn=still(part.shape[1]),
        grid=grid,
        fitted=whole.fitted,
        certainty=0.0,
        config=config,
        short=SHORT_NODES * SPACING,
    )
    difference = window.fields[overlap : overlap + len(core)] - whole.fields[core.start : core.stop]
    assert float(difference.abs().max()) < 0.05 * float(whole.fields.std())
