"""`export`: it resumes after an interrupt and follows its source; half an export is no volume."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v04
import pytest
import zarr
from typer.testing import CliRunner

import ssem_dask as package
from ssem_dask.cli.app import app
from ssem_dask.driver.run_status import run_status
from ssem_dask.errors import ConfigError, OutputError, SourceError, SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.clusters import local
from ssem_dask.stages.export import ExportTask
from ssem_dask.storage.exports import precomputed, target
from ssem_dask.storage.run_group import create_run, update_run
from ssem_dask.storage.volume import Volume
from ssem_dask.storage.volume_checks import WARP_KEY
from ssem_dask.volumes.exporting import export_volume
from ssem_dask.volumes.importing import import_volume
from tests.support.cli import ssem_dask
from tests.support.exports import files_below, make_volume, open_scale, values_of
from tests.support.faults import redone, written

pytestmark = pytest.mark.slow

HAS_TENSORSTORE = importlib.util.find_spec("tensorstore") is not None
needs_tensorstore = pytest.mark.skipif(not HAS_TENSORSTORE, reason="needs tensorstore")
EXPORTS: list[Any] = [
    pytest.param({"form": "ngff-0.4"}, id="ngff"),
    pytest.param({"form": "ngff-0.6"}, id="ngff-0.6"),
    pytest.param({"form": "vast", "chunk": (1, 64, 48)}, id="vast"),
    pytest.param({"form": "precomputed", "chunk": (4, 16, 32)}, id="sharded", marks=needs_tensorstore),
    pytest.param(
        {"form": "precomputed", "chunk": (4, 16, 32), "sharded": False}, id="unsharded", marks=needs_tensorstore
    ),
]


@pytest.fixture(autouse=True)
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units so small that a small volume has many."""
    for module in (target, precomputed):
        monkeypatch.setattr(module, "UNIT_BYTES", 1 << 15)


@pytest.mark.parametrize("options", EXPORTS)
def test_no_two_tasks_write_the_same_file(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out"
    written: dict[str, set[str]] = {}
    run = ExportTask.run

    def watched(task: Any) -> Any:
        before = stamps()
        result = run(task)
        written[task.key] = {name for name, stamp in stamps().items() if before.get(name) != stamp}
        return result

    def stamps() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and "ledger" not in p.parts}

    monkeypatch.setattr(ExportTask, "run", watched)
    export_volume(source, str(out), cluster="serial", **options)
    files = [name for names in written.values() for name in names]
    assert len(files) == len(set(files))
    assert len(written) > 10


