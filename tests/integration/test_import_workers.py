"""Import by several workers: the volume of one process, its errors, and nothing left of workers that died."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import IncompleteError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.clusters.local import start_local
from ssem_dask.runtime.execute import unfinished
from ssem_dask.runtime.executor import Executor, SerialExecutor
from ssem_dask.storage import location
from ssem_dask.storage.late_writes import leave_note
from ssem_dask.storage.lease import Claim
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Cause
from ssem_dask.types import AnyArray
from ssem_dask.volumes import import_slabs
from ssem_dask.volumes.import_plan import ImportPlan
from ssem_dask.volumes.importing import import_volume, plan_import, run_import
from tests.support.cli import assert_one_sentence, ssem_dask

SHAPE = (7, 300, 310)
OPTIONS: dict[str, Any] = {"pixel_size": 4.0, "section_thickness": 40.0, "chunk": (1, 64, 64), "shard": (2, 128, 128)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, with a slab and a shard of zeros, which have no files."""
    folder = tmp_path_factory.mktemp("images")
    values = np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)
    values[2:4] = 0
    values[:2, :128, :128] = 0
    for z, section in enumerate(values):
        tifffile.imwrite(folder / f"{z}.tif", section)
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    with start_local(2) as executor:
        yield executor


def plan_of(source: Path, out: Path) -> ImportPlan:
    return plan_import(str(source), str(out), **OPTIONS)


def level(url: Path, mip: int) -> AnyArray:
    volume = Volume.open(str(url))
    return volume.read(Box((0, 0, 0), volume.shape_at(mip), mip))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_workers_write_the_volume_that_one_process_writes(source: Path, tmp_path: Path, workers: Executor) -> None:
    one, several, pixels = tmp_path / "one.zarr", tmp_path / "several.zarr", list[int]()
    import_volume(str(source), str(one), **OPTIONS)
    run_import(plan_of(source, several), executor=workers, progress=pixels.append)
    assert sum(pixels) == np.prod(SHAPE)
    found, expected = files(several), files(one)
    assert found.keys() == expected.keys()  # no lease, no journal, no ledger
    assert {name for name in found if found[name] != expected[name]} <= {"zarr.json"}  # it has the name of the volume
    assert np.array_equal(level(several, 1), level(one, 1))


def test_an_interrupted_import_is_finished_by_workers(source: Path, tmp_path: Path, workers: Executor) -> None:
    out, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    import_volume(str(source), str(whole), **OPTIONS)

    def interrupt(_pixels: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(plan_of(source, out), progress=interrupt)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("c/*/*/*") if path.is_file()}
    assert before
    run_import(plan_of(source, out), executor=workers)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert np.array_equal(level(out, 0), level(whole, 0))


def test_an_error_in_a_worker_is_the_users_sentence(source: Path, tmp_path: Path, workers: Executor) -> None:
    damaged, out = tmp_path / "images", tmp_path / "out.zarr"
    damaged.mkdir()
    for path in source.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    plan = plan_of(damaged, out)
    content = (damaged / "6.tif").read_bytes()
    (damaged / "6.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"6\.tif"):
        run_import(plan, executor=workers)
    assert not out.exists()


class _Dying(SerialExecutor):
    """All workers of the first slab died."""

    def map(self, work: Any, tasks: Any) -> Iterator[Any]:
        for number, task in enumerate(tasks):
            yield unfinished(task, cause=Cause.WORKER_LOST, message="its worker died") if number == 0 else work(task)


def test_an_import_whose_workers_died_is_continued(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(IncompleteError, match=r"sections 0 to 1 could not be imported: its worker died; run the same"):
        run_import(plan_of(source, out), executor=_Dying())
    with pytest.raises(SourceError, match="import"):
        Volume.open(str(out))
    run_import(plan_of(source, out), executor=SerialExecutor())
    assert level(out, 0).shape == SHAPE
    assert not (out / "ledger").exists()


def test_what_a_late_worker_may_have_overwritten_is_written_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    import_volume(str(source), str(whole), **OPTIONS)
    copy_slab, overwritten = import_slabs.copy_slab, list[str]()

    def overtaken(task: Any) -> Any:
        """A worker of an earlier import writes after this one, and leaves its note."""
        report = copy_slab(task)
        if task.start == 4 and not overwritten:
            overwritten.append(task.key)
            shard = next(path for path in (out / "0" / "c" / "2").rglob("*") if path.is_file())
            shard.write_bytes(
                next(path for path in (whole / "0" / "c" / "3").rglob("*") if path.is_file()).read_bytes()
            )
            claim = Claim(
                url=location.join(str(out), "ledger", "drivers.lease"),
                output=str(out),
                generation=1,
                name="earlier",
            )
            leave_note(claim, key=task.key, digest="other")
        return report

    monkeypatch.setattr(import_slabs, "copy_slab", overtaken)
    with pytest.raises(IncompleteError, match="run the same command again"):
        run_import(plan_of(source, out), executor=SerialExecutor())
    assert overwritten
    run_import(plan_of(source, out), executor=SerialExecutor())
    assert np.array_equal(level(out, 0), level(whole, 0))
    assert not (out / "ledger").exists()


def test_as_many_workers_as_cores_slabs_and_memory_allow(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(source, tmp_path / "out.zarr")
    assert import_slabs.suggest_workers(plan) == 1
    large = replace(plan, info=replace(plan.info, shape=(100, 8192, 8192)), shard=(8, 2048, 2048))
    assert large.worker_memory > 1 << 30
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(import_slabs, "_available_memory", lambda: 1 << 40)
    assert import_slabs.suggest_workers(large) == 13  # slabs of 8 sections
    monkeypatch.setattr(import_slabs, "_available_memory", lambda: 4 * large.worker_memory)
    assert import_slabs.suggest_workers(large) == 4


def test_the_command_imports_with_workers(source: Path, tmp_path: Path) -> None:
    sizes = ("--pixel-size", "4", "--section-thickness", "40")
    done = ssem_dask("import", str(source), str(tmp_path / "out.zarr"), *sizes, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert level(tmp_path / "out.zarr", 0).shape == SHAPE
    again = ssem_dask("import", str(source), str(tmp_path / "out.zarr"), *sizes, "--workers", "2")
    assert_one_sentence(again, naming="already there")
