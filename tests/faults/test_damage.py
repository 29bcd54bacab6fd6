"""Torn shards, flipped bytes, files that are gone: found by checksum, and that chunk alone is written again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.arrays import open_array
from tests.support.cli import ssem_dask
from tests.support.faults import SETTINGS, assert_undisturbed, entries, redone, written


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [tear, flip, remove])
@pytest.mark.parametrize("stage", ["render", "register"])
def test_damage_after_the_end_is_found_and_that_chunk_alone_is_written_again(
    undisturbed: str, tmp_path: Path, harm: Callable[[Path], None], stage: str
) -> None:
    output = tmp_path / "out.zarr"
    shutil.copytree(undisturbed, output)
    assert ssem_dask("verify", str(output), "--cluster", "serial").returncode == 0
    key = next(key for key in sorted(entries(output)) if key.startswith(f"{stage}/z000004"))
    harm(output / max(entries(output)[key].files.items(), key=lambda file: file[1])[0])
    before = written(output)
    printed = ssem_dask("verify", str(output), "--cluster", "serial", "--json")
    assert printed.returncode == 1
    assert [(report["key"], report["cause"]) for report in json.loads(printed.stdout)["failed"]] == [(key, "io")]
    assert ssem_dask("status", str(output)).returncode == 1
    ended = ssem_dask("rerun", str(output), "--failed", "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    assert redone(before, output) == {key}
    assert_undisturbed(output, undisturbed, fault=f"{harm.__name__} of {stage}", redone=1)


@pytest.mark.parametrize(("harm", "allow_missing"), [(tear, False), (flip, True)])
def test_damage_in_the_middle_of_a_run_is_mended_on_the_way(
    observed: str, undisturbed: str, tmp_path: Path, harm: Callable[[Path], None], *, allow_missing: bool
) -> None:
    """The register stage is done when one of its shards is damaged: compose finds it, and both are done again.

    Where missing parts are allowed, later stages have continued without them, and are done again too.
    """
    output = tmp_path / "out.zarr"
    shutil.copytree(undisturbed, output)
    for stage in ("compose", "render", "downsample", "measure"):
        shutil.rmtree(output / "ledger" / stage)
    for array in ("blocks", "extrapolated", "stitches", "section"):  # otherwise what compose left would be read
        shutil.rmtree(output / "fields" / array / "c")
    key = "register/z000004-y0000000-x0000096"
    harm(output / "fields" / "pairs" / "c" / "0" / "1" / "0" / "0" / "1")
    before = written(output)
    summary = package.align(observed, str(output), cluster="serial", allow_missing=allow_missing, **SETTINGS)
    assert summary.state == "complete"
    assert redone(before, output) == {key}
    assert entries(output)["compose/block-00001"].attempts == 2
    assert_undisturbed(output, undisturbed, fault=f"{harm.__name__} of a shard before it is read", redone=1)


def test_a_shard_that_was_never_written_is_not_taken_for_lost(undisturbed: str) -> None:
    """Shards that hold nothing but the fill value have no file, and that is no damage."""
    assert {stage.name for stage in STAGES} == {key.split("/")[0] for key in entries(undisturbed)}
    masks = np.asarray(open_array(f"{undisturbed}/masks/damage", mode="r")[:])
    for key, report in entries(undisturbed).items():
        is_sound = key.startswith("coarse/parts") or (report.stage == "mask" and not masks.any())
        assert report.files or is_sound, key
