"""Ctrl-C and SIGTERM, twice within a moment, to driver and workers alike, as terminals and batch systems send them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssem_dask.runtime.exclusive_driver import lease_url
from ssem_dask.storage.lease import read_holder
from tests.support.cli import assert_one_sentence
from tests.support.faults import Process, children, wait_for

Start = Callable[..., Process]
INTERRUPTED = "error: Interrupted. Finished work is kept; run the same command again to resume."


def left_of(processes: list[int]) -> list[int]:
    """Those that still run; one that ended but was not waited for is gone."""

    def runs(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    return [process for process in processes if runs(process)]


@pytest.mark.parametrize(
    ("moment", "number"),
    [("import", signal.SIGINT), ("start", signal.SIGINT), ("run", signal.SIGINT), ("run", signal.SIGTERM)],
)
def test_two_signals_end_in_one_sentence(moment: str, number: int, config_file: Path, start: Start) -> None:
    output = config_file.parent / "out.zarr"
    process = start("run", str(config_file), "--cluster", "local", "--workers", "2")
    if moment == "import":
        time.sleep(1.0)
    elif moment == "start":
        process.wait_for(lambda: bool(children(process.popen.pid)))
        time.sleep(0.3)
    else:
        process.wait_for(lambda: process.reported("coarse: "))
    started = children(process.popen.pid)
    os.killpg(process.popen.pid, number)
    time.sleep(0.2)
    if process.alive:
        os.killpg(process.popen.pid, number)
    assert process.end() == 130, process.errors
    lines = process.errors.splitlines()
    assert lines[-1] == INTERRUPTED
    assert lines.count(INTERRUPTED) == 1
    assert "Traceback" not in process.errors
    wait_for(lambda: left_of(started) == [], timeout=15)
    assert read_holder(lease_url(str(output))) is None


@pytest.mark.parametrize(
    ("sandbox", "naming"),
    [
        (["unshare", "-n", "--"], "loopback"),
        (["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"], "/dev/shm"),
        (["env", 'DASK_DISTRIBUTED__NANNY__PRELOAD=["no_such_module"]'], "no_such_module"),
    ],
    ids=["no loopback", "no shared memory", "no nanny"],
)
def test_a_cluster_that_cannot_start(sandbox: list[str], naming: str, config_file: Path) -> None:
    """The message names at once the missing permission, and the way out."""
    if sandbox[0] == "unshare" and subprocess.run([*sandbox, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a sandbox")
    words = ["run", str(config_file), "--cluster", "local", "--workers", "2"]
    process = Process(*words, prefix=sandbox)
    try:
        process.end()  # well before the 10 min for which a driver waits for workers
        ended = subprocess.CompletedProcess(words, process.popen.returncode, process.out, process.errors)
        assert_one_sentence(ended, naming=naming)
        assert "--cluster serial" in process.errors
        assert not (config_file.parent / "out.zarr").exists()
    finally:
        process.kill()
