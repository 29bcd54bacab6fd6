"""A volume that is warped as it is looked at has the pixels that `ssem-dask warp` writes, at three mips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask
from ssem_dask.errors import SourceError
from ssem_dask.field.affine import affine_field, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.report.viewer.http import Viewpoint
from ssem_dask.report.viewer.site import make_site
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import Volume
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.field_runs import smooth_noise

pytestmark = pytest.mark.slow

SHAPE = (2, 1100, 900)
SPACING = 50
CHUNK = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a turned and a partly unknown section, an image of its source and labels of twice its pixel size."""
    folder = tmp_path_factory.mktemp("live")
    image = smooth_noise(SHAPE, seed=1)
    sizes: dict[str, Any] = {"pixel_size": 4, "section_thickness": 40}
    ssem_dask.import_volume(image, folder / "source.zarr", **sizes)
    ids = (image[:, ::2, ::2] // 32).astype(np.uint64) + 2**40
    ssem_dask.import_volume(ids, folder / "ids.zarr", labels=True, pixel_size=8, section_thickness=40)
    register = {"neighbours": 3, "window": 1024, "halo": 64, "sections": 4, "mip": 0, "spacing": SPACING}
    config: dict[str, Any] = {"volume": sizes, "register": register, "render": {}, "downsample": {}}
    source = str(folder / "source.zarr")
    create_run(str(folder / "run.zarr"), attributes={"state": "complete", "source": source, "config": config})
    field = create_field(
        str(folder / "run.zarr" / "fields" / "section"),
        info=FieldInfo(spacing=SPACING, shape_mip0=SHAPE),
        leading=(),
        components=True,
        chunks=(1, 2, 22, 18),
        shards=None,
    )
    grid = Grid.of_section(SHAPE[1:], spacing=SPACING)
    for z, degrees in enumerate((9.0, 180.0)):
        values = affine_field(rotation_about(degrees=degrees, centre=(550, 450), shift=(13.3, -7.6)), grid=grid)
        values += 6 * (grid.positions() / 70).sin()
        values[:, :5, : 3 * z] = np.nan
        field[z] = values.numpy()
    return folder


def served(folder: Path, name: str, *, labels: bool) -> Any:
    site, _ = make_site(
        str(folder / "run.zarr"), labels=None, worst=0, volume=str(folder / name), volume_holds_labels=labels
    )
    return site


def level_of(files: Any, mip: int, shape: tuple[int, int, int], dtype: Any) -> Any:
    """Put a level together from its chunks."""
    out = np.zeros(shape, dtype=dtype)
    for z in range(shape[0]):
        for row in range(0, shape[1], CHUNK):
            for column in range(0, shape[2], CHUNK):
                path = f"{mip}/c/{z}/{row // CHUNK}/{column // CHUNK}"
                chunk = np.frombuffer(files.read(path, start=0, stop=files.size(path)), dtype=dtype)
                part = out[z, row : row + CHUNK, column : column + CHUNK]
                part[:] = chunk.reshape(CHUNK, CHUNK)[: part.shape[0], : part.shape[1]]
    return out


@pytest.mark.parametrize(("name", "labels"), [("source.zarr", False), ("ids.zarr", True)])
def test_pixels_are_those_that_warp_writes(folder: Path, tmp_path: Path, name: str, labels: bool) -> None:
    out = tmp_path / "warped.zarr"
    done = ssem_dask.warp(folder / "run.zarr", folder / name, out, labels=labels, cluster="serial")
    assert done.state == "complete"
    written = Volume.open(str(out))
    files = served(folder, name, labels=labels).files["warped"]
    for mip in (0, 1, 2):
        shape = written.shape_at(mip)
        ours = level_of(files, mip, shape, written.info.dtype)
        theirs = written.read(Box((0, 0, 0), shape, mip)) if mip in written.mips else None
        assert ours.any()
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs)
    assert 2 in written.mips or labels


def test_coarser_levels_come_from_coarser_pixels(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "warped.zarr"
    ssem_dask.warp(folder / "run.zarr", folder / "source.zarr", out, cluster="serial")
    written = Volume.open(str(out))
    files = served(folder, "source.zarr", labels=False).files["warped"]
    ours = level_of(files, 3, written.shape_at(3), np.uint8).astype(int)
    theirs = written.read(Box((0, 0, 0), written.shape_at(3), 3)).astype(int)
    inner = np.s_[:, 20:-20, 20:-20]
    assert np.median(np.abs(ours - theirs)[inner]) <= 1
    assert np.corrcoef(ours[inner].ravel(), theirs[inner].ravel())[0, 1] > 0.98


def test_the_viewer_shows_it(folder: Path) -> None:
    state = served(folder, "source.zarr", labels=False).state("http://here", Viewpoint(0, 500, 400, 900))
    layer = next(layer for layer in state["layers"] if layer["name"] == "warped, source.zarr")
    assert "http://here/warped/|zarr3:" in str(layer["source"])
    assert layer.get("visible", True)
    state = served(folder, "ids.zarr", labels=True).state("http://here", Viewpoint(0, 500, 400, 900))
    layer = next(layer for layer in state["layers"] if layer["name"] == "warped labels")
    assert layer["type"] == "segmentation"


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    ssem_dask.import_volume(
        smooth_noise((3, 64, 64), seed=1), tmp_path / "other.zarr", pixel_size=4, section_thickness=40
    )
    with pytest.raises(SourceError, match="give a volume of the same sections"):
        make_site(str(folder / "run.zarr"), labels=None, worst=0, volume=str(tmp_path / "other.zarr"))
    assert_one_sentence(command("view", str(folder / "run.zarr"), "--volume-labels"), naming="--volume")
