"""Parts of the source are missing or damaged, or change after they were read; and the disk fills up."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import ssem_dask as package
from ssem_dask.errors import OutputError
from ssem_dask.runtime.events import SilentObserver, StageStarted
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import read_run
from ssem_dask.task import Cause
from tests.support.cli import ssem_dask
from tests.support.faults import SETTINGS, assert_undisturbed, entries, redone, written
from tests.support.small_disk import needs_root, small_disk


@pytest.fixture
def source(observed: str, tmp_path: Path) -> Path:
    """A copy that may be harmed."""
    copy = tmp_path / "source.zarr"
    shutil.copytree(observed, copy)
    return copy


def test_a_damaged_source_chunk_is_named_and_mending_it_suffices(
    undisturbed: str, source: Path, tmp_path: Path
) -> None:
    output, chunk = tmp_path / "out.zarr", source / "0" / "c" / "7" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    assert package.align(str(source), str(output), cluster="serial", **SETTINGS).state == "incomplete"
    printed = json.loads(ssem_dask("status", str(output), "--json").stdout)
    assert {report["key"] for report in printed["failed"]} == {"coarse/pairs-z000000", "coarse/pairs-z000008"}
    assert {report["cause"] for report in printed["failed"]} == {Cause.BAD_INPUT}
    assert all("box (7, 0, 0)" in report["message"] and "damaged" in report["message"] for report in printed["failed"])
    chunk.write_bytes(whole)
    ended = ssem_dask("rerun", str(output), "--failed", "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    assert_undisturbed(output, undisturbed, fault="a torn source chunk, repaired", redone=2)


def test_going_on_over_a_hole_and_filling_it_later(undisturbed: str, source: Path, tmp_path: Path) -> None:
    """Render fails on the damaged chunk; the pyramid is made all the same, and again when the hole is filled."""
    output, chunk = tmp_path / "out.zarr", source / "0" / "c" / "7" / "0" / "0"
    shutil.copytree(undisturbed, output)
    shutil.rmtree(output / "ledger" / "render")
    shutil.rmtree(output / "ledger" / "downsample")
    shutil.rmtree(output / "ledger" / "measure")
    for level in ("0", "1", "2"):
        shutil.rmtree(output / "aligned" / level / "c")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:50])
    _point_to(output, source)
    words = ("rerun", str(output), "--cluster", "serial")
    ended = ssem_dask(*words, "--json")
    assert ended.returncode == 1
    assert "downsample" not in json.loads(ended.stdout)["counts"]
    ended = ssem_dask(*words, "--allow-missing", "--json")
    assert ended.returncode == 1
    printed = json.loads(ended.stdout)
    failed = {report["key"] for report in printed["failed"]}
    assert printed["state"] == "incomplete" == read_run(str(output)).state
    assert failed
    assert all(key.startswith(("render/z000004", "measure/")) for key in failed)  # measuring looks at the source too
    assert sum(printed["counts"]["downsample"].values()) == 6
    chunk.write_bytes(whole)
    before = written(output)
    ended = ssem_dask("rerun", str(output), "--failed", "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    pyramid = {f"downsample/mip{mip}-z000004-y0000000-x0000000" for mip in (1, 2)}
    # The measures of the source are compared with those of the aligned sections.
    measured = {key.replace("source-", "") for key in failed if key.startswith("measure/source-")}
    dependents = {*pyramid, *measured, "measure/attention-all"}
    assert redone(before, output) == failed | dependents
    assert_undisturbed(
        output, undisturbed, fault="--allow-missing over a torn source chunk", redone=len(failed | dependents)
    )


def test_going_on_over_a_hole_from_the_first_stage_on(undisturbed: str, source: Path, tmp_path: Path) -> None:
    output, chunk = tmp_path / "out.zarr", source / "0" / "c" / "7" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:50])
    first = package.align(str(source), str(output), cluster="serial", allow_missing=True, **SETTINGS)
    assert first.state == "incomplete" == read_run(str(output)).state
    assert {report.cause for report in first.failed} == {Cause.BAD_INPUT}
    assert {report.stage for report in first.failed} >= {"coarse", "register", "render"}
    assert sum(first.counts["downsample"].values()) == 6
    chunk.write_bytes(whole)
    before = written(output)
    ended = ssem_dask("rerun", str(output), "--failed", "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    again = redone(before, output)
    assert {report.key for report in first.failed} <= again
    assert_undisturbed(output, undisturbed, fault="--allow-missing from the first stage on", redone=len(again))


def test_a_missing_source_chunk_is_black_and_said(undisturbed: str, source: Path, tmp_path: Path) -> None:
    """Zarr's own law: a chunk that is not there is fill value. The section is then bridged, and that is said."""
    output = tmp_path / "out.zarr"
    for chunk in (source / "0" / "c" / "5").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    summary = package.align(str(source), str(output), cluster="serial", **SETTINGS)
    assert summary.state == "complete"
    assert any("5" in remark.message for remark in summary.remarks if remark.key.startswith("coarse"))
    assert np.isfinite(package.open_alignment(str(output)).fields()).all()


