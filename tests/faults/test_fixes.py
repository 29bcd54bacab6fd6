"""Server and driver of `fix` are killed: what was confirmed is in the file, and the next apply completes the rest."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import ssem_dask
from ssem_dask.fixes.fixes_toml import parse_fixes
from tests.support.runs import SEPARATE, assert_same


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("fixes") / "out.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


class Server:
    """The command `fix` as a process."""

    def __init__(self, run: str, file: Path, *options: str) -> None:
        words = ["fix", run, "--file", str(file), "--port", "0", "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssem_dask.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += self.process.stdout.readline()
        answer = json.loads(text)
        self.base = f"http://127.0.0.1:{answer['port']}"
        self.api = f"{self.base}/api/{answer['url'].partition('key=')[2]}"

    def version(self) -> str:
        return str(requests.get(f"{self.api}/state", timeout=20).json()["fixes"]["version"])

    def post(self, path: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.api}/{path}", json=body, headers={"Origin": self.base}, timeout=20)

    def kill(self) -> None:
        with self.process:
            self.process.kill()


def test_what_was_confirmed_survives_kills_of_the_server(run: str, tmp_path: Path) -> None:
    file = tmp_path / "out.fixes.toml"
    confirmed: list[float] = []
    chance = random.Random(7)
    for round_ in range(3):
        server = Server(run, file)
        stopped = threading.Event()

        def save(server: Server = server, round_: int = round_, stopped: threading.Event = stopped) -> None:
            number = 0
            try:
                version = server.version()
                while not stopped.is_set():
                    number += 1
                    x = round_ * 50 + number / 100
                    fix = {"z": 3, "split": [[[1, x], [9, 9]]]}
                    operation = {"op": "add", "table": "section", "fix": fix}
                    reply = server.post("edit", version=version, label=f"line {x}", operations=[operation])
                    assert reply.status_code == 200, reply.text
                    confirmed.append(x)
                    version = reply.json()["version"]
            except requests.RequestException:
                return  # the server was killed

        saver = threading.Thread(target=save)
        saver.start()
        time.sleep(chance.uniform(0.5, 2.0))
        server.kill()
        stopped.set()
        saver.join()
    stored = [fix.split[0][0][1] for fix in parse_fixes(file.read_text()).section if fix.split]
    assert len(confirmed) > 5
    assert set(confirmed) <= set(stored)
    assert len(stored) <= len(confirmed) + 3  # the last save of each round may be there without its confirmation
    server = Server(run, file)
    left = stored
    for _ in range(3):
        state = server.post("undo", version=server.version()).json()
        assert [entry["fix"]["split"][0][0][1] for entry in state["tables"]] == left[:-1]
        left = left[:-1]
    server.process.send_signal(signal.SIGTERM)
    with server.process:
        assert server.process.wait(20) == 0


def ended(server: Server) -> dict[str, Any]:
    """The state of the driver once it has ended."""
    end = time.monotonic() + 240
    while True:
        job: dict[str, Any] = requests.get(f"{server.api}/state", timeout=20).json()["job"]
        if job["state"] != "running":
            return job
        assert time.monotonic() < end
        time.sleep(0.2)


def driver_of(server: Server) -> psutil.Process:
    end = time.monotonic() + 20
    while not (children := psutil.Process(server.process.pid).children()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return children[0]


def kill(driver: psutil.Process) -> None:
    """Kill a process, if it has not ended by itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        driver.kill()
        driver.wait(20)


def test_an_apply_is_completed_after_kills_of_driver_and_server(run: str, tmp_path: Path) -> None:
    wanted, killed = (str(shutil.copytree(run, tmp_path / name)) for name in ("wanted.zarr", "killed.zarr"))
    file = tmp_path / "out.fixes.toml"
    file.write_text('[[section]]\nz = 3\naction = "exclude"\nfill = "nearest"\n')
    server = Server(wanted, file, "--cluster", "serial")
    server.post("apply", version=server.version())
    assert ended(server)["state"] == "done"
    server.kill()

    server = Server(killed, file, "--cluster", "serial")
    chance = random.Random(3)
    for _ in range(2):
        server.post("apply", version=server.version())
        driver = driver_of(server)
        time.sleep(chance.uniform(0.5, 3.0))  # all is imported, so the work has begun
        kill(driver)
        assert ended(server)["state"] in ("failed", "done")
    server.post("apply", version=server.version())
    driver = driver_of(server)
    time.sleep(1.0)
    server.kill()
    kill(driver)
    server = Server(killed, file, "--cluster", "serial")
    state = requests.get(f"{server.api}/state", timeout=20).json()
    if not state["fixes"]["applied"]:
        server.post("apply", version=server.version())
        assert ended(server)["state"] == "done"
    assert requests.get(f"{server.api}/state", timeout=20).json()["fixes"]["applied"]
    waiting = psutil.Process(server.process.pid).children()
    server.kill()
    assert_same(killed, wanted)
    # The process that waits for the next apply does not outlive the server.
    assert psutil.wait_procs(waiting, timeout=30)[1] == []
