"""Windows leave no seams: a section registered in 3 × 3 windows against the same section registered as one.

The jump is the difference of `fields/section` between the two nodes on either side of a window's border; what it is
beyond the field's own gradient is what it is beyond the same difference of the section registered as one window.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.storage.fields import open_field
from ssem_dask.types import Float64Array

pytestmark = pytest.mark.no_cover
SIDE, WINDOW, SPACING = 768, 256, 16
OUTER = 8
"""Nodes at the border of a section that are left out: there sections may not overlap, and the two solves see equally
little."""


@pytest.fixture(scope="module", params=[3, 21])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seed 21 has a node whose confidence is 0 in one of the two, and 4e-8 in the other."""
    url = str(tmp_path_factory.mktemp("seams") / "source.zarr")
    simulate_phantom(
        PhantomConfig(seed=request.param, shape=(4, SIDE, SIDE)),
        url,
        seed=request.param,
        deformation=DeformationConfig(),
        damage=DamageConfig(),
    )
    return url


def section_fields(source: str, output: Path, *, window: int) -> Float64Array:
    settings: dict[str, Any] = {
        "register": {"window": window, "neighbours": 2},
        "compose": {"relax": {"neighbours": 2}},
        "downsample": {"smallest": 4096},
    }
    assert package.align(source, str(output), cluster="serial", **settings).state == "complete"
    array, info = open_field(str(output / "fields" / "section"))
    assert info.spacing == SPACING
    return np.asarray(array[:], dtype=np.float64)[..., OUTER:-OUTER, OUTER:-OUTER]


@pytest.fixture(scope="module")
def jumps(source: str, tmp_path_factory: pytest.TempPathFactory) -> Float64Array:
    """Beyond the gradient, px, at every node and component along the windows' borders."""
    folder = tmp_path_factory.mktemp("fields")
    whole = section_fields(source, folder / "whole.zarr", window=SIDE)
    windows = section_fields(source, folder / "windows.zarr", window=WINDOW)
    beyond = []
    for axis in (-2, -1):
        steps = np.abs(np.diff(windows, axis=axis) - np.diff(whole, axis=axis))
        beyond.append(np.take(steps, [n // SPACING - OUTER - 1 for n in range(WINDOW, SIDE, WINDOW)], axis=axis))
    return np.concatenate([b.ravel() for b in beyond])


def test_jumps_at_the_borders_of_windows_are_no_larger_than_they_were(jumps: Float64Array) -> None:
    assert np.isfinite(jumps).all()
    assert np.median(jumps) < 0.01
    assert np.percentile(jumps, 90) < 0.04
    assert np.percentile(jumps, 99) < 0.08


def test_the_field_jumps_by_less_than_a_tenth_of_a_pixel_everywhere(jumps: Float64Array) -> None:
    assert jumps.max() < 0.1


def test_what_is_read_around_a_window_reaches_beyond_the_search(source: str) -> None:
    job, _ = resolve(make_config({"source": source, "output": "memory://unused", "register": {"window": WINDOW}}))
    assert job.register.halo == 192 * 2 ** (job.register.mip or 0)
