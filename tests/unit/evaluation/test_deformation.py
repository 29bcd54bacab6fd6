"""Known deformations: exact size, reproducible section by section, never folding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.field.affine import affine_field, rotation_about
from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from tests.support.deformations import section_deformation

SHAPE = (200, 312)
GRID = Grid.of_section(SHAPE, spacing=4)


def drawn(config: DeformationConfig, *, seed: int = 7, z: int = 3) -> torch.Tensor:
    return section_deformation(config, seed=seed, z=z, shape_yx=SHAPE, grid=GRID)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), z=st.integers(0, 5000))
def test_a_section_depends_on_seed_and_z_alone(seed: int, z: int) -> None:
    first = drawn(DeformationConfig(), seed=seed, z=z)
    drawn(DeformationConfig(), seed=seed, z=z + 1)
    assert torch.equal(first, drawn(DeformationConfig(), seed=seed, z=z))


def test_sections_and_seeds_differ() -> None:
    fields = [drawn(DeformationConfig(), seed=s, z=z) for s, z in ((1, 0), (1, 1), (2, 0))]
    assert all(float((a - b).abs().max()) > 1 for a, b in zip(fields, [*fields[1:], fields[0]], strict=True))


def test_the_field_is_the_same_function_on_every_grid() -> None:
    config = DeformationConfig()
    fine = section_deformation(config, seed=1, z=2, shape_yx=SHAPE, grid=Grid(SHAPE, 1.0))
    part = section_deformation(config, seed=1, z=2, shape_yx=SHAPE, grid=Grid((50, 60), 1.0, (100.0, 200.0)))
    torch.testing.assert_close(part, fine[:, 100:150, 200:260], atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset", ["smooth", "rough"])
@pytest.mark.parametrize("z", [0, 1, 2])
def test_elastic_rms_is_the_requested_one(preset: str, z: int) -> None:
    config = DeformationConfig.preset(preset)  # type: ignore[arg-type]
    assert float(drawn(config, z=z).square().mean().sqrt()) == pytest.approx(config.elastic, rel=0.02)


def test_nothing_asked_is_the_identity() -> None:
    assert float(drawn(DeformationConfig.preset("none")).abs().max()) == 0.0


def test_rigid_part_stays_within_its_bounds_and_turns_about_the_centre() -> None:
    config = DeformationConfig(elastic=0.0)
    for z in range(30):
        affine = draw_deformation(config, seed=0, z=z, shape_yx=SHAPE).affine
        scale = np.sqrt(np.linalg.det(affine[:, :2]))
        degrees = np.rad2deg(np.arctan2(affine[1, 0], affine[0, 0]))
        centre = np.array([SHAPE[0] / 2, SHAPE[1] / 2])
        shift = affine[:, :2] @ centre + affine[:, 2] - centre
        assert abs(scale - 1) <= 0.01
        assert abs(degrees) <= 2
        assert np.abs(shift).max() <= 15
        turned = rotation_about(degrees=degrees, centre=tuple(centre), shift=tuple(shift), scale=scale)
        torch.testing.assert_close(drawn(config, seed=0, z=z), affine_field(turned, grid=GRID), atol=1e-3, rtol=0)


def test_the_whole_range_is_used() -> None:
    config = DeformationConfig(elastic=0.0, rotation=0.0, scale=0.0)
    shifts = np.array([drawn(config, z=z)[:, 0, 0].numpy() for z in range(200)])
    assert shifts.min() < -13
    assert shifts.max() > 13
    assert abs(shifts.mean()) < 2


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), elastic=st.floats(1.0, 60.0), spacing=st.floats(16.0, 128.0))
def test_no_deformation_folds(seed: int, elastic: float, spacing: float) -> None:
    config = DeformationConfig(elastic=elastic, elastic_spacing=(spacing, spacing))
    assert float(jacobian_determinant(drawn(config, seed=seed), spacing=4.0).min()) > 0.02


def test_spacings_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="smaller <= larger"):
        DeformationConfig(elastic_spacing=(128.0, 64.0))
