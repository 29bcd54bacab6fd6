import numpy as np
import pytest

from ssem_dask.field.affine import IDENTITY, compose_affine, invert_affine, rotation_about
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.section_affines import solve_sections
from ssem_dask.types import Float64Array

SHAPE = (900, 1100)
CORNERS = np.array([[y, x, 1.0] for y in (0, 450, 900) for x in (0, 550, 1100)]).T


def random_affines(count: int, *, seed: int) -> Float64Array:
    rng = np.random.default_rng(seed)
    out = [
        rotation_about(
            degrees=float(rng.uniform(-10, 10)),
            centre=(450, 550),
            shift=(float(rng.uniform(-200, 200)), float(rng.uniform(-250, 250))),
            scale=float(1 + rng.uniform(-0.02, 0.02)),
        )
        for _ in range(count)
    ]
    return np.array(out)


def pairs_of(truth: Float64Array, *, steps: int, noise: float, seed: int) -> tuple[Float64Array, Float64Array]:
    """A_{z-k} ∘ A_z⁻¹, with noise on the shifts; ratios 2."""
    rng = np.random.default_rng(seed)
    affines = np.full((steps, len(truth), 2, 3), np.nan)
    ratios = np.zeros((steps, len(truth)))
    for k in range(1, steps + 1):
        for z in range(k, len(truth)):
            affines[k - 1, z] = compose_affine(outer=truth[z - k], inner=invert_affine(truth[z]))
            affines[k - 1, z, :, 2] += noise * rng.standard_normal(2)
            ratios[k - 1, z] = 2.0
    return affines, ratios


def errors(sections: Float64Array, truth: Float64Array, *, gauge: int) -> Float64Array:
    """Largest error over the section, px, for each section, in the frame where `gauge` is the identity."""
    back = invert_affine(truth[gauge])
    expected = np.array([compose_affine(outer=t, inner=back) for t in truth])
    return np.linalg.norm((sections - expected) @ CORNERS, axis=1).max(axis=1)


@pytest.mark.parametrize(("count", "steps"), [(2, 1), (2, 3), (3, 3), (20, 1), (20, 3), (600, 3)])
def test_consistent_pairs_give_the_sections_exactly(count: int, steps: int) -> None:
    truth = random_affines(count, seed=count)
    affines, ratios = pairs_of(truth, steps=steps, noise=0.0, seed=0)
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert errors(result.sections, truth, gauge=count // 2).max() < 1e-4
    assert np.array_equal(result.sections[count // 2], IDENTITY)
    assert result.bridged == []
    assert result.accepted.sum() == sum(max(count - k, 0) for k in range(1, steps + 1))


def test_wrong_pairs_with_high_ratios_are_rejected_by_their_loops() -> None:
    truth = random_affines(30, seed=1)
    affines, ratios = pairs_of(truth, steps=3, noise=1.0, seed=1)
    wrong = [(0, 5), (0, 12), (0, 13), (0, 25), (1, 20)]
    for k, z in wrong:
        affines[k, z] = rotation_about(degrees=8, centre=(450, 550), shift=(150, -90))
        ratios[k, z] = 3.0
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert errors(result.sections, truth, gauge=15).max() < 6
    for k, z in wrong:
        assert not result.accepted[k, z]
    assert result.accepted.sum() == 29 + 28 + 27 - len(wrong)


def test_pairs_below_the_ratio_have_no_say() -> None:
    truth = random_affines(12, seed=2)
    affines, ratios = pairs_of(truth, steps=2, noise=0.0, seed=2)
    affines[0, 6, :, 2] += 500
    ratios[0, 6] = 1.29
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert errors(result.sections, truth, gauge=6).max() < 1e-4
    assert not result.accepted[0, 6]


def test_lost_section_is_interpolated_and_listed() -> None:
    truth = random_affines(11, seed=3)
    truth[8] = truth[6]
    affines, ratios = pairs_of(truth, steps=3, noise=0.0, seed=3)
    for k in range(1, 4):
        ratios[k - 1, [7, 7 + k]] = 0.0
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert result.bridged == [7]
    found = errors(result.sections, truth, gauge=5)
    assert found[[z for z in range(11) if z != 7]].max() < 1e-3
    assert np.allclose(result.sections[7], (result.sections[6] + result.sections[8]) / 2, atol=1e-3)


def test_lost_section_between_two_that_lie_the_other_way_round_keeps_its_size() -> None:
    truth = random_affines(9, seed=7)
    half_turn = rotation_about(degrees=180, centre=(450, 550))
    truth[6:] = [compose_affine(outer=half_turn, inner=t) for t in truth[6:]]
    affines, ratios = pairs_of(truth, steps=2, noise=0.0, seed=7)
    ratios[0, [5, 6]] = ratios[1, [5, 7]] = 0.0
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert result.bridged == [5]
    assert np.linalg.det(result.sections[5, :, :2]) > 0.9
    assert np.array_equal(result.sections[5], result.sections[4])


def test_severed_piece_continues_where_the_other_ends_and_is_listed() -> None:
    truth = random_affines(13, seed=4)
    affines, ratios = pairs_of(truth, steps=3, noise=0.0, seed=4)
    for k in range(1, 4):
        ratios[k - 1, 9 : 9 + k] = 0.0
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert result.bridged == [9, 10, 11, 12]
    assert errors(result.sections, truth, gauge=6)[:9].max() < 1e-3
    assert np.allclose(result.sections[9], result.sections[8], atol=1e-3)
    inside = np.array([compose_affine(outer=s, inner=invert_affine(result.sections[11])) for s in result.sections[9:]])
    wanted = np.array([compose_affine(outer=t, inner=invert_affine(truth[11])) for t in truth[9:]])
    assert np.allclose(inside, wanted, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_accepted_pair_gives_identity_and_lists_every_section(count: int) -> None:
    affines = np.full((3, count, 2, 3), np.nan)
    result = solve_sections(affines, np.full((3, count), np.nan), shape_yx=SHAPE, config=CoarseConfig())
    assert np.allclose(result.sections, IDENTITY)
    assert result.bridged == list(range(count))
    assert not result.accepted.any()


def test_lost_middle_section_hands_the_gauge_to_its_neighbour() -> None:
    truth = random_affines(9, seed=5)
    affines, ratios = pairs_of(truth, steps=3, noise=0.0, seed=5)
    for k in range(1, 4):
        ratios[k - 1, [4, min(4 + k, 8)]] = 0.0
    result = solve_sections(affines, ratios, shape_yx=SHAPE, config=CoarseConfig())
    assert result.bridged == [4]
    assert any(np.array_equal(result.sections[z], IDENTITY) for z in (3, 5))
