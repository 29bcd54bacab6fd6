"""Long narrow sections that need nothing stay where they are, as square ones of the same tissue do."""

from pathlib import Path

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]
SECTIONS = 8
UNDISPLACED = DeformationConfig(rotation=0.0, shift=0.0, scale=0.0, elastic=0.0)


def displacement(folder: Path, *, shape_yx: tuple[int, int], seed: int) -> float:
    """Align undisplaced sections; return the 95th percentile of their displacement relative to the stack, px."""
    shape = (SECTIONS, *shape_yx)
    phantom = PhantomConfig(seed=seed, shape=shape, oblique=0.0)
    simulate_phantom(phantom, str(folder / "v.zarr"), seed=seed, deformation=UNDISPLACED, damage=DamageConfig())
    summary = package.align(str(folder / "v.zarr"), str(folder / "out.zarr"), cluster="serial")
    assert summary.attention is not None
    assert not summary.attention.records
    fields = package.open_alignment(str(folder / "out.zarr")).fields()
    moved = fields - fields.mean(axis=0)
    assert np.isfinite(moved).all()
    return float(np.quantile(np.hypot(moved[:, 0], moved[:, 1]), 0.95))


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Displacement of square sections, px."""
    return displacement(tmp_path_factory.mktemp("square"), shape_yx=(256, 256), seed=5)


@pytest.mark.parametrize("shape_yx", [(64, 1024), (32, 2048), (32, 4096)], ids=["16", "64", "128"])
def test_a_strip_of_aspect(shape_yx: tuple[int, int], square: float, tmp_path: Path) -> None:
    assert displacement(tmp_path, shape_yx=shape_yx, seed=5) < square + 1.0
