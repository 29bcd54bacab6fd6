"""Few open files are allowed, as by `ulimit -n`: commands work, or say what is wrong in one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from tests.support.faults import Process, assert_undisturbed

FEW = ("prlimit", "--nofile=64")


def assert_done_or_one_sentence(process: Process) -> bool:
    """Return whether the command did its work."""
    code = process.end()
    assert "Traceback" not in process.errors
    if code == 0:
        return True
    assert code == 2, process.errors
    assert sum(line.startswith("error: ") for line in process.errors.splitlines()) == 1, process.errors
    return False


def test_import_of_many_files(tmp_path: Path, start: Callable[..., Process]) -> None:
    sections = np.random.default_rng(1).integers(1, 255, (200, 40, 40), dtype="uint8")
    (tmp_path / "sections").mkdir()
    for z, section in enumerate(sections):
        tifffile.imwrite(tmp_path / "sections" / f"{z:04d}.tif", section)
    output = str(tmp_path / "volume.zarr")
    words = ("import", str(tmp_path / "sections"), output, "--pixel-size", "4", "--section-thickness", "40")
    if assert_done_or_one_sentence(start(*words, prefix=FEW)):
        volume = Volume.open(output)
        whole = Box((0, 0, 0), volume.info.shape)
        assert np.array_equal(volume.read(whole), sections)


def test_a_run_with_workers(config_file: Path, undisturbed: str, tmp_path: Path, start: Callable[..., Process]) -> None:
    running = start("run", str(config_file), "--cluster", "local", "--workers", "2", prefix=FEW)
    if assert_done_or_one_sentence(running):
        assert_undisturbed(tmp_path / "out.zarr", undisturbed, fault="64 open files", redone=0)


def test_more_workers_than_the_limit_allows(config_file: Path, start: Callable[..., Process]) -> None:
    running = start("run", str(config_file), "--cluster", "local", "--workers", "5", prefix=FEW)
    assert not assert_done_or_one_sentence(running)
    assert "5 workers need 71 open files, but a process may open 64" in running.errors