class Interrupted(BaseException):
    """Like Ctrl-C."""


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many tasks pass, then interrupt; 0: never, but count."""
    run = ExportTask.run

    def after(tasks: int) -> None:
        left = [tasks]

        def failing(task: Any) -> Any:
            if left[0] == 0:
                raise Interrupted
            left[0] -= 1
            return run(task)

        monkeypatch.setattr(ExportTask, "run", failing)

    return after


@pytest.mark.parametrize("options", EXPORTS)
def test_an_interrupted_export_goes_on(
    tmp_path: Path, options: dict[str, Any], interrupting: Callable[[int], None]
) -> None:
    source, out, whole = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out", tmp_path / "whole"
    done = export_volume(source, str(whole), cluster="serial", **options)
    tasks = done.counts["export"]["ok"]
    interrupting(4)
    with pytest.raises(Interrupted):
        export_volume(source, str(out), cluster="serial", **options)
    with pytest.raises(SsemDaskError):  # nothing that looks like a volume
        import_volume(str(out), str(tmp_path / "back.zarr"))
    stands = run_status(str(out))
    assert (stands.state, stands.counts) == ("incomplete", {"export": {"ok": 4}})
    interrupting(tasks - 4)
    done = export_volume(source, str(out), cluster="serial", **options)
    assert (done.state, done.counts) == ("complete", {"export": {"ok": tasks}})
    names = {name.replace("whole", "out"): content for name, content in files_below(whole).items()}
    # They hold the name of the volume.
    named = (".zattrs", "zarr.json", "datasource-properties.json", "out.vsvi")
    assert {k: v for k, v in files_below(out).items() if k not in named} == {
        k: v for k, v in names.items() if k not in named
    }
    interrupting(0)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert export_volume(source, str(out), cluster="serial", **options).counts == {"export": {"ok": tasks}}
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.parametrize("command", [False, True])
def test_workers_that_are_too_small_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: bool) -> None:
    monkeypatch.setattr(local, "MEMORY_LIMIT", 400 << 20)  # less than a worker's process takes alone
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    if command:
        done = CliRunner().invoke(app, ["export", source, out, "--ngff", "0.4", "--cluster", "local", "--workers", "1"])
        assert done.exit_code == 2
        assert "largest task needs" in " ".join(done.stderr.split())
    else:
        with pytest.raises(ConfigError, match=r"each worker has 0\.42 GB .* largest task needs"):
            export_volume(source, out, form="ngff-0.4", cluster="local", workers=1)
    assert not Path(out).exists()


@needs_tensorstore
def test_a_torn_shard_is_written_anew(tmp_path: Path, interrupting: Callable[[int], None]) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out"
    interrupting(2)
    with pytest.raises(Interrupted):
        export_volume(source, str(out), form="precomputed", chunk=(4, 16, 32), cluster="serial")
    shards = list(out.rglob("*.shard"))
    assert shards
    for path in shards:
        path.write_bytes(path.read_bytes()[:100])
    for entry in (out / "ledger").rglob("mip*.json"):
        entry.unlink()
    interrupting(-1)
    export_volume(source, str(out), form="precomputed", chunk=(4, 16, 32), cluster="serial")
    np.testing.assert_array_equal(open_scale(str(out), 0)[..., 0].read().result().T, values_of(source, 0))


def test_failed_tasks_leave_no_volume_and_are_done_again(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    damaged = tmp_path / "v.zarr" / "0" / "c" / "1" / "1" / "1"
    kept = damaged.read_bytes()
    stat = damaged.stat()
    damaged.write_bytes(bytes(len(kept)))
    os.utime(damaged, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = CliRunner().invoke(app, ["export", source, out, "--ngff", "0.4", "--cluster", "serial"])
    assert done.exit_code == 1
    assert "export/mip0" in done.stdout
    printed = CliRunner().invoke(app, ["status", out, "--json"])
    assert printed.exit_code == 1
    failed = [report["key"] for report in json.loads(printed.stdout)["failed"]]
    assert failed == [f"export/mip0-z00000{z}-y0000000-x0000000" for z in (4, 6)]
    with pytest.raises(SourceError, match="without OME-Zarr image metadata"):
        Volume.open(out)
    damaged.write_bytes(kept)
    os.utime(damaged, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = CliRunner().invoke(app, ["export", source, out, "--ngff", "0.4", "--cluster", "serial", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "complete"
    assert CliRunner().invoke(app, ["status", out]).exit_code == 0
    np.testing.assert_array_equal(values_of(out, 0), values_of(source, 0))


def test_on_workers(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    assert package.export_volume(source, out, form="ngff-0.4", workers=1).state == "complete"
    np.testing.assert_array_equal(values_of(out, 0), values_of(source, 0))


def test_a_run_means_its_aligned_volume(tmp_path: Path) -> None:
    run, out = str(tmp_path / "run.zarr"), str(tmp_path / "out.zarr")
    create_run(run, attributes={"state": "complete"})
    with pytest.raises(SourceError, match="no aligned volume yet"):
        export_volume(run, out, form="ngff-0.4", cluster="serial")
    aligned = make_volume(f"{run}/aligned")
    export_volume(run, out, form="ngff-0.4", cluster="serial")
    np.testing.assert_array_equal(values_of(out, 2), values_of(aligned, 2))


@needs_tensorstore
@pytest.mark.parametrize(
    ("attributes", "labels", "kind"),
    [
        ({}, False, "image"),
        ({}, True, "segmentation"),
        ({WARP_KEY: {"labels": True, "state": "complete"}}, False, "segmentation"),
        ({"ssem_dask_import": {"labels": True, "state": "complete"}}, False, "segmentation"),
        ({"ssem_dask_import": {"state": "complete"}}, False, "image"),
    ],
)
def test_what_labels_are(tmp_path: Path, attributes: dict[str, Any], labels: bool, kind: str) -> None:
    source = make_volume(str(tmp_path / "v.zarr"), attributes=attributes)
    export_volume(source, str(tmp_path / "out"), form="precomputed", labels=labels, cluster="serial")
    assert json.loads((tmp_path / "out" / "info").read_text())["type"] == kind


def test_an_import_remembers_that_it_is_of_labels(tmp_path: Path) -> None:
    source = make_volume(str(tmp_path / "v.zarr"))
    import_volume(source, str(tmp_path / "ids.zarr"), labels=True)
    export_volume(str(tmp_path / "ids.zarr"), str(tmp_path / "out.zarr"), form="ngff-0.4", cluster="serial")
    ome_zarr_models.v04.ImageLabel.from_zarr(zarr.open_group(str(tmp_path / "out.zarr"), mode="r"))


def test_something_else_at_the_destination_stays(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out.zarr"
    file = tmp_path / "file"
    file.write_text("kept")
    for place in (source, str(tmp_path), str(file)):
        with pytest.raises(OutputError, match="choose another destination"):
            export_volume(source, place, form="ngff-0.4", cluster="serial")
    assert file.read_text() == "kept"
    export_volume(source, str(out), form="ngff-0.4", cluster="serial")
    with pytest.raises(OutputError, match="with other options"):
        export_volume(source, str(out), form="ngff-0.4", chunk=(1, 64, 64), cluster="serial")


@pytest.mark.parametrize("options", EXPORTS)
def test_sections_that_have_changed_are_exported_again(tmp_path: Path, options: dict[str, Any]) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out"
    export_volume(source, str(out), cluster="serial", **options)
    before = written(out)
    volume = Volume.open(source)
    box = Box((4, 0, 0), (8, *volume.shape_at(1)[1:]), 1)
    volume.write(box, np.full(box.shape, 7, dtype=np.uint8))
    assert export_volume(source, str(out), cluster="serial", **options).state == "complete"
    again = redone(before, out)
    assert again
    assert all("/mip1-z000004" in key or "/mip1-z000006" in key or "/mip1-z000000" in key for key in again)
    fresh = tmp_path / "fresh" / "out"
    export_volume(source, str(fresh), cluster="serial", **options)
    assert files_below(out) == files_below(fresh)


@pytest.mark.parametrize("options", EXPORTS)
def test_while_a_changed_source_is_exported_again_there_is_no_volume(
    tmp_path: Path, options: dict[str, Any], interrupting: Callable[[int], None]
) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out")
    export_volume(source, out, cluster="serial", **options)
    make_volume(source, seed=1)
    interrupting(1)
    with pytest.raises(Interrupted):
        export_volume(source, out, cluster="serial", **options)
    assert run_status(out).state == "incomplete"
    with pytest.raises(SsemDaskError):
        import_volume(out, str(tmp_path / "back.zarr"))


def test_an_export_of_what_is_not_complete_is_not_complete(tmp_path: Path) -> None:
    run, out = str(tmp_path / "run.zarr"), str(tmp_path / "out.zarr")
    create_run(run, attributes={"state": "running"})
    aligned = make_volume(f"{run}/aligned")
    for source in (run, aligned):
        words = ("export", source, out, "--ngff", "0.4", "--cluster", "serial")
        ended = ssem_dask(*words)
        assert ended.returncode == 1
        assert "is not complete" in ended.stderr
        assert run_status(out).state == "incomplete"
    before = written(out)
    update_run(run, state="complete")
    assert export_volume(run, out, form="ngff-0.4", cluster="serial").state == "complete"
    assert redone(before, out) == set()
    np.testing.assert_array_equal(values_of(out, 2), values_of(aligned, 2))


def test_a_source_that_changes_while_it_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), tmp_path / "out.zarr"
    shard = tmp_path / "v.zarr" / "0" / "c" / "1" / "1" / "1"
    original, stat = shard.read_bytes(), shard.stat()
    run = ExportTask.run

    def watched(task: Any) -> Any:
        done = run(task)
        if task.key.startswith("export/mip1-z000000-y0000000-x0000000"):
            make_volume(source, seed=2)
        return done

    monkeypatch.setattr(ExportTask, "run", watched)
    words = ("export", source, str(out), "--ngff", "0.4", "--cluster", "serial")
    ended = ssem_dask(*words)
    assert ended.returncode == 1
    assert "sections 0:4, 4:8, 8:12, 12:13 were written while this command read them" in " ".join(ended.stderr.split())
    assert not (out / ".zattrs").exists()
    monkeypatch.setattr(ExportTask, "run", run)
    # One file is restored, with its time: it is not known which of the two was read.
    shard.write_bytes(original)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ssem_dask(*words).returncode == 0
    np.testing.assert_array_equal(values_of(str(out), 0), values_of(source, 0))


def test_bad_chunks_are_refused(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    for chunk, message in (((0, 8, 8), "is empty"), ((1, 1 << 15, 1 << 15), "bytes, but at most")):
        with pytest.raises(ConfigError, match=message):
            export_volume(source, out, form="ngff-0.4", chunk=chunk, cluster="serial")
    with pytest.raises(ConfigError, match="never sharded"):
        export_volume(source, out, form="ngff-0.4", sharded=False, cluster="serial")
    assert not Path(out).exists()


@pytest.mark.parametrize("words", [[], ["--ngff", "0.4", "--precomputed"], ["--ngff", "0.3"]])
def test_one_format_is_to_be_named(tmp_path: Path, words: list[str]) -> None:
    source = make_volume(str(tmp_path / "v.zarr"))
    done = CliRunner().invoke(app, ["export", source, str(tmp_path / "out"), *words])
    assert done.exit_code == 2
    assert "0.4" in done.stderr


def test_the_chunk_is_the_user_s_to_choose(tmp_path: Path) -> None:
    source, out = make_volume(str(tmp_path / "v.zarr")), str(tmp_path / "out.zarr")
    words = ["export", source, out, "--ngff", "0.4", "--chunk", "3", "50", "20", "--cluster", "serial"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert zarr.open_array(out, path="0", mode="r").chunks == (3, 50, 20)
    np.testing.assert_array_equal(values_of(out, 1), values_of(source, 1))
