"""Parts of a run are done again: exactly what was chosen and what depends on it, as the ledger proves."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.ledger import open_ledger, page_of
from ssem_dask.storage.run_group import read_run
from ssem_dask.task import Cause, Outcome
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SMALL, assert_same

SETTINGS = {**SMALL, "compose": {"method": "chain", "chain": {"block": 4, "stitch": 2, "decay": 4}}}


@pytest.fixture(scope="module")
def finished(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run: windows of 96 px in groups of 4 sections, blocks of 4."""
    output = str(tmp_path_factory.mktemp("finished") / "out.zarr")
    assert package.align(observed, output, cluster="serial", **SETTINGS).state == "complete"
    return output


@pytest.fixture
def output(finished: str, tmp_path: Path) -> str:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "out.zarr")
    return str(tmp_path / "out.zarr")


def entries(output: str) -> dict[str, int]:
    """When each entry of the ledger was written."""
    ledger = open_ledger(str(output))
    return {key: Path(ledger.entry_url(key)).stat().st_mtime_ns for key in ledger.keys(None)}


def rerun(output: str, *words: str, code: int = 0) -> dict[str, Any]:
    ended = ssem_dask("rerun", output, *words, "--cluster", "serial", "--json")
    assert ended.returncode == code, ended.stderr
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def done_again(before: dict[str, int], output: str) -> set[str]:
    """Return the tasks whose entry was written since and is valid: not those that are only marked as stale."""
    standing = open_ledger(output).done(None)
    return {key for key, written in entries(output).items() if before.get(key) != written and key in standing}


def spoil(output: str, key: str, *, cause: Cause) -> None:
    """Make a task one that failed, as its ledger entry has it."""
    ledger = open_ledger(output)
    entry = ledger.read(key)
    assert entry is not None
    ledger.replace_all([replace(entry, outcome=Outcome.FAILED, cause=cause)])


def test_one_chunk_and_what_depends_on_it(output: str, finished: str) -> None:
    before = entries(output)
    printed = rerun(output, "--chunk", "render/z000004-y0000128-x0000000")
    expected = {
        "render/z000004-y0000128-x0000000",
        "downsample/mip1-z000004-y0000000-x0000000",
        "downsample/mip2-z000004-y0000000-x0000000",
        "measure/z000000",
        "measure/z000008",  # reads the section before its first
        "measure/attention-all",
    }
    assert done_again(before, output) == expected
    assert printed["again"]["chosen"] == ["render/z000004-y0000128-x0000000"]
    assert set(printed["again"]["dependent"]) == expected - set(printed["again"]["chosen"])
    assert printed["state"] == "complete"
    assert_same(output, finished)


def test_a_window_reaches_as_far_as_decay_does(output: str, finished: str) -> None:
    before = entries(output)
    rerun(output, "--chunk", "register/z000008-y0000000-x0000000")
    again = done_again(before, output)
    # Blocks 1 (sections 4–9 with its stitch) and 2 (8–9) read section 8; nothing reads back from them to sections 0–3.
    assert {key for key in again if key.startswith("register")} == {"register/z000008-y0000000-x0000000"}
    composed = {"block-00001", "block-00002", "stitch-00001", "stitch-00002", "sections-00001", "sections-00002"}
    assert {key for key in again if key.startswith("compose")} == {f"compose/{name}" for name in composed}
    assert {key[:14] for key in again if key.startswith("render/z")} == {"render/z000004", "render/z000008"}
    assert_same(output, finished)


def test_a_stage_and_sections(output: str, finished: str) -> None:
    before = entries(output)
    printed = rerun(output, "--stage", "render", "--sections", "0:4")
    assert {key[:14] for key in printed["again"]["chosen"]} == {"render/z000000", "render/support"}
    assert done_again(before, output) == set(printed["again"]["chosen"]) | set(printed["again"]["dependent"])
    assert_same(output, finished)


def test_what_failed_of_one_cause(output: str) -> None:
    one, other = "render/z000000-y0000000-x0000000", "render/z000008-y0000000-x0000000"
    spoil(output, one, cause=Cause.OUT_OF_MEMORY)
    spoil(output, other, cause=Cause.BUG)
    before = entries(output)
    printed = rerun(output, "--cause", "out_of_memory", code=1)
    # The pyramid above it waits, since a stage that has a hole is not built upon.
    assert done_again(before, output) == {one}
    assert printed["counts"]["render"] == {"ok": 13, "failed": 1}
    assert [report["key"] for report in printed["failed"]] == [other]
    entry = open_ledger(output).read(one)
    assert entry is not None
    assert (entry.outcome, entry.attempts) == (Outcome.OK, 2)
    printed = rerun(output, "--failed")
    assert printed["again"]["chosen"] == [other]
    assert printed["state"] == "complete"


