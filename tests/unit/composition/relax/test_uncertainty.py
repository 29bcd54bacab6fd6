"""The uncertainty of the fields is that of their errors: in good places, in gaps, at holes, at wrong pairs."""

import numpy as np
import pytest
import torch

from ssem_dask.composition.relax.node_weights import pair_weights
from ssem_dask.composition.relax.section_fields import RelaxResult
from ssem_dask.composition.relax.spectra import Bands
from ssem_dask.composition.relax.uncertainty import discount_outliers, elastic_variance, section_variance
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.types import Float64Array
from tests.support.sequences import SPACING, Sequence, coloured, sequence

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

COUNT = 36
SEEDS = (1, 2, 3)
GAPS = ([6], [12, 13], [19, 20, 21])
WRONG = 29
HOLE = (slice(3, 8), slice(4, 9))
GOOD = [2, 3, 9, 16, 24, 25, 32, 33]


def against_course(error: Float64Array, *, lost: list[int]) -> Float64Array:
    """Errors `(Z, 2, y, x)` against the line between the nearest sections on either side that are not lost."""
    out = np.empty_like(error)
    for z in range(len(error)):
        before = next((y for y in range(z - 1, max(z - 4, -1), -1) if y not in lost), None)
        after = next((y for y in range(z + 1, min(z + 4, len(error))) if y not in lost), None)
        if before is None or after is None:
            other = error[before] if before is not None else error[after] if after is not None else 0.0
        else:
            share = (z - before) / (after - before)
            other = (1 - share) * error[before] + share * error[after]
        out[z] = error[z] - other
    return out


def within(ratios: Float64Array) -> tuple[float, float]:
    """Shares of the errors within one and within two standard deviations."""
    return float((np.abs(ratios) < 1).mean()), float((np.abs(ratios) < 2).mean())


def folded(result: RelaxResult) -> bool:
    return any(float(jacobian_determinant(f, spacing=SPACING).min()) <= 0 for f in result.fields)


def measured(made: Sequence, *, lost: list[int]) -> tuple[Float64Array, Float64Array, RelaxResult]:
    """Errors against the course, as shares of the uncertainty; the uncertainty; and the result."""
    result = made.relaxed()
    error = against_course(result.fields.double().numpy() - made.distortion, lost=lost)
    sigma = result.uncertainty.double().numpy()
    return error / sigma[:, None], sigma, result


@pytest.fixture(scope="module")
def damaged() -> list[tuple[Float64Array, Float64Array, RelaxResult]]:
    """For each seed what is measured on a sequence with gaps of one, two and three sections."""
    out = []
    for seed in SEEDS:
        made = sequence(seed, count=COUNT)
        for gap in GAPS:
            made.lose(gap)
        out.append(measured(made, lost=[z for gap in GAPS for z in gap]))
    return out


def test_covariances_are_those_of_the_solve() -> None:
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 1.0, size=(3, 15))
    weights[:, 6] = 0.0
    factor = SequenceModel(weights).factor(Variances(9.0, 1.0, 0.9, 0.04, 0.25, tilt=2.0))
    full = factor.solve(np.eye(46))[0:-1:3, 0:-1:3]
    found = factor.distortion_covariance(reach=6)
    for k in range(7):
        np.testing.assert_allclose(found[k, : 15 - k], np.diagonal(full, k), atol=1e-10)


def test_errors_are_as_often_within_the_uncertainty_as_they_should(
    damaged: list[tuple[Float64Array, Float64Array, RelaxResult]],
) -> None:
    one, two = within(np.concatenate([ratios[GOOD] for ratios, _, _ in damaged]))
    assert 0.60 < one < 0.80  # Gauss has 0.68
    assert 0.92 < two < 0.99  # and 0.95


@pytest.mark.parametrize("gap", GAPS)
def test_so_they_are_in_gaps(gap: list[int], damaged: list[tuple[Float64Array, Float64Array, RelaxResult]]) -> None:
    # A section is one draw of a shift: three seeds have few of them, hence the wide limits.
    one, two = within(np.concatenate([ratios[gap] for ratios, _, _ in damaged]))
    assert 0.40 < one < 0.95
    assert two > 0.85
    for _, sigma, _ in damaged:
        assert sigma[gap].min() > 3 * sigma[GOOD].mean()


def test_so_they_are_beside_gaps(damaged: list[tuple[Float64Array, Float64Array, RelaxResult]]) -> None:
    one, two = within(np.concatenate([ratios[[5, 7, 11, 14, 18, 22]] for ratios, _, _ in damaged]))
    assert 0.55 < one < 0.85
    assert two > 0.90
    assert not any(folded(result) for _, _, result in damaged)


