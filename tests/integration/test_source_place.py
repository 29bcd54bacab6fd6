"""A run finds its source from any folder and after moves; sections keep the names of their files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssem_dask.storage.run_group import read_run
from tests.support.cli import assert_one_sentence, ssem_dask

SIZES = ("--pixel-size", "5", "--section-thickness", "50")


def sections(count: int = 6) -> np.ndarray:
    from scipy import ndimage

    noise = np.random.default_rng(3).normal(size=(count + 4, 96, 96))
    smooth = ndimage.gaussian_filter(noise, (2, 2, 2))[2:-2]
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 255, np.uint8)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for z, section in enumerate(sections()):
        tifffile.imwrite(folder / f"S{z + 1:03d}.tif", section)
    return folder


@pytest.fixture
def run(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that was given relative paths."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert ssem_dask("import", str(raw), "volume.zarr", *SIZES).returncode == 0
    ended = ssem_dask("align", "volume.zarr", "out.zarr", "--cluster", "serial", "--json")
    assert ended.returncode == 0, ended.stderr
    return work / "out.zarr"


def affected(out: Path, *more: str) -> list[str]:
    ended = ssem_dask("rerun", str(out), "--dry-run", "--json", *more)
    assert ended.returncode == 0, ended.stderr
    again: dict[str, list[str]] = json.loads(ended.stdout)["again"]
    return [key for keys in again.values() for key in keys]


def test_a_run_finds_its_source(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert not affected(run)
    assert read_run(str(run)).open_source().section_names[0] == "S001.tif"
    assert read_run(str(run)).section_label(5) == "section 5, S006.tif"
    # The same command, from another folder, is the same run.
    ended = ssem_dask("align", str(run.parent / "volume.zarr"), str(run), "--cluster", "serial", "--json")
    assert ended.returncode == 0, ended.stderr
    # The run alone is moved: its source stays where it was.
    moved = shutil.move(str(run), str(tmp_path / "elsewhere.zarr"))
    assert not affected(Path(moved))
    # Both are moved.
    shutil.move(moved, str(run))
    run.parent.rename(tmp_path / "other")
    run = tmp_path / "other" / "out.zarr"
    assert not affected(run)
    # The source alone is moved.
    (run.parent / "volume.zarr").rename(tmp_path / "v.zarr")
    refused = ssem_dask("rerun", str(run), "--dry-run")
    assert_one_sentence(refused, naming="--source")
    assert not affected(run, "--source", str(tmp_path / "v.zarr"))
    assert ssem_dask("rerun", str(run), "--source", str(tmp_path / "v.zarr"), "--cluster", "serial").returncode == 0
    assert not affected(run)
    assert ssem_dask("align", str(tmp_path / "v.zarr"), str(run), "--cluster", "serial").returncode == 0


def test_plan_and_align_say_what_would_be_done(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ssem_dask("import", "raw", "volume.zarr", *SIZES).returncode == 0
    by_plan = ssem_dask("plan", "volume.zarr", "out.zarr", "--json")
    by_align = ssem_dask("align", "volume.zarr", "out.zarr", "--dry-run", "--json")
    (tmp_path / "run.toml").write_text('source = "volume.zarr"\noutput = "out.zarr"\n')
    by_file = ssem_dask("plan", "run.toml", "--json")
    assert by_plan.returncode == by_align.returncode == by_file.returncode == 0, by_plan.stderr
    assert by_plan.stdout == by_align.stdout
    # Paths in the file begin in its folder, and are shown whole.
    absolute = {"source": str(tmp_path / "volume.zarr"), "output": str(tmp_path / "out.zarr")}
    assert {**json.loads(by_plan.stdout), **absolute} == json.loads(by_file.stdout)
    assert not Path("out.zarr").exists()
    assert_one_sentence(ssem_dask("plan", "volume.zarr"), naming="ssem-dask plan volume.zarr OUT.zarr")


def test_slips_name_the_command_to_type(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = (
        "raw: holds 6 TIFF images, but align reads Zarr; import it first: ssem-dask import raw raw.zarr --pixel-size"
    )
    for words in (("align", "raw", "out.zarr"), ("plan", "raw", "out.zarr"), ("align", "raw/", "out.zarr")):
        assert_one_sentence(ssem_dask(*words), naming=wanted[5:30])
        assert "ssem-dask import raw" in ssem_dask(*words).stderr
    assert_one_sentence(ssem_dask("align", "raw/S001.tif", "out.zarr"), naming="import raw/S001.tif raw/S001.zarr")
    assert_one_sentence(
        ssem_dask("import", "volume.zarr", "raw", *SIZES), naming="raw holds 6 TIFF images; the source comes"
    )
    assert ssem_dask("import", "raw", "volume.zarr", *SIZES).returncode == 0
    assert_one_sentence(
        ssem_dask("align", "out.zarr", "volume.zarr"), naming="volume.zarr holds a volume; the source comes"
    )
    assert_one_sentence(ssem_dask("import", "raw", "volume.zarr", *SIZES), naming="--overwrite")


def test_import_shows_the_order_and_keeps_the_names(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (raw / "S004.tif").unlink()
    shutil.copy(raw / "S003.tif", raw / "S003 (1).tif")
    ended = ssem_dask("import", "raw", "a.zarr", *SIZES)
    assert ended.returncode == 0, ended.stderr
    assert "6 files, from S001.tif (section 0) to S006.tif" in ended.stderr
    assert "1 gap in the numbers, between S003.tif and S005.tif" in ended.stderr
    assert "names differ: 5 names like S001.tif, but also S003 (1).tif" in ended.stderr
    (tmp_path / "order.txt").write_text("\ufeffS006.tif\r\n\r\nS002.tif\r\n raw/S001.tif\r\n")
    ended = ssem_dask("import", "raw", "b.zarr", *SIZES, "--list", "order.txt", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["sections"] == {"first": "S006.tif", "last": "S001.tif"}
    for text, naming in (
        ("S009.tif", "line 1 names S009.tif"),
        ("S001.tif\nS001.tif", "lines 1 and 2"),
        ("\n", "no file"),
    ):
        (tmp_path / "order.txt").write_text(text)
        assert_one_sentence(ssem_dask("import", "raw", "c.zarr", *SIZES, "--list", "order.txt"), naming=naming)
    assert_one_sentence(ssem_dask("import", "raw", "c.zarr", *SIZES, "--list", "none.txt"), naming="none.txt")
