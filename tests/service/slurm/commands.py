"""`ssem-dask align` in jobs, and what SLURM says of jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SITE: dict[str, Any] = {
    "name": "slurm",
    "workers": 2,
    "slurm": {"cores": 1, "memory": "2 GB", "interface": "lo", "walltime_minutes": 10, "check_seconds": 1.0},
}


class Command:
    """A command line that aligns."""

    def __init__(self, source: str, output: Path, *options: str) -> None:
        self.output = output
        self.words = [sys.executable, "-m", "ssem_dask.cli", "align", source, str(output), *options]

    def start(self) -> "subprocess.Popen[str]":
        with (self.output.parent / "stderr").open("a") as errors:
            return subprocess.Popen(
                [*self.words, "--json"],
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A shell that runs the tests in its background has Ctrl-C ignored, and that is inherited.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )

    def run(self, *options: str, **environment: str) -> dict[str, Any]:
        ended = subprocess.run(
            [*self.words, "--json", *options],
            env={**os.environ, **environment},
            text=True,
            capture_output=True,
            check=False,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        summary: dict[str, Any] = json.loads(ended.stdout)
        return {**summary, "stderr": ended.stderr}

    def entries(self) -> int:
        """How many tasks have ended so far."""
        return sum(1 for _ in (self.output / "ledger").rglob("*.json"))

    @property
    def stderr(self) -> str:
        return (self.output.parent / "stderr").read_text()


def until(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def jobs(*states: str) -> dict[str, str]:
    """State of the jobs that SLURM has not finished with, by id."""
    asked = subprocess.run(["squeue", "-h", "-o", "%i %T"], text=True, capture_output=True, check=True)
    pairs = [line.split() for line in asked.stdout.splitlines()]
    return {job: state for job, state in pairs if not states or state in states}


def state_of(job: str) -> str:
    """How SLURM remembers a job."""
    asked = subprocess.run(["scontrol", "-o", "show", "job", job], text=True, capture_output=True, check=True)
    return dict(word.split("=", 1) for word in asked.stdout.split() if "=" in word)["JobState"]
