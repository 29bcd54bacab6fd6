import pytest
import torch

from ssem_dask.composition.chain.vote import vote
from ssem_dask.composition.smooth import fill_unknown, gaussian_blur


def constant(*values: float) -> torch.Tensor:
    """Candidates `(k, 2, 6, 7)`, each of one displacement in y."""
    out = torch.zeros(len(values), 2, 6, 7)
    for k, value in enumerate(values):
        out[k, 0] = value
    return out


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ((0.0, 1.0, 2.0), 1.0),  # all agree: mean
        ((50.0, 1.0, 2.0), 1.5),  # nearest outvoted
        ((1.0, 50.0, 2.0), 1.5),
        ((0.0, 20.0, 40.0), 0.0),  # none agree: nearest
        ((0.0, 2.5, 5.0), 1.25),  # two pairs of two: the one that holds the nearest
        ((7.0,), 7.0),
        ((1.0, 9.0), 1.0),
    ],
)
def test_largest_agreeing_subset_wins_and_nearest_on_ties(values: tuple[float, ...], winner: float) -> None:
    candidates = constant(*values)
    field, flagged = vote(candidates, weights=torch.ones(len(values), 6, 7), tolerance=3.0, blur=1.0)
    assert torch.allclose(field[0], torch.tensor(winner), atol=1e-3)
    assert torch.equal(field[1], torch.zeros(6, 7))
    assert not flagged.any()


def test_mean_is_weighted_by_confidence() -> None:
    weights = torch.stack([torch.full((6, 7), 0.9), torch.full((6, 7), 0.1)])
    field, _ = vote(constant(0.0, 2.0), weights=weights, tolerance=3.0, blur=0.0)
    assert torch.allclose(field[0], torch.tensor(0.2), atol=5e-3)


def test_unknown_candidates_have_no_voice_even_with_weight() -> None:
    candidates = constant(1.0, 1.5, 2.0)
    candidates[0] = torch.nan
    candidates[1, 1, 2, 3] = torch.nan
    field, flagged = vote(candidates, weights=torch.ones(3, 6, 7), tolerance=3.0, blur=1.0)
    assert not flagged.any()
    assert field[0, 2, 3] == pytest.approx(2.0, abs=1e-3)
    assert field[0, 5, 6] == pytest.approx(1.75, abs=0.02)


def test_zero_or_unknown_weights_do_not_make_the_field_unknown() -> None:
    weights = torch.zeros(2, 6, 7)
    weights[1] = torch.nan
    field, flagged = vote(constant(1.0, 3.0), weights=weights, tolerance=3.0, blur=1.0)
    assert torch.allclose(field[0], torch.tensor(2.0), atol=1e-3)
    assert not flagged.any()


def test_nodes_without_candidates_are_filled_and_flagged() -> None:
    candidates = constant(4.0, 5.0)
    candidates[:, :, :, 4:] = torch.nan
    field, flagged = vote(candidates, weights=torch.ones(2, 6, 7), tolerance=3.0, blur=1.0)
    assert torch.equal(flagged, torch.arange(7).expand(6, 7) >= 4)
    assert torch.allclose(field[0], torch.tensor(4.5), atol=0.05)


def test_a_change_of_majority_does_not_make_a_step() -> None:
    candidates = torch.zeros(3, 2, 8, 40)
    candidates[0, 0] = torch.linspace(0, 6, 40)  # leaves the other two in the middle
    field, _ = vote(candidates, weights=torch.ones(3, 8, 40), tolerance=3.0, blur=2.0)
    steps = field[0].diff(dim=1).abs().max()
    sharp, _ = vote(candidates, weights=torch.ones(3, 8, 40), tolerance=3.0, blur=0.0)
    assert steps < 0.5 * sharp[0].diff(dim=1).abs().max()


def test_fill_keeps_what_is_known_continues_constants_and_gives_zero_where_nothing_is_known() -> None:
    field = torch.full((2, 33, 21), torch.nan)
    assert torch.equal(fill_unknown(field), torch.zeros_like(field))
    field[:, 3:9, 4:8] = 2.5
    filled = fill_unknown(field)
    assert torch.allclose(filled, torch.tensor(2.5))
    known = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fill_unknown(known), known)
    known[:, 4, 4] = torch.nan
    filled = fill_unknown(known)
    keep = torch.isfinite(known)
    assert torch.equal(filled[keep], known[keep])
    assert torch.isfinite(filled).all()


def test_what_is_filled_changes_continuously_as_a_node_loses_all_trust() -> None:
    generator = torch.Generator().manual_seed(1)
    field, trust = torch.randn(2, 9, 12, generator=generator), torch.ones(9, 12)
    field[:, 4, 5] = 50.0  # far from all around it
    trust[2, 2], trust[5:8, 7:10] = 0.3, 0.0
    kept = {}
    for share in (0.0, 1e-6, 0.01, 0.5, 1.0):
        trust[4, 5] = share
        kept[share] = fill_unknown(field, trust=trust)
    assert torch.equal(kept[1.0][:, 4, 5], field[:, 4, 5])
    assert (kept[1e-6] - kept[0.0]).abs().max() < 1e-3
    assert (kept[0.01] - kept[0.0]).abs().max() < 1.0
    assert (kept[0.0][:, 4, 5]).abs().max() < 3.0
    unknown = field.clone()
    unknown[:, 4, 5] = torch.nan
    trust[4, 5] = 1.0
    assert torch.allclose(fill_unknown(unknown, trust=trust), kept[0.0])


def test_little_trust_everywhere_is_as_good_as_much() -> None:
    ramp = torch.arange(32.0).expand(2, 32, 32).clone()
    assert (fill_unknown(ramp, trust=torch.full((32, 32), 0.05)) - ramp).abs().max() < 3.0
    constant = torch.full((2, 8, 8), 7.0)
    assert torch.allclose(fill_unknown(constant, trust=torch.full((8, 8), 1e-9)), constant)


def test_fill_bridges_a_hole_in_a_ramp_closely() -> None:
    ramp = torch.arange(32.0).expand(2, 32, 32).clone()
    field = ramp.clone()
    field[:, 12:20, 12:20] = torch.nan
    assert (fill_unknown(field) - ramp).abs().max() < 1.5


@pytest.mark.parametrize("sigma", [0.0, 0.7, 3.0, 100.0])
def test_blur_keeps_constants_and_does_not_change_the_mean_sign(sigma: float) -> None:
    assert torch.allclose(gaussian_blur(torch.full((2, 5, 9), -3.0), sigma=sigma), torch.tensor(-3.0), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
def test_blur_is_the_gaussian_mean_over_the_nodes_that_exist(sigma: float) -> None:
    values = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(1))
    matrices = []
    for n in (9, 14):
        index = torch.arange(n, dtype=torch.float64)
        matrix = torch.exp(-0.5 * ((index[:, None] - index[None]) / sigma) ** 2)
        matrices.append((matrix / matrix.sum(dim=1, keepdim=True)).float())
    expected = matrices[0] @ values @ matrices[1].T
    assert torch.allclose(gaussian_blur(values, sigma=sigma), expected, atol=1e-3)