def test_changed_values_for_the_chunks_that_failed_alone(output: str, finished: str) -> None:
    key = "register/z000000-y0000000-x0000000"
    spoil(output, key, cause=Cause.OUT_OF_MEMORY)
    before = entries(output)
    rerun(output, "--cause", "out_of_memory", "--set", "register.window=64")
    again = done_again(before, output)
    assert {k for k in again if k.startswith("register")} == {key}
    ledger = open_ledger(output)
    entry, other = ledger.read(key), ledger.read("register/z000000-y0000096-x0000000")
    assert entry is not None
    assert other is not None
    assert (entry.outcome, entry.changes) == (Outcome.OK, {"register.window": 64})
    assert other.changes == {}
    pairs, whole = (np.asarray(open_array(f"{url}/fields/pairs", mode="r")[0, 1:4]) for url in (output, finished))
    assert np.isfinite(pairs).mean() > 0.75
    assert 0 < np.nanmedian(np.abs(pairs - whole)[..., :6, :6]) < 0.5  # other windows, so not the same to the bit
    assert np.array_equal(pairs[..., 6:, :], whole[..., 6:, :], equal_nan=True)
    # It needs no saying that the chunk is done so again when it is done again.
    before = entries(output)
    rerun(output, "--chunk", key)
    repeated = ledger.read(key)
    assert repeated is not None
    assert repeated.changes == {"register.window": 64}
    assert key in done_again(before, output)


def test_a_changed_configuration_makes_stale_what_it_concerns(output: str) -> None:
    before = entries(output)
    printed = rerun(output, "--set", "render.interpolation=bilinear")
    assert {key.split("/")[0] for key in done_again(before, output)} == {"render", "downsample", "measure"}
    assert printed["state"] == "complete"
    assert read_run(output).config["render"]["interpolation"] == "bilinear"
    # A table of a method that is not used concerns nothing.
    before = entries(output)
    rerun(output, "--set", "compose.relax.window=32")
    assert done_again(before, output) == set()


def test_another_layout_is_made_anew(output: str, observed: str, tmp_path: Path) -> None:
    rerun(output, "--set", "register.window=128", "--set", "render.shard=[4, 64, 64]")
    fresh = str(tmp_path / "fresh.zarr")
    changed = {"register": {**SMALL["register"], "window": 128}, "render": {**SMALL["render"], "shard": (4, 64, 64)}}
    assert package.align(observed, fresh, cluster="serial", **{**SETTINGS, **changed}).state == "complete"
    assert_same(output, fresh)
    assert set(entries(output)) == set(entries(fresh))


def test_other_weights_under_the_same_name(observed: str, tmp_path: Path) -> None:
    weights, output = tmp_path / "mine.safetensors", str(tmp_path / "out.zarr")
    words = ("train", observed, str(weights), "--encoder", "metric", "--steps", "2", "--json")
    assert ssem_dask(*words, "--seed", "1").returncode == 0
    settings = {**SETTINGS, "register": {**SMALL["register"], "gauss_newton": {"encoder": str(weights)}}}
    package.align(observed, output, cluster="serial", **settings)
    before = entries(output)
    assert ssem_dask(*words, "--seed", "2").returncode == 0
    printed = rerun(output)
    again = {key.split("/")[0] for key in done_again(before, output)}
    assert again == {"calibrate", "register", "compose", "render", "downsample", "measure"}
    assert printed["state"] == "complete"


def test_a_torn_entry_brings_its_dependents_along(output: str, finished: str) -> None:
    key = "compose/sections-00002"
    ledger = open_ledger(output)
    ledger.forget_page(page_of(key))
    path = Path(ledger.entry_url(key))
    path.write_bytes(path.read_bytes()[:40])
    before = entries(output)
    printed = rerun(output)
    assert printed["state"] == "complete"
    again = done_again(before, output)
    assert {k.split("/")[0] for k in again} == {"compose", "render", "downsample", "measure"}
    assert {k[:14] for k in again if k.startswith("render")} == {"render/z000008"}
    assert_same(output, finished)


def test_a_dry_run_touches_nothing(output: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(output).rglob("*")}
    ended = ssem_dask("rerun", output, "--stage", "render", "--dry-run", "--json")
    assert ended.returncode == 0
    assert len(json.loads(ended.stdout)["again"]["chosen"]) == 14
    assert {p: p.stat().st_mtime_ns for p in Path(output).rglob("*")} == before


