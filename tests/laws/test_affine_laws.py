"""Affine maps form a group, and act as one on positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.field.affine import (
    IDENTITY,
    apply_affine,
    compose_affine,
    fit_affine,
    invert_affine,
    localise_affine,
    rotation_about,
)
from ssem_dask.types import Float64Array
from tests.support.strategies import affines

laws = settings(max_examples=50, deadline=None)
POINTS = torch.tensor([[0.0, 100.0, -50.0, 7e3], [0.0, -30.0, 900.0, 1e4]], dtype=torch.float64)


@laws
@given(a=affines(), b=affines())
def test_composition_applies_inner_first(a: Float64Array, b: Float64Array) -> None:
    both = apply_affine(compose_affine(outer=a, inner=b), POINTS)
    assert torch.allclose(both, apply_affine(a, apply_affine(b, POINTS)), atol=1e-6)


@laws
@given(a=affines(), b=affines(), c=affines())
def test_composition_is_associative(a: Float64Array, b: Float64Array, c: Float64Array) -> None:
    left = compose_affine(outer=compose_affine(outer=a, inner=b), inner=c)
    assert np.allclose(left, compose_affine(outer=a, inner=compose_affine(outer=b, inner=c)), atol=1e-6)


@laws
@given(a=affines())
def test_inverse_undoes_on_both_sides(a: Float64Array) -> None:
    assert np.allclose(compose_affine(outer=a, inner=invert_affine(a)), IDENTITY, atol=1e-6)
    assert np.allclose(compose_affine(outer=invert_affine(a), inner=a), IDENTITY, atol=1e-6)


@laws
@given(degrees=st.floats(-180, 180), centre=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)))
def test_rotation_keeps_its_centre_and_lengths(degrees: float, centre: tuple[float, float]) -> None:
    a = rotation_about(degrees=degrees, centre=centre)
    middle = torch.tensor(centre, dtype=torch.float64)[:, None]
    assert torch.allclose(apply_affine(a, middle), middle, atol=1e-8)
    before = torch.linalg.vector_norm(POINTS - middle, dim=0)
    assert torch.allclose(torch.linalg.vector_norm(apply_affine(a, POINTS) - middle, dim=0), before, atol=1e-6)


def test_positive_angle_turns_y_towards_x() -> None:
    turned = apply_affine(rotation_about(degrees=90, centre=(0.0, 0.0)), torch.tensor([[1.0], [0.0]]))
    assert torch.allclose(turned, torch.tensor([[0.0], [1.0]]), atol=1e-6)


@laws
@given(
    a=affines(),
    target=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
    source=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
)
def test_local_coordinates_name_the_same_map(
    a: Float64Array, target: tuple[float, float], source: tuple[float, float]
) -> None:
    t, s = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (target, source))
    local = apply_affine(localise_affine(a, target=target, source=source), POINTS)
    assert torch.allclose(local + s, apply_affine(a, POINTS + t), atol=1e-6)


@laws
@given(a=affines(), seed=st.integers(0, 1000))
def test_fit_recovers_the_map_and_ignores_points_without_weight(a: Float64Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-1000, 1000, (12, 2))
    targets = apply_affine(a, torch.from_numpy(positions.T)).numpy().T.copy()
    weights = rng.uniform(0.1, 1.0, 12)
    targets[:3] += 1e4
    weights[:3] = 0.0
    assert np.allclose(fit_affine(positions=positions, targets=targets, weights=weights), a, atol=1e-5)


def test_fit_needs_three_points() -> None:
    with pytest.raises(ValueError, match="3"):
        fit_affine(positions=np.zeros((4, 2)), targets=np.zeros((4, 2)), weights=np.array([1.0, 1.0, 0.0, 0.0]))
