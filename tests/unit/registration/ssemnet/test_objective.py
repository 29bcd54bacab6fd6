import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.registration.ssemnet.objective import (
    Target,
    data_term,
    drop_largest,
    feature_spread,
    mask_on_features,
    smoothness_term,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _term(moving, fixed, *, mask=None, drop=0.0, weights=(1.0,)):
    ones = torch.ones(moving.shape[1:])
    targets = [Target(fixed, ones, w) for w in weights]
    spread = feature_spread(fixed, mask=ones)
    return data_term(
        moving, targets=targets, moving_mask=ones if mask is None else mask, spreads=[spread] * len(weights), drop=drop
    )


def test_equal_features_cost_nothing_and_unrelated_ones_about_one():
    a, b = _random(4, 64, 64, seed=1), _random(4, 64, 64, seed=2)
    assert float(_term(a, a)) == 0.0
    assert float(_term(a, b)) == pytest.approx(1.0, abs=0.05)


def test_the_scale_of_the_features_and_the_size_of_the_map_do_not_matter():
    a, b = _random(4, 64, 64, seed=1), _random(4, 64, 64, seed=2)
    assert float(_term(100 * a, 100 * b)) == pytest.approx(float(_term(a, b)), rel=1e-4)
    assert float(_term(a.repeat(1, 2, 2), b.repeat(1, 2, 2))) == pytest.approx(float(_term(a, b)), rel=1e-4)


def test_errors_outside_the_mask_do_not_count():
    a, b = _random(2, 16, 16, seed=1), _random(2, 16, 16, seed=1)
    b[:, :, 8:] += 100.0
    mask = torch.ones(16, 16)
    mask[:, 8:] = 0.0
    assert float(_term(b, a, mask=mask)) == 0.0
    assert float(_term(b, a)) > 1.0


def test_neighbours_count_by_their_weights():
    a, b = _random(2, 16, 16, seed=1), _random(2, 16, 16, seed=2)
    assert float(_term(a, b, weights=(0.7, 0.3))) == pytest.approx(float(_term(a, b)), rel=1e-5)


@given(share=st.floats(0.01, 0.9), seed=st.integers(0, 100))
def test_loss_drop_leaves_out_the_largest_errors(share, seed):
    error = torch.rand(20, 20, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(20, 20)
    mask[:5] = 0.0
    kept = drop_largest(error, mask=mask, share=share)
    dropped = (mask > 0) & (kept == 0)
    assert int(dropped.sum()) == pytest.approx(int(share * 300), abs=1)
    assert (kept[:5] == 0).all()
    if dropped.any() and (kept > 0).any():
        assert float(error[dropped].min()) >= float(error[kept > 0].max())


def test_no_loss_drop_changes_nothing():
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drop_largest(_random(8, 8), mask=mask, share=0.0), mask)


def test_the_mask_is_resized_bilinearly():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, :6] = True
    small = mask_on_features(mask, shape=(4, 4))
    torch.testing.assert_close(small[0], torch.tensor([1.0, 0.5, 0.0, 0.0]))


def test_regularity_has_the_three_terms():
    values = torch.zeros(2, 5, 5)
    values[1] = torch.arange(5) * 3.0  # dv_x/dx = 3 px per node spacing of 10 px
    only = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
    assert float(smoothness_term(values, spacing=10.0, **{**only, "beta": 2.0})) == pytest.approx(2.0 * 0.3**2)
    assert float(smoothness_term(values, spacing=10.0, **{**only, "gamma": 2.0})) == 0.0
    assert float(smoothness_term(values, spacing=10.0, **{**only, "alpha": 2.0})) == pytest.approx(
        2.0 * float((values / 10).square().sum(dim=0).mean())
    )


def test_a_shift_costs_only_alpha():
    values = torch.full((2, 4, 4), 7.0)
    assert float(smoothness_term(values, spacing=10.0, alpha=0.0, beta=5.0, gamma=5.0)) == 0.0


def test_the_spread_ignores_what_is_masked():
    features = _random(3, 32, 32)
    mask = torch.ones(32, 32)
    mask[:, 16:] = 0.0
    spoilt = features.clone()
    spoilt[:, :, 16:] = 1e3
    assert float(feature_spread(spoilt, mask=mask)) == pytest.approx(float(feature_spread(features, mask=mask)))
    assert float(feature_spread(torch.ones(3, 8, 8), mask=torch.zeros(8, 8))) > 0
