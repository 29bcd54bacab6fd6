"""Every public function has an example, and every example runs."""

import doctest
import importlib
import os
from pathlib import Path

import pytest

import ssem_dask

pytestmark = pytest.mark.slow

MODULES = ("aligned_run", "data", "results", "running", "two_images")
FUNCTIONS = sorted(name for name in ssem_dask.__all__ if callable(getattr(ssem_dask, name)) and name[0].islower())
OTHER_NAMES = {"warp_volume", "export_volume"}
"""Longer names of functions that have an example."""


@pytest.fixture(scope="module")
def place(observed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `volume.zarr` and `aligned.zarr`, a complete run of it."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "volume.zarr").symlink_to(observed)
    run = folder / "aligned.zarr"
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert ssem_dask.align(Path("volume.zarr"), run, cluster="serial").state == "complete"
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    module = importlib.import_module(f"ssem_dask.api.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_function_has_an_example() -> None:
    without = [name for name in FUNCTIONS if ">>>" not in (getattr(ssem_dask, name).__doc__ or "")]
    assert set(without) <= OTHER_NAMES
