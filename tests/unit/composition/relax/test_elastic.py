"""The elastic part: windows against the whole, and fitting apart from solving."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ssem_dask.composition.relax.elastic import (
    HIGH_FREQUENCY_NODES,
    ElasticProblem,
    fit_elastic,
    relax_elastic,
    solve_elastic,
)
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


def problem(pairs: Tensor, confidence: Tensor, config: RelaxConfig) -> ElasticProblem:
    grid, weights = Grid(NODES, SPACING), node_weights(pairs, confidence)
    return ElasticProblem(
        split=split_pairs(pairs, weights, grid=grid),
        weights=weights,
        affine_correction=still(pairs.shape[1]),
        grid=grid,
        certainty=0.0,
        config=config,
        high_frequency_px=HIGH_FREQUENCY_NODES * SPACING,
    )


def made(seed: int, count: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    values = observed(smooth_fields(rng, count, sigma=3.0), natural_fields(rng, count, sigma=1.0), 2)
    return compose_pairs(values + rng.normal(size=values.shape) * 0.1)


def test_a_window_equals_the_whole() -> None:
    count, overlap, core = 120, 32, range(50, 70)
    pairs, confidence = made(9, count)
    config = RelaxConfig(rounds=2, iterations=2)
    whole = relax_elastic(problem(pairs, confidence, config))
    reach = slice(core.start - overlap, core.stop + overlap)
    part = pairs[:, reach].clone()
    for k in (1, 2):
        part[k - 1, :k] = torch.nan
    window = solve_elastic(problem(part, confidence[:, reach], config), whole.variances)
    difference = window.fields[overlap : overlap + len(core)] - whole.fields[core.start : core.stop]
    assert float(difference.abs().max()) < 0.05 * float(whole.fields.std())


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_fitting_alone_finds_the_variances_of_the_joint_pass(rounds: int) -> None:
    elastic = problem(*made(3, 24), RelaxConfig(rounds=rounds, iterations=2))
    assert fit_elastic(elastic) == relax_elastic(elastic).variances


@pytest.mark.parametrize(("count", "natural_motion"), [(5, "keep"), (24, "remove")])
def test_nothing_is_fitted_if_neighbours_are_to_match(count: int, natural_motion: str) -> None:
    config = RelaxConfig.model_validate({"natural_motion": natural_motion, "iterations": 2})
    elastic = problem(*made(4, count), config)
    assert fit_elastic(elastic) == []
    joint, matched = relax_elastic(elastic), solve_elastic(elastic, [])
    assert joint.variances == matched.variances == []
    assert torch.equal(joint.fields, matched.fields)
