"""Imports that meet, are killed, lose their output or find no space; nothing is lost but the shard in flight."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import location
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.faults import Process, kill
from tests.support.small_disk import needs_root, small_disk

Start = Callable[..., Process]
SHAPE = (32, 700, 700)
"""Four slabs of sections, one shard per level each."""


@pytest.fixture(scope="module")
def values() -> AnyArray:
    return np.random.default_rng(4).integers(0, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def words(values: AnyArray, tmp_path: Path) -> tuple[str, ...]:
    """The import of a stack to `tmp_path/out.zarr`."""
    tifffile.imwrite(tmp_path / "stack.tif", values, photometric="minisblack")
    sizes = ("--pixel-size", "4", "--section-thickness", "40")
    return ("import", str(tmp_path / "stack.tif"), str(tmp_path / "out.zarr"), *sizes)


def shards(output: Path) -> dict[str, int]:
    return {
        str(path.relative_to(output)): path.stat().st_mtime_ns for path in output.rglob("c/*/*/*") if path.is_file()
    }


def pixels(output: Path) -> AnyArray:
    return Volume.open(str(output)).read(Box((0, 0, 0), SHAPE))


def stopped_in_the_middle(start: Start, words: tuple[str, ...]) -> Process:
    """An import that is suspended after its first slab."""
    process = start(*words)
    first = Path(words[2]) / "0" / "c" / "0" / "0" / "0"
    process.wait_for(first.exists, every=0.001)
    os.kill(process.popen.pid, signal.SIGSTOP)
    return process


def test_a_second_import_is_refused_until_the_first_is_dead(
    values: AnyArray, words: tuple[str, ...], tmp_path: Path, start: Start
) -> None:
    output = tmp_path / "out.zarr"
    first = stopped_in_the_middle(start, words)
    tifffile.imwrite(tmp_path / "other.tif", values[:4], photometric="minisblack")
    for source in (words[1], str(tmp_path / "other.tif")):
        for switches in ((), ("--overwrite",)):
            second = ssem_dask("import", source, *words[2:], *switches)
            assert_one_sentence(second, naming="is at work on this output")
    before = shards(output)
    assert before
    kill(first.popen.pid)
    first.end()
    with pytest.raises(SourceError, match="not finished"):
        Volume.open(str(output))
    third = ssem_dask(*words)
    assert third.returncode == 0, third.stderr
    assert {path: shards(output)[path] for path in before} == before
    np.testing.assert_array_equal(pixels(output), values)
    assert location.list_names(str(output)) == ["0", "1", "2", "zarr.json"]


def test_an_interrupt_says_what_is_true(values: AnyArray, words: tuple[str, ...], tmp_path: Path, start: Start) -> None:
    output = tmp_path / "out.zarr"
    process = stopped_in_the_middle(start, words)
    os.kill(process.popen.pid, signal.SIGINT)
    os.kill(process.popen.pid, signal.SIGCONT)
    assert process.end() == 130
    assert "run the same command again to resume" in process.errors
    before = shards(output)
    assert 0 < len(before) < 12
    assert ssem_dask(*words).returncode == 0
    assert {path: shards(output)[path] for path in before} == before
    np.testing.assert_array_equal(pixels(output), values)


def test_the_old_volume_stays_while_it_is_replaced(
    values: AnyArray, words: tuple[str, ...], tmp_path: Path, start: Start
) -> None:
    output = tmp_path / "out.zarr"
    assert ssem_dask(*words).returncode == 0
    new = values[::-1].copy()
    tifffile.imwrite(tmp_path / "stack.tif", new, photometric="minisblack")
    process = start(*words, "--overwrite")
    process.wait_for((output / ".import" / "0" / "c" / "0" / "0" / "0").exists, every=0.001)
    kill(process.popen.pid)
    process.end()
    np.testing.assert_array_equal(pixels(output), values)
    assert ssem_dask(*words, "--overwrite").returncode == 0
    np.testing.assert_array_equal(pixels(output), new)


def test_an_output_that_is_removed(words: tuple[str, ...], tmp_path: Path, start: Start) -> None:
    process = stopped_in_the_middle(start, words)
    shutil.rmtree(tmp_path / "out.zarr")
    os.kill(process.popen.pid, signal.SIGCONT)
    assert process.end() == 2
    assert "the output was removed while it was written" in process.errors
    shutil.rmtree(tmp_path / "out.zarr", ignore_errors=True)
    assert ssem_dask(*words).returncode == 0


@needs_root
def test_a_disk_that_is_full_at_the_start(values: AnyArray, words: tuple[str, ...], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(64 * 1024))
        output = disk / "out.zarr"
        command = (*words[:2], str(output), *words[3:])
        assert_one_sentence(ssem_dask(*command), naming="no space left")
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        ended = ssem_dask(*command)
        assert ended.returncode == 0, ended.stderr
        np.testing.assert_array_equal(pixels(output), values)
