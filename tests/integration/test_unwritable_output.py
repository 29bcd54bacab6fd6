"""An output that cannot be written: one sentence at the start, named chunks later, and on with it afterwards."""

import os
import subprocess
from pathlib import Path

import ssem_dask as package
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import open_run, plan
from ssem_dask.errors import OutputError
from ssem_dask.storage.run_group import read_run
from ssem_dask.task import Cause
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SMALL
from tests.support.small_disk import needs_root, small_disk


def test_an_output_below_a_file(observed: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = ssem_dask("align", observed, str(tmp_path / "file" / "out.zarr"), "--cluster", "serial")
    assert_one_sentence(ended, naming="out.zarr")


@needs_root
def test_a_read_only_output(observed: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="ro,size=1m") as disk:
        assert_one_sentence(
            ssem_dask("align", observed, str(disk / "out.zarr"), "--cluster", "serial"), naming="out.zarr"
        )


@needs_root
def test_a_disk_that_is_full_from_the_start(observed: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(64 * 1024))
        ended = ssem_dask("align", observed, str(disk / "out.zarr"), "--cluster", "serial")
        assert_one_sentence(ended, naming="no space left")
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        open_run(plan(make_config({"source": observed, "output": str(disk / "out.zarr"), **SMALL})))
        assert read_run(str(disk / "out.zarr")).state == "running"


@needs_root
def test_a_disk_that_fills_up(observed: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="size=4m") as disk:
        output, ballast = str(disk / "out.zarr"), disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(bytes(free - 300 * 1024))
        try:
            first = package.align(observed, output, cluster="serial", **SMALL)
        except OutputError as error:  # not even the ledger could be written
            assert "no space left" in str(error)  # noqa: PT017  either ending is right
        else:
            assert first.state == "incomplete"
            assert {report.cause for report in first.failed} == {Cause.IO}
            assert "no space left" in first.failed[0].message
        ballast.unlink()
        assert package.align(observed, output, cluster="serial", **SMALL).state == "complete"