def test_a_section_that_was_imaged_again_makes_stale_what_reads_it(
    undisturbed: str, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    assert package.align(str(source), str(output), cluster="serial", **SETTINGS).state == "complete"
    pixels = zarr.open_array(str(source / "0"), mode="r+")
    image = np.asarray(pixels[9])
    pixels[9] = np.roll(image, 3, axis=0)
    before = written(output)
    printed = json.loads(ssem_dask("rerun", str(output), "--dry-run", "--json").stdout)
    again = {key for keys in printed["again"].values() for key in keys}
    # Sections 8 and 9 are compared in one task; the search, the solve, and all that rests on it, depend on that.
    searches = {f"coarse/{name}-z{z:06d}" for name in ("search", "parts") for z in (0, 8)}
    solves = {"coarse/places-all", "coarse/sections"}
    assert {key for key in again if key.startswith("coarse")} == {"coarse/pairs-z000008", *searches, *solves}
    assert ssem_dask("rerun", str(output), "--cluster", "serial").returncode == 0
    assert redone(before, output) == again
    pixels[9] = image
    # `run` and `align` never throw results away; rerun does.
    with pytest.raises(OutputError, match=r"sections 9:10 have been written .*ssem-dask rerun"):
        package.align(str(source), str(output), cluster="serial", **SETTINGS)
    assert ssem_dask("rerun", str(output), "--cluster", "serial").returncode == 0
    assert package.align(str(source), str(output), cluster="serial", **SETTINGS).state == "complete"
    assert_undisturbed(output, undisturbed, fault="a source section changed and changed back", redone=len(again))


class Overwriting(SilentObserver):
    """Replaces a section of a source when a stage begins."""

    def __init__(self, source: Path, *, stage: str) -> None:
        self._source, self._stage = source, stage

    def stage_started(self, event: StageStarted) -> None:
        if event.stage == self._stage:
            roll_section(self._source)


def roll_section(source: Path) -> None:
    pixels = zarr.open_array(str(source / "0"), mode="r+")
    pixels[9] = np.roll(np.asarray(pixels[9]), 3, axis=0)


def test_a_source_that_changes_while_it_is_read_and_comes_back(undisturbed: str, source: Path, tmp_path: Path) -> None:
    output, kept = tmp_path / "out.zarr", tmp_path / "kept"
    shutil.copytree(source / "0", kept)
    observer = Overwriting(source, stage="compose")
    first = package.align(str(source), str(output), cluster="serial", observer=observer, **SETTINGS)
    assert first.state == "incomplete" == read_run(str(output)).state
    assert first.failed == []
    assert "sections 9:10 were written while this command read them" in first.reasons[0]
    # It comes back with its old times, as from a backup.
    shutil.rmtree(source / "0")
    shutil.copytree(kept, source / "0")
    with pytest.raises(OutputError, match=r"sections 9:10 have been written .*ssem-dask rerun"):
        package.align(str(source), str(output), cluster="serial", **SETTINGS)
    before = written(output)
    assert ssem_dask("rerun", str(output), "--cluster", "serial").returncode == 0
    again = redone(before, output)
    assert_undisturbed(output, undisturbed, fault="a source section changed while a run read it", redone=len(again))


@needs_root
def test_a_disk_that_is_full_for_a_while(observed: str, undisturbed: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="size=6m") as disk:
        output, ballast = disk / "out.zarr", disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(bytes(free - 400 * 1024))
        try:
            first = package.align(observed, str(output), cluster="serial", **SETTINGS)
        except OutputError as error:  # not even the ledger could be written
            assert "no space left" in str(error)  # noqa: PT017  either ending is right
        else:
            assert first.state == "incomplete"
            assert {report.cause for report in first.failed} == {Cause.IO}
        stood = {key for key, report in entries(output).items() if report.outcome.is_done}
        assert stood
        before = written(output)
        ballast.unlink()
        ended = ssem_dask("rerun", str(output), "--cluster", "serial")
        assert ended.returncode == 0, ended.stderr
        again = redone(before, output)
        assert not again & stood
        assert_undisturbed(output, undisturbed, fault="the disk full in the middle", redone=len(again))


def _point_to(output: Path, source: Path) -> None:
    """Make a run one of a copy of its source."""
    metadata = json.loads((output / "zarr.json").read_text())
    attributes = metadata["attributes"]["ssem_dask"]
    attributes["source"] = attributes["given"]["source"] = str(source)
    del attributes["source_place"], attributes["source_absolute"]
    (output / "zarr.json").write_text(json.dumps(metadata))
    (output / "ledger" / "source.stamps").unlink()
    digests = _digests(output)
    ledger = open_ledger(str(output))
    for key in list(entries(output)):
        entry = ledger.read(key)
        assert entry is not None
        ledger.replace_all([replace(entry, digest=digests[entry.stage])])


def _digests(output: Path) -> Mapping[str, str]:
    from ssem_dask.config.resolve import resolve
    from ssem_dask.config.schema import make_config

    job, _ = resolve(make_config({**read_run(str(output)).given, "output": str(output)}))
    return job.digests
