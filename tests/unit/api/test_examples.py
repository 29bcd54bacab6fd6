"""Every public function has an example, and every example runs."""

import doctest
import importlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v05
import pytest
import zarr

import ssem_dask
from ssem_dask.errors import SourceError
from ssem_dask.storage.volume import Volume

pytestmark = pytest.mark.slow

MODULES = ("aligned_run", "data", "results", "running", "two_images")
FUNCTIONS = sorted(name for name in ssem_dask.__all__ if callable(getattr(ssem_dask, name)) and name[0].islower())
OTHER_NAMES = {"warp_volume", "export_volume", "write_report"}
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


def test_other_tools_open_the_root_of_a_run(place: Path) -> None:
    """Its root is what people drag into a viewer."""
    root = zarr.open_group(str(place / "aligned.zarr"), mode="r")
    image = ome_zarr_models.v05.Image.from_zarr(root)
    assert [dataset.path for dataset in image.ome_attributes.multiscales[0].datasets] == ["aligned/0"]
    theirs: Any = pytest.importorskip("ngff_zarr").from_ngff_zarr(str(place / "aligned.zarr")).images[0]
    aligned = ssem_dask.open_alignment(place / "aligned.zarr").aligned
    assert (theirs.data == aligned).all().compute(scheduler="synchronous")
    assert theirs.axes_units["x"] == "nanometer"
    with pytest.raises(SourceError, match="this is an alignment, not an image"):
        Volume.open(str(place / "aligned.zarr"))


@pytest.mark.parametrize("folder", ["fields", "quality", "quality/reslice"])
def test_xarray_opens_fields_and_tables(place: Path, folder: str) -> None:
    xarray: Any = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each array holds its own fill value, which xarray asks about
        opened = xarray.open_zarr(str(place / "aligned.zarr" / folder), consolidated=False)
    names = {path.parent.name for path in (place / "aligned.zarr" / folder).glob("*/zarr.json")} - {"reslice"}
    assert set(opened) == names
    if folder == "fields":
        field = ssem_dask.open_alignment(place / "aligned.zarr").field(4)
        np.testing.assert_array_equal(opened["section"].isel(z=4).values, field)