def test_a_wrong_pair_makes_its_sections_uncertain_and_the_others_no_less() -> None:
    ratios = []
    for seed in SEEDS:
        made = sequence(seed, count=COUNT)
        wrong = coloured(np.random.default_rng(seed), 1, size=25.0, power=1.0)[0]
        made.pairs[0, WRONG] += torch.from_numpy(wrong).float()
        ratio, sigma, result = measured(made, lost=[])
        ratios.append(ratio)
        assert sigma[[WRONG - 1, WRONG]].mean() > 1.3 * sigma[GOOD].mean()
        assert not folded(result)
    # It passes for noise in part, so the uncertainty is too large rather than too small.
    for places in ([WRONG - 1, WRONG], GOOD):
        one, two = within(np.concatenate([ratio[places] for ratio in ratios]))
        assert one > 0.65
        assert two > 0.93


@pytest.mark.parametrize("known", [False, True])
def test_five_bad_sections_in_a_row_are_bridged_and_uncertain(known: bool) -> None:
    made, bad = sequence(7, count=COUNT), list(range(14, 19))
    made.lose(bad)
    if known:  # every pair field of theirs is something, and nothing says that it is wrong
        rng = np.random.default_rng(7)
        for k in range(1, 4):
            for z in range(k, COUNT):
                if {z, z - k} & set(bad):
                    made.pairs[k - 1, z] = torch.from_numpy(coloured(rng, 1, size=12.0, power=1.0)[0]).float()
    result = made.relaxed()
    sigma = result.uncertainty.numpy()
    far = [z for z in range(3, COUNT - 3) if min(abs(z - b) for b in bad) > 3]
    error = against_course(result.fields.double().numpy() - made.distortion, lost=bad)
    assert not folded(result)
    assert float(result.fields.abs().max()) < 1.5 * np.abs(made.distortion).max()
    assert np.sqrt(np.square(error[far]).mean()) < 1.0
    # Wrong pairs pass for noise in part, everywhere.
    assert sigma[bad].mean() > (1.5 if known else 3.0) * sigma[far].mean()


def test_a_lost_block_is_bridged_and_uncertain() -> None:
    ratios = []
    for seed in SEEDS:
        made, lost = sequence(20 + seed, count=COUNT), [15, 16, 17]
        made.lose(lost, HOLE)
        result = made.relaxed()
        sigma = result.uncertainty.numpy()
        error = against_course(result.fields.double().numpy() - made.distortion, lost=[])
        ratios.append((error / sigma[:, None])[lost][:, :, *HOLE])
        assert not folded(result)
        assert sigma[lost][:, *HOLE].min() > 1.5 * sigma[lost][:, :, 11:].mean()
        assert sigma[lost][:, :, 11:].mean() < 1.3 * sigma[5:12].mean()
    one, two = within(np.concatenate(ratios))
    assert 0.45 < one < 0.90
    assert two > 0.80


def test_where_nothing_was_told_apart_nothing_is_said() -> None:
    result = sequence(3, count=5).relaxed()
    assert torch.isnan(result.uncertainty).all()
    assert torch.isnan(result.natural).all()


def test_sections_without_evidence_of_distortion_are_nearly_certain() -> None:
    result = sequence(4, count=COUNT, distorted=False).relaxed()
    assert float(result.uncertainty.max()) < 1.0
    assert float(result.fields.abs().max()) < 0.1


def test_natural_motion_is_kept_with_its_affine_part() -> None:
    made = sequence(5, count=60)
    natural = made.relaxed().natural.double().numpy()
    assert np.isnan(natural[0]).all()
    left = natural[1:] - made.motion[1:]
    assert np.square(left).mean() < 0.35 * np.square(made.motion[1:]).mean()


def test_outliers_are_worth_no_more_than_they_are_off_by() -> None:
    weights = torch.ones(1, 4)
    weights[0, 0] = 0.0
    far, outlier = 30.0, 4.0
    robust = torch.tensor([[1.0, 1.0, 1.0, 1.0 / (1.0 + (far / outlier) ** 2)]])
    worth = discount_outliers(weights, robust=robust, outlier=outlier)
    assert worth[0, 1] == worth[0, 2] == 1.0
    assert worth[0, 3] == 0.0  # the only pair of section 3, and it fits nothing


def totals(weights: Float64Array) -> Float64Array:
    """Return the weights of all pairs that a section belongs to `(Z, …)`, one pair after the other."""
    out = np.zeros(weights.shape[1:])
    for k in range(1, len(weights) + 1):
        for z in range(k, weights.shape[1]):
            out[z] += weights[k - 1, z] / k**2
            out[z - k] += weights[k - 1, z] / k**2
    return out


