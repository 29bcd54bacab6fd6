import numpy as np

from ssem_dask.field.affine import IDENTITY, Affine, rotation_about
from ssem_dask.registration.coarse_alignment.pair import CoarsePair
from ssem_dask.registration.coarse_alignment.point_pairs import agrees, contradicting, fit_points, pair_of_points
from ssem_dask.types import Float64Array

SHAPE = 1000, 1200


def points_of(affine: Affine, *, count: int, sd: float, seed: int = 0) -> Float64Array:
    rng = np.random.default_rng(seed)
    fixed = rng.uniform(0, 1, (count, 2)) * SHAPE
    moving = fixed @ affine[:, :2].T + affine[:, 2] + rng.normal(size=(count, 2)) * sd
    return np.column_stack([fixed, moving, np.full(count, sd)])


def test_one_point_is_a_shift_two_a_rotation_many_an_affine_map() -> None:
    turned = rotation_about(degrees=20, centre=(500, 600), shift=(40, -30))
    stretched = turned @ np.diag([1.05, 0.97, 1.0])
    np.testing.assert_allclose(fit_points(points_of(turned, count=1, sd=1e-3))[:, :2], np.eye(2))
    np.testing.assert_allclose(fit_points(points_of(turned, count=2, sd=1e-6)), turned, atol=1e-3)
    np.testing.assert_allclose(fit_points(points_of(stretched, count=6, sd=1e-6)), stretched, atol=1e-3)


def test_one_of_many_points_may_be_a_mistake() -> None:
    points = points_of(IDENTITY, count=6, sd=1.0)
    points[2, 2] += 400
    found = fit_points(points)
    np.testing.assert_allclose(found[:, :2], np.eye(2), atol=0.02)
    assert agrees(IDENTITY, points, shape_yx=SHAPE)


def test_a_pair_that_agrees_with_its_points_stays_as_it_was_found() -> None:
    pair = CoarsePair(affine=IDENTITY, ratio=2.0, similarity=0.5)
    kept = pair_of_points(pair, points_of(IDENTITY, count=4, sd=5.0), search=lambda _: pair, least=1.3, shape_yx=SHAPE)
    assert kept is pair


def test_points_alone_place_a_section_that_nothing_matches() -> None:
    truth = rotation_about(degrees=3, centre=(500, 600), shift=(200, 0))
    nothing = CoarsePair(affine=IDENTITY, ratio=1.0, similarity=np.nan)
    found = pair_of_points(
        nothing, points_of(truth, count=4, sd=5.0), search=lambda _: nothing, least=1.3, shape_yx=SHAPE
    )
    middle = np.array([500.0, 600.0, 1.0])
    assert found.ratio >= 1.3
    assert np.linalg.norm((found.affine - truth) @ middle) < 20


def test_pairs_that_lead_elsewhere_are_no_longer_trusted() -> None:
    """Section 3 was matched 200 px away by all; points with section 2 say where it is."""
    affines = np.tile(IDENTITY, (2, 6, 1, 1))
    ratios = np.full((2, 6), 2.0)
    wrong = IDENTITY.copy()
    wrong[0, 2] = 200.0
    back = IDENTITY.copy()
    back[0, 2] = -200.0
    affines[1, 3], affines[0, 4], affines[1, 5] = back, wrong, wrong
    points = {(2, 3): points_of(IDENTITY, count=3, sd=2.0)}
    found = contradicting(affines, ratios, points, least=1.3, shape_yx=SHAPE)
    assert {(int(k) + 1, int(z)) for k, z in zip(*np.nonzero(found), strict=True)} == {(2, 3), (1, 4)}
