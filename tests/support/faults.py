"""Processes that can be killed, and what is compared after a fault."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssem_dask.storage.ledger import open_ledger
from ssem_dask.task import TaskReport
from tests.support.runs import SMALL, aligned_pixels, section_fields

SETTINGS: dict[str, Any] = {**SMALL, "mask": {"detect": True}}
"""All seven stages, many small tasks."""
SCHEDULES = int(os.environ.get("SCHEDULES", "200"))
"""Number of random schedules; the environment sets it, as `make fuzz` does."""
SCHEDULE_SEED = int(os.environ.get("SCHEDULE_SEED", "1"))
"""Number that repeats them."""


class Process:
    """A command of ours, in a group of processes of its own."""

    def __init__(
        self,
        *words: str,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        module: str = "ssem_dask.cli",
    ) -> None:
        """Begin.

        Args:
            words: arguments of the command.
            environment: variables to add.
            prefix: command that runs it, such as `unshare --uts`.
            module: module that is run.
        """
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self.out, self.errors = "", ""
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr:
            for line in self.popen.stderr:
                self._lines.append(line)

    def reported(self, word: str) -> bool:
        """Whether a line on stderr so far begins with `word`."""
        return any(line.startswith(word) for line in list(self._lines))

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def wait_for(self, condition: Callable[[], bool], *, every: float = 0.02) -> None:
        """Until a condition holds; fails where the process ends before."""
        wait_for(lambda: condition() or not self.alive, every=every)
        assert condition(), self.end() or self.errors

    def end(self, timeout: float = 200) -> int:
        """The exit code, when it has ended; stdout and stderr are then in `out` and `errors`."""
        self.popen.wait(timeout)
        assert self.popen.stdout is not None
        self.out = self.popen.stdout.read()
        self._reader.join(10)
        self.errors = "".join(self._lines)
        return self.popen.returncode

    def kill(self) -> None:
        """Kill it with all its children, and close its files."""
        for child in children(self.popen.pid):
            kill(child)
        if self.alive:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(10)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Cluster:
    """A scheduler and its workers, each a process of its own, as a service would start them."""

    def __init__(
        self, *, threads: int = 1, preload: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        """Start workers of so many threads, which load the module `preload`, with more variables."""
        self._threads = threads
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._preload = [] if preload is None else ["--preload", preload]
        self._environment = {**os.environ, **(environment or {})}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        self.scheduler = self._begin(
            "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--dashboard-address", "127.0.0.1:0"
        )
        for _ in range(2):
            options = ("--nthreads", str(self._threads), "--dashboard-address", "127.0.0.1:0", *self._preload)
            self._begin("worker", self.address, *options)

    def stop(self) -> None:
        for process in self.processes:
            for child in children(process.pid):
                kill(child)
            process.kill()
            process.wait()

    def _begin(self, *words: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=self._environment,
        )
        self.processes.append(process)
        return process


def children(process: int) -> list[int]:
    """All descendants of a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [process]
    while todo:
        own = parents.get(todo.pop(), [])
        found += own
        todo += own
    return found


def kill(process: int) -> None:
    """SIGKILL; a process that is gone already is fine."""
    try:
        os.kill(process, 9)
    except ProcessLookupError:
        return


def wait_for(condition: Callable[[], bool], *, timeout: float = 120, every: float = 0.02) -> None:
    """Until a condition holds; fails after `timeout` s."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(every)


def entries(output: str | Path) -> dict[str, TaskReport]:
    """The ledger."""
    return {report.key: report for report in open_ledger(str(output)).reports(None)}


def written(output: str | Path) -> dict[str, int]:
    """When each entry of the ledger was written."""
    ledger = open_ledger(str(output))
    keys = [key for key in ledger.keys(None) if not key.startswith("export.json")]  # the record of an export
    return {key: Path(ledger.entry_url(key)).stat().st_mtime_ns for key in keys}


def redone(before: dict[str, int], output: str | Path) -> set[str]:
    """Tasks that had an entry before, and have another one now."""
    now = written(output)
    return {key for key, at in before.items() if now.get(key) != at}


def difference(output: str | Path, reference: str) -> tuple[float, int]:
    """Largest difference of the fields, px, and number of pixels that differ by more than rounding."""
    fields = float(np.nanmax(np.abs(section_fields(str(output)) - section_fields(reference))))
    pixels = np.abs(aligned_pixels(str(output)).astype(int) - aligned_pixels(reference)) > 1
    return fields, int(pixels.sum())


FAULT_ROWS: list[tuple[str, int, str]] = []
"""Name of the running test."""


def tell(fault: str, *, redone: int, fields: float, pixels: int) -> None:
    """A row of the table that is shown at the end."""
    FAULT_ROWS.append((fault, redone, f"fields {fields:.2g} px, {pixels} px of the volume"))


def assert_undisturbed(output: str | Path, reference: str, *, fault: str, redone: int) -> None:
    """The volume equals the undisturbed one, every task is in the ledger; adds a row to the table of faults."""
    fields, pixels = difference(output, reference)
    tell(fault, redone=redone, fields=fields, pixels=pixels)
    assert fields < 1e-3
    assert pixels == 0
    found, expected = entries(output), entries(reference)
    assert set(found) == set(expected)
    assert all(report.outcome.is_done for report in found.values())
    attributes = json.loads((Path(output) / "zarr.json").read_text())["attributes"]["ssem_dask"]
    assert attributes["state"] == "complete"