def test_status_names_every_failed_chunk(output: str) -> None:
    spoil(output, "render/z000000-y0000000-x0000000", cause=Cause.TIMEOUT)
    spoil(output, "render/z000008-y0000000-x0000000", cause=Cause.GPU_OUT_OF_MEMORY)
    ended = ssem_dask("status", output)
    assert ended.returncode == 1
    assert "render/z000000-y0000000-x0000000" in ended.stdout
    assert "1 gpu_out_of_memory, 1 timeout" in ended.stdout
    printed = json.loads(ssem_dask("status", output, "--json").stdout)
    assert printed["state"] == "incomplete"
    assert {r["key"]: r["cause"] for r in printed["failed"]}["render/z000000-y0000000-x0000000"] == "timeout"
    assert all({"attempts", "worker", "seconds", "log"} <= set(r) for r in printed["failed"])


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--chunk", "render/nowhere"), "render/nowhere"),
        (("--stage", "rendering"), "rendering"),
        (("--sections", "9:4"), "9:4"),
        (("--sections", "70"), "70"),
        (("--set", "register.windw=64"), "did you mean 'window'"),
        (("--set", "register"), "table.key=value"),
        (("--set", "source=other.zarr"), "another run"),
        (("--failed", "--set", "register.spacing=32"), "where results are stored"),
    ],
)
def test_what_cannot_be_meant(words: tuple[str, ...], naming: str, finished: str) -> None:
    before = entries(finished)
    assert_one_sentence(ssem_dask("rerun", finished, *words, "--cluster", "serial"), naming=naming)
    assert entries(finished) == before


def test_killed_while_it_marks_what_is_stale_it_is_still_right(output: str, finished: str) -> None:
    """Half of the marks are written: whatever has none rests on what was not done again."""
    printed = json.loads(ssem_dask("rerun", output, "--stage", "compose", "--dry-run", "--json").stdout)
    again = printed["again"]["chosen"] + printed["again"]["dependent"]
    ledger = open_ledger(output)
    found = [ledger.read(key) for key in again[len(again) // 2 :]]
    ledger.replace_all(replace(entry, outcome=Outcome.STALE) for entry in found if entry is not None)
    before = entries(output)
    ended = ssem_dask("rerun", output, "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    assert done_again(before, output) == set(again[len(again) // 2 :])
    assert_same(output, finished)


@pytest.mark.parametrize(
    "cluster",
    [
        {"name": "tls://203.0.113.9:8786"},
        {"name": "slurm", "slurm": {"prologue": ["touch owned"]}},
        {"name": "/somewhere/site.toml"},
        {"name": ["local"]},
        {"name": None},
        None,
        ["local"],
    ],
)
def test_where_a_command_runs_is_never_taken_from_a_store(output: str, cluster: Any) -> None:
    metadata = Path(output) / "zarr.json"
    tree = json.loads(metadata.read_text())
    tree["attributes"]["ssem_dask"]["given"]["cluster"] = cluster
    is_named = isinstance(cluster, dict) and isinstance(cluster["name"], str)
    metadata.write_text(json.dumps(tree))
    for command in ("rerun", "verify"):
        assert_one_sentence(ssem_dask(command, output), naming="give --cluster" if is_named else "cluster")


def test_where_results_are_written_is_never_taken_from_a_store(output: str, tmp_path: Path) -> None:
    metadata = Path(output) / "zarr.json"
    tree = json.loads(metadata.read_text())
    for table in (tree["attributes"]["ssem_dask"]["given"], tree["attributes"]["ssem_dask"]["config"]):
        table["output"] = str(tmp_path / "elsewhere.zarr")
    metadata.write_text(json.dumps(tree))
    for words in (("rerun", output, "--stage", "measure"), ("verify", output)):
        ended = ssem_dask(*words, "--cluster", "serial")
        assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


def test_a_run_does_not_keep_how_to_reach_a_cluster(output: str) -> None:
    table = {"name": "slurm", "tls": "/home/me/tls", "slurm": {"prologue": ["export TOKEN=secret"]}}
    config = make_config({"source": read_run(output).source, "output": output, "cluster": table})
    assert plan(config).given["cluster"] == {"name": "slurm", "workers": None}


def test_a_shell_loop_brings_a_run_to_its_end(observed: str, tmp_path: Path) -> None:
    """The loop of docs/failures.md: exit codes and JSON are enough."""
    loop = 'for i in 1 2 3; do "$0" -m ssem_dask.cli rerun "$1" --failed --cluster serial && exit 0; done; exit 1'
    source = tmp_path / "source.zarr"
    shutil.copytree(observed, source)
    chunk = source / "0" / "c" / "7" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:100])
    output = str(tmp_path / "out.zarr")
    assert package.align(str(source), output, cluster="serial", **SETTINGS).state == "incomplete"
    printed = json.loads(ssem_dask("status", output, "--json").stdout)
    assert {report["cause"] for report in printed["failed"]} == {"bad_input"}
    assert "source.zarr" in printed["failed"][0]["message"]
    chunk.write_bytes(whole)
    ended = subprocess.run(["bash", "-c", loop, sys.executable, output], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert read_run(output).state == "complete"
