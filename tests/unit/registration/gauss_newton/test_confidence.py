import pytest
import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.confidence import (
    MatchMeasures,
    folded_nodes,
    measure_disagreement,
    measure_match,
    raw_confidence,
    relative_confidence,
)
from ssem_dask.registration.gauss_newton.solver import FeatureLevel

GRID = Grid((32, 32), 4.0)
NODES = Grid((8, 8), 16.0)


def _features(seed: int, n: int = 1) -> torch.Tensor:
    noise = torch.randn(n, 3, 36, 36, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1) * 5


def _level(values: torch.Tensor, valid: torch.Tensor | None = None) -> FeatureLevel:
    return FeatureLevel(values, torch.ones(len(values), 32, 32) if valid is None else valid, GRID)


def _measures(a, b, *, valid=None, shift=(0.0, 0.0)) -> MatchMeasures:
    displacement = torch.tensor(shift).reshape(1, 2, 1, 1).expand(len(a), 2, 32, 32)
    return measure_match(displacement, fixed=_level(a, valid), moving=_level(b), nodes=NODES, cutoff=2.0)


def test_equal_features_correlate_fully_and_unrelated_ones_do_not():
    a = _features(0)
    same = _measures(a, 3.0 * a + 1.0)
    assert float(same.correlation.min()) == pytest.approx(1.0, abs=1e-3)
    assert float(_measures(a, _features(1)).correlation.abs().mean()) < 0.3


def test_only_the_right_displacement_correlates():
    a = _features(2)
    moved = torch.roll(a, shifts=(0, 2), dims=(2, 3))  # the point x of a is 2 px = 8 mip-0 px further in moved
    right = _measures(a, moved, shift=(0.0, 8.0)).correlation[..., 2:-2]
    assert float(right.min()) == pytest.approx(1.0, abs=1e-3)
    assert float(_measures(a, moved).correlation.mean()) < 0.6


def test_empty_surroundings_are_not_tissue_and_have_no_hessian():
    a = _features(3)
    valid = torch.ones(1, 32, 32)
    valid[:, :, :16] = 0.0
    found = _measures(a, a, valid=valid)
    assert float(found.tissue[..., :3].max()) < 0.25
    assert float(found.tissue[..., 5:].min()) == pytest.approx(1.0)
    assert found.hessian.isfinite().all()
    assert float(found.hessian[..., 0].max()) == 0.0


def test_confidence_is_relative_to_the_median_and_0_where_unknown():
    raw = torch.tensor([[1.0, 2.0, 3.0], [100.0, 0.0, 50.0]])
    known = torch.tensor([[True, True, True], [True, True, False]])
    scaled = relative_confidence(raw, known=known)
    torch.testing.assert_close(scaled, torch.tensor([[0.25, 0.5, 0.75], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(relative_confidence(7.0 * raw, known=known), scaled)
    assert float(relative_confidence(raw, known=torch.zeros_like(known)).max()) == 0.0


def test_chance_correlation_is_worth_nothing():
    ones = torch.ones(1, 2, 2)
    assert float(raw_confidence(MatchMeasures(ones, 0.05 * ones, ones)).max()) == 0.0
    assert float(raw_confidence(MatchMeasures(ones, -ones, ones)).max()) == 0.0
    assert float(raw_confidence(MatchMeasures(ones, ones, ones)).min()) == pytest.approx(0.95**2)


def test_there_and_back_agrees_exactly_for_inverse_fields():
    forward = torch.zeros(1, 2, 8, 8)
    forward[:, 0], forward[:, 1] = 3.0, -5.0
    assert float(measure_disagreement(forward=forward, backward=-forward, nodes=NODES).max()) < 1e-5
    torch.testing.assert_close(
        measure_disagreement(forward=forward, backward=torch.zeros_like(forward), nodes=NODES),
        torch.full((1, 8, 8), 34**0.5),
    )


def test_folds_are_marked_at_their_corners():
    field = torch.zeros(2, 6, 6)
    assert not folded_nodes(field[None], spacing=16.0)[0].any()
    field[1, 3, 3] = 40.0  # beyond its neighbour, 16 px away
    marked = folded_nodes(field[None], spacing=16.0)[0]
    assert bool(marked[3, 3])
    assert bool(marked[3, 4])
    assert not marked[0].any()
    assert folded_nodes(field[None, :, :1], spacing=16.0).shape == (1, 1, 6)
