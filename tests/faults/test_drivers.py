"""Drivers that sleep, that die with tasks at work, that share a name with others, or whose output is removed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ssem_dask as package
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.faults import SETTINGS, Cluster, Process, assert_undisturbed, kill, tell, wait_for, written
from tests.support.runs import aligned_pixels

Start = Callable[..., Process]
QUICK = "tests.support.quick_lease"


def unshare(*kinds: str) -> tuple[str, ...]:
    """Return the command that runs another one in namespaces of its own; skip the test if that is not allowed."""
    command = ("unshare", *kinds)
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("namespaces of one's own are not allowed here")
    return command


def files(output: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file."""
    stats = {path: path.stat() for path in output.rglob("*") if path.is_file()}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_driver_that_slept_changes_nothing_of_its_successor(config_file: Path, start: Start) -> None:
    """It wakes up when another one, on another machine, has written another layout and ended."""
    elsewhere = (*unshare("--uts"), "bash", "-c", 'hostname elsewhere; exec "$@"', "bash")
    output = config_file.parent / "out.zarr"
    first = start("run", str(config_file), "--cluster", "serial", module=QUICK)
    first.wait_for(lambda: len(list(output.glob("ledger/register/**/*.json"))) >= 2)
    os.kill(first.popen.pid, signal.SIGSTOP)
    changes = ("--set", "render.interpolation=nearest", "--set", "render.shard=[4,64,64]")
    second = start("rerun", str(output), *changes, "--cluster", "serial", module=QUICK, prefix=elsewhere)
    assert second.end() == 0, second.errors
    before, pixels = files(output), aligned_pixels(str(output))
    os.kill(first.popen.pid, signal.SIGCONT)
    assert first.end() == 2
    assert "elsewhere" in first.errors
    assert "has taken it over" in first.errors
    assert "Traceback" not in first.errors
    assert files(output) == before
    assert (aligned_pixels(str(output)) == pixels).all()
    assert ssem_dask("status", str(output)).returncode == 0
    tell("a driver slept while another one finished the run", redone=0, fields=0, pixels=0)


def test_a_living_driver_in_another_container_is_not_replaced_and_a_removed_output_is_reported(
    config_file: Path, start: Start
) -> None:
    container = unshare("--pid", "--fork", "--mount-proc")
    output, late = config_file.parent / "out.zarr", {"LATE_SHARD": str(config_file.parent)}
    (config_file.parent / "armed").touch()
    first = start("run", str(config_file), "--cluster", "serial", module=QUICK, environment=late)
    first.wait_for(lambda: not (config_file.parent / "armed").exists())
    second = start("rerun", str(output), "--cluster", "serial", module=QUICK, prefix=container)
    assert second.end() == 2
    assert "is at work on this output" in second.errors
    assert first.alive
    shutil.rmtree(output)
    (config_file.parent / "free").touch()
    assert first.end() == 2
    assert "the output was removed while it was written" in first.errors
    assert "Traceback" not in first.errors
    assert not (output / "zarr.json").exists()
    assert not (output / "ledger").exists()


def test_a_shard_that_arrives_late_is_noticed_and_made_again(undisturbed: str, tmp_path: Path, start: Start) -> None:
    """The driver that asked for it is dead, and another one has finished the run with another configuration."""
    output = Path(shutil.copytree(undisturbed, tmp_path / "out.zarr"))
    (tmp_path / "armed").touch()
    # Two threads: a worker with a single one could do nothing else.
    cluster = Cluster(threads=2, preload="tests.support.late_shard", environment={"LATE_SHARD": str(tmp_path)})
    try:
        change = ("rerun", str(output), "--cluster", cluster.address, "--set")
        first = start(*change, "render.interpolation=bilinear")
        first.wait_for(lambda: not (tmp_path / "armed").exists())
        kill(first.popen.pid)
        first.end()
        second = start(*change, "render.interpolation=bicubic")
        assert second.end() == 0, second.errors
        assert ssem_dask("status", str(output)).returncode == 0
        (tmp_path / "free").touch()
        wait_for(lambda: len(list(output.glob("ledger/late.writes/*"))) > 0)
    finally:
        cluster.stop()
    status = ssem_dask("status", str(output))
    assert status.returncode == 1
    assert "superseded" in status.stdout
    before = written(output)
    third = start("rerun", str(output), "--cluster", "serial")
    assert third.end() == 0, third.errors
    again = {key for key, at in written(output).items() if before.get(key) != at}
    assert "render/z000000-y0000000-x0000000" in again
    assert not any(key.startswith(("register", "compose")) for key in again)
    assert_undisturbed(output, undisturbed, fault="a shard of a dead driver arrives late", redone=len(again))


def test_a_disk_without_hard_links_holds_a_run(
    observed: str, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    output = str(tmp_path / "out.zarr")
    assert package.align(observed, output, cluster="serial", **SETTINGS).state == "complete"
    assert_undisturbed(output, undisturbed, fault="a disk without hard links", redone=0)


def test_a_lease_that_leads_nowhere_is_refused_at_once(undisturbed: str, tmp_path: Path) -> None:
    output = Path(shutil.copytree(undisturbed, tmp_path / "out.zarr"))
    shutil.rmtree(output / "ledger" / "drivers.lease")
    (output / "ledger" / "drivers.lease").symlink_to("/nonexistent/x")
    assert_one_sentence(ssem_dask("rerun", str(output), "--stage", "measure"), naming="drivers.lease")