@pytest.fixture(scope="module")
def holed() -> tuple[Float64Array, Float64Array]:
    """Weights and robust weights `(K, Z, y, x)`: noise, holes, lost sections, wrong pairs, a section all wrong."""
    rng = np.random.default_rng(4)
    weights, robust = rng.uniform(0.002, 1.0, (3, 14, 12, 9)), rng.uniform(0.5, 1.0, (3, 14, 12, 9))
    weights[:, 3, 2:9, 1:7] = weights[:, 4, 5:, 3:] = 0.0
    weights[:, 5:8, :4, :4] = 0.0
    robust[0, 8], robust[:, 11, :6] = 0.02, 0.004
    for k in range(1, 4):
        for lost in (9, 10):
            weights[k - 1, lost] = weights[k - 1, min(lost + k, 13)] = 0.0
        weights[k - 1, :k] = 0.0
        robust[k - 1, min(11 + k, 13), :6] = 0.004
    return weights, robust


def test_worth_is_what_the_formula_says(holed: tuple[Float64Array, Float64Array]) -> None:
    weights, robust = holed
    wanted = weights * robust / (1.0 + 15.0 * (1.0 - robust) ** 2)
    doubtful = totals(wanted) < 0.1 * totals(weights)
    assert doubtful.any()
    for k in range(1, 4):
        for z in range(k, 14):
            wanted[k - 1, z][doubtful[z] | doubtful[z - k]] = 0.0
    found = discount_outliers(torch.from_numpy(weights).float(), robust=torch.from_numpy(robust).float(), outlier=4.0)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-12)


def cosines(n: int) -> Float64Array:
    """`(coefficients, nodes)`, orthonormal."""
    waves = np.cos(np.pi * np.arange(n)[:, None] * (np.arange(n) + 0.5) / n) * np.sqrt(2 / n)
    waves[0] = np.sqrt(1 / n)
    return waves


@pytest.mark.parametrize("noise", [1e-5, 1e-2, 1.0])
def test_elastic_variance_is_what_the_formula_says(holed: tuple[Float64Array, Float64Array], noise: float) -> None:
    weights, robust = holed
    worth = discount_outliers(torch.from_numpy(weights).float(), robust=torch.from_numpy(robust).float(), outlier=4.0)
    bands, shares = Bands.of((12, 9)), np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    fitted = [Variances(40.0 / 4**b, 2.0 / 3**b, 0.9, noise / 2**b, 0.1 / 4**b) for b in range(bands.count)]
    found = elastic_variance(worth, variances=fitted, certainty=0.9).double().numpy()

    exact, plane = worth.double().numpy(), pair_weights(worth)
    node = totals(np.minimum(exact, plane[:, :, None, None]))
    there, usual = node > 0, totals(plane)
    assert (usual == 0).any()
    wy, wx = cosines(12), cosines(9)
    wanted, more = np.zeros((14, 12, 9)), np.zeros((14, 12, 9))
    for b, variances in enumerate(fitted):
        of_section = section_variance(plane, fitted=variances, certainty=0.9, shares=shares)
        size = np.zeros((12, 9))
        for i, j in zip(*np.nonzero(bands.index == b), strict=True):
            if (i, j) not in ((0, 0), (0, 1), (1, 0)):
                size += np.outer(wy[i], wx[j]) ** 2
        per_node = np.hypot(np.arange(12)[:, None] / 24, np.arange(9) / 18)
        damped = np.exp(-2 * (np.pi * per_node * 0.03 * bands.wavelengths[b]) ** 2)
        for z in range(14):
            seen = wy.T @ (damped * (wy @ there[z] @ wx.T)) @ wx
            for at in np.ndindex(12, 9):
                share = max(node[z][at] / usual[z], 0.003) if there[z][at] else 1.0
                known = np.interp(np.log(min(share, 1.0)), np.log(shares), of_section.known[:, z])
                p = min(max(seen[at], 0.0), 1.0)
                precision = p / known + (1 - p) / of_section.lost[z]
                wanted[z][at] += size[at] / precision
                more[z][at] += size[at] * max(1 / precision - of_section.known[-1, z], 0.0)
    beyond = wanted.copy()
    spoken = [z for z in range(14) if usual[z] > 0]
    for z in range(14):
        before, after = [y for y in spoken if z - 3 <= y < z], [y for y in spoken if z < y <= z + 3]
        ends = before[-1:] + after[:1]
        for y in ends:
            part = 1.0 if len(ends) == 1 else 1 - abs(y - z) / (ends[1] - ends[0])
            beyond[z] += part**2 * more[y]
    np.testing.assert_allclose(found, beyond, rtol=1e-4)
    assert found.max() > (100 if noise < 1e-3 else 2) * found.min()
