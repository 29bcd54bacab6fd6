"""No command writes into what it reads, or around it, by whatever name; nothing is touched before that is known."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import open_run, plan
from ssem_dask.storage.run_group import read_run
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SMALL, to_toml


@pytest.fixture
def place(observed: str, tmp_path: Path) -> Path:
    """A folder with a volume, a symlink to it, and a run that has no more than its attributes."""
    shutil.copytree(observed, tmp_path / "v.zarr")
    (tmp_path / "link").symlink_to(tmp_path / "v.zarr")
    (tmp_path / "v.zarr" / "images").mkdir()
    for z in range(2):
        tifffile.imwrite(tmp_path / "v.zarr" / "images" / f"{z}.tif", np.eye(64, dtype=np.uint8))
    with h5py.File(tmp_path / "v.zarr" / "file.h5", "w") as file:
        file["d"] = np.ones((2, 64, 64), dtype=np.uint8)
    return tmp_path


def files(place: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in place.rglob("*")}


SIZES = ("--pixel-size", "4.6", "--section-thickness", "50")


@pytest.mark.parametrize(
    "words",
    [
        ("import", "v.zarr/0", "v.zarr", *SIZES, "--overwrite"),
        ("import", "v.zarr/0", "link", *SIZES, "--overwrite"),
        ("import", "file://{place}/link/0/", "v.zarr", *SIZES, "--overwrite"),
        ("import", "v.zarr/images", "v.zarr", *SIZES, "--overwrite"),
        ("import", "v.zarr/images/*.tif", "v.zarr", *SIZES, "--overwrite"),
        ("import", "v.zarr/file.h5:/d", "v.zarr", *SIZES, "--overwrite"),
        ("import", "v.zarr", "v.zarr/0", *SIZES, "--overwrite"),
        ("import", "v.zarr", "link/new/../copy.zarr", *SIZES),
        ("import", "v.zarr", "./v.zarr/", *SIZES, "--overwrite"),
        ("align", "v.zarr", "v.zarr"),
        ("align", "v.zarr", "link/aligned.zarr"),
        ("align", "v.zarr", "."),
        ("run", "mask.toml"),
        ("warp", "v.zarr", "v.zarr", "link/w.zarr"),
        ("warp", "v.zarr", "other", "v.zarr/warped"),
        ("export", "v.zarr", "link/e.zarr", "--ngff", "0.4"),
        ("export", "link", "v.zarr", "--ngff", "0.4"),
        ("simulate", "v.zarr", "link/s.zarr", "--seed", "1"),
        ("simulate", "v.zarr", "other", "--seed", "1", "--labels", "other/labels.zarr"),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_overlapping_places_are_refused(words: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    mask = {"source": "v.zarr", "output": "out.zarr", "mask": {"user": "out.zarr/mask"}}
    (place / "mask.toml").write_text(to_toml(mask))
    before = files(place)
    ended = ssem_dask(*(word.format(place=place) for word in words))
    assert_one_sentence(ended, naming="choose another destination")
    assert files(place) == before


@pytest.mark.parametrize("remains", ["", "ledger"])
def test_what_is_left_of_a_start_is_used(observed: str, tmp_path: Path, remains: str) -> None:
    for name in ("i.zarr", "e.zarr", "s.zarr", "a.zarr"):
        (tmp_path / name / remains).mkdir(parents=True)
    volume = str(tmp_path / "i.zarr")
    assert ssem_dask("import", observed, volume).returncode == 0
    assert ssem_dask("simulate", volume, str(tmp_path / "s.zarr"), "--seed", "1").returncode == 0
    export = ("export", volume, str(tmp_path / "e.zarr"), "--ngff", "0.4", "--cluster", "serial")
    assert ssem_dask(*export).returncode == 0
    open_run(plan(make_config({"source": volume, "output": str(tmp_path / "a.zarr"), **SMALL})))
    assert read_run(str(tmp_path / "a.zarr")).state == "running"
