"""Parameters of affine maps: laws, and that what little a strip says of its short side does no harm."""

import numpy as np
import pytest

from ssem_dask.composition.separation.affine_log import (
    from_parameters,
    has_parameters,
    to_parameters,
    unit_displacements,
)
from ssem_dask.composition.separation.affine_separation import separate_affines
from ssem_dask.field.affine import IDENTITY, rotation_about
from ssem_dask.types import ShapeYX

_ASPECTS = (1, 4, 16, 64, 128)


def shape_of(aspect: int) -> ShapeYX:
    return 64, 64 * aspect


def points_of(shape: ShapeYX) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(0, n, 41) for n in shape), indexing="ij")
    return np.column_stack([y.ravel(), x.ravel()])


@pytest.mark.parametrize("aspect", _ASPECTS)
def test_parameters_are_inverted_and_are_displacements_in_px(aspect: int) -> None:
    shape = shape_of(aspect)
    parameters = np.random.default_rng(aspect).uniform(-0.5, 0.5, (20, 6))
    affines = from_parameters(parameters, shape_yx=shape)
    np.testing.assert_allclose(to_parameters(affines, shape_yx=shape), parameters, atol=1e-6)
    points = points_of(shape)
    units = unit_displacements(points, shape_yx=shape)
    gram = np.einsum("nip,niq->pq", units, units) / len(points)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=0.1)
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=0.1)


@pytest.mark.parametrize("aspect", _ASPECTS)
def test_strips_that_need_nothing_are_left_alone(aspect: int) -> None:
    """Along its short side a pair map is off by some px, as at the edges of tissue; along the other it is right."""
    shape, rng, count = shape_of(aspect), np.random.default_rng(7), 12
    pairs = np.tile(IDENTITY, (3, count, 1, 1))
    pairs[:, :, :, 0] += rng.normal(-2.0, 1.0, (3, count, 2)) / shape[0]
    pairs[:, :, :, 1] += rng.normal(0.0, 0.5, (3, count, 2)) / shape[1]
    pairs[:, :, :, 2] += rng.normal(0.0, 0.5, (3, count, 2)) - (pairs[:, :, :, :2] - np.eye(2)) @ (np.array(shape) / 2)
    found = separate_affines(pairs, np.ones((3, count)), shape_yx=shape, thickness=10.0, certainty=1.0)
    points = points_of(shape)
    moved = np.einsum("zij,nj->zni", found.sections[:, :, :2], points) + found.sections[:, None, :, 2] - points
    assert np.linalg.norm(moved, axis=2).max() < 2.5


def test_maps_without_a_logarithm_are_known_as_such() -> None:
    turns = [rotation_about(degrees=d, centre=(250.0, 250.0), scale=0.8) for d in (0, 160, -160, 175, 180, -178)]
    mirrored = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 500.0]])
    maps = np.array([*turns, mirrored, np.full((2, 3), np.nan), np.zeros((2, 3))])
    known = has_parameters(maps)
    assert known.tolist() == [True, True, True, *[False] * 6]
    np.testing.assert_allclose(
        from_parameters(to_parameters(maps[known], shape_yx=(500, 500)), shape_yx=(500, 500)), maps[known], atol=1e-6
    )
