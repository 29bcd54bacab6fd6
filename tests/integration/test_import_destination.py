"""Destinations that cannot be written, and imports that end early, leave nothing that a later run would trust."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import run_group as run
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.importing import import_volume
from tests.support.small_imports import SIZES, SMALL, check_refused, sections, write_series


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series", sections())


def test_destination_exists(series: Path, tmp_path: Path):
    destination = str(tmp_path / "a.zarr")
    import_volume(str(series), destination, **SIZES, **SMALL)
    with pytest.raises(OutputError, match="already there"):
        import_volume(str(series), destination, **SIZES, **SMALL)
    tifffile.imwrite(tmp_path / "b.tif", sections(5, dtype="uint16"))
    import_volume(str(tmp_path / "b.tif"), destination, **SIZES, **SMALL, overwrite=True)
    assert Volume.open(destination).info.dtype == np.uint16


def test_only_volumes_are_overwritten(series: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("all of it")
    run.create_run(str(tmp_path / "run.zarr"), attributes={"state": "complete"})
    for name in ("mine", "file", "run.zarr"):
        with pytest.raises(OutputError, match="something that is not a volume"):
            import_volume(str(series), str(tmp_path / name), **SIZES, **SMALL, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert run.is_run(str(tmp_path / "run.zarr"))
    import_volume(str(series), str(tmp_path / "a.zarr"), **SIZES, **SMALL)
    with pytest.raises(OutputError, match="is the source itself"):
        import_volume(str(tmp_path / "a.zarr"), f"{tmp_path}/./a.zarr", overwrite=True)
    (tmp_path / "empty").mkdir()
    import_volume(str(series), str(tmp_path / "empty"), **SIZES, **SMALL)


def test_a_file_in_the_way(series: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    check_refused(series, tmp_path / "file" / "a.zarr", "a file is in the way", error=OutputError)


IMPORT_SCRIPT = """
import os, resource, signal, sys
from ssem_dask.errors import OutputError
from ssem_dask.volumes.importing import import_volume
from tests.support.small_imports import SIZES, SMALL, check_refused, sections, write_series

what, source, destination, warm = sys.argv[1:]
options = dict(pixel_size=4, section_thickness=40, chunk=(1, 16, 16), shard=(2, 64, 64))
import_volume(source, warm, **options)  # loads every module before rights are given up
if what == "nobody" and os.getuid() == 0:
    os.setuid(65534)
if what == "small":
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
kill = (lambda pixels: os.kill(os.getpid(), signal.SIGKILL)) if what == "kill" else None
try:
    import_volume(source, destination, **options, progress=kill)
except OutputError as error:
    sys.stdout.write(str(error))
"""


def run_import(what: str, source: Path, destination: Path, *, warm: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORT_SCRIPT, what, str(source), str(destination), str(warm)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody may enter."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def test_read_only_destination(open_place: Path):
    source = write_series(open_place / "series", sections())
    (open_place / "locked").mkdir(mode=0o555)
    ended = run_import("nobody", source, open_place / "locked" / "a.zarr", warm=open_place / "warm.zarr")
    assert ended.returncode == 0, ended.stderr
    assert "read-only, or no permission" in ended.stdout
    assert "locked/a.zarr" in ended.stdout
    assert list((open_place / "locked").iterdir()) == []


def test_no_space_by_a_file_size_limit(series: Path, tmp_path: Path):
    ended = run_import("small", series, tmp_path / "a.zarr", warm=tmp_path / "warm.zarr")
    assert ended.returncode == 0, ended.stderr
    assert "no space left" in ended.stdout
    with pytest.raises(SourceError):
        Volume.open(str(tmp_path / "a.zarr"))
    import_volume(str(series), str(tmp_path / "a.zarr"), **SIZES, **SMALL)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_full_disk(tmp_path: Path):
    source = write_series(tmp_path / "large", np.random.default_rng(0).integers(0, 255, (8, 400, 400), dtype=np.uint8))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        check_refused(source, disk / "a.zarr", "no space left", error=OutputError)
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("c/*/*/*") if path.is_file()}
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        import_volume(str(source), str(disk / "a.zarr"), **SIZES, **SMALL)  # whatever was written is kept
        assert before
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_import_that_was_killed_is_refused_and_replaced(series: Path, tmp_path: Path):
    destination = tmp_path / "a.zarr"
    ended = run_import("kill", series, destination, warm=tmp_path / "warm.zarr")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (destination / "zarr.json").exists()
    for url in (destination, destination / "0"):
        with pytest.raises(SourceError):
            Volume.open(str(url))
    with pytest.raises(SourceError, match="not finished"):
        Volume.open(str(destination), **SIZES)
    check_refused(destination, tmp_path / "b.zarr", "import was not finished")
    import_volume(str(series), str(destination), **SIZES, **SMALL)
    np.testing.assert_array_equal(Volume.open(str(destination)).read(Box((0, 0, 0), (6, 40, 50))), sections())
