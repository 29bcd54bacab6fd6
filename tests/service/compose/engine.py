"""The commands of docker-compose and docker."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.real_data import REPOSITORY
from tests.support.runs import SMALL, to_toml

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\?key=[0-9a-f]+")
_V1 = shutil.which("docker-compose")


class Compose:
    """The shipped files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("docker-compose.yml", "docker-compose.gpu.yml", ".env.example"):
            shutil.copy(REPOSITORY / name, folder / name)
        shutil.copytree(REPOSITORY / "deploy", folder / "deploy")
        (folder / "run.toml").write_text(to_toml(SMALL))
        folder.chmod(0o755)
        ports = {"SSEM_DASHBOARD_PORT": "18787", "SSEM_REPORT_PORT": "18790", "SSEM_VIEW_PORT": "18791"}
        self.environment = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": "ssemtest"}

    def words(self, *words: str) -> list[str]:
        return [*([_V1] if _V1 else ["docker", "compose"]), *words]

    def __call__(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        ended = subprocess.run(
            self.words(*words), cwd=self.folder, env=self.environment, text=True, capture_output=True, check=False
        )
        assert ended.returncode == 0 or not check, f"{words}: {ended.stdout}{ended.stderr}"
        return ended

    def client(self, *words: str, check: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a client container."""
        settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        return self("run", "--rm", "-T", *settings, "client", *words, check=check)

    def start_client(self, *words: str, log: Path) -> "subprocess.Popen[str]":
        command = self.words("run", "--rm", "-T", "client", *words)
        with log.open("a") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, text=True, stdout=file, stderr=subprocess.STDOUT
            )

    @contextmanager
    def page(self, service: str, run: str) -> Iterator[str]:
        """Address of a page of a run, while its service is up."""
        container = self("run", "-d", "--rm", "--service-ports", service, run).stdout.split()[-1]
        try:
            deadline = time.monotonic() + 120  # it takes 10 s
            while not (found := _ADDRESS.search(said := logs(container))):
                assert time.monotonic() < deadline, said
                assert health(container) != "stopped", said
                time.sleep(0.3)
            yield found[0]
        finally:
            subprocess.run(["docker", "kill", container], capture_output=True, check=False)

    def up(self, *, workers: int) -> None:
        self("up", "-d", "--no-build", "--scale", f"worker={workers}")
        deadline = time.monotonic() + 240  # a healthy start takes 15 s; a busy machine is no failure
        while time.monotonic() < deadline:
            healthy = [container for container in self.containers() if health(container) == "healthy"]
            if len(healthy) == workers + 2:
                return
            time.sleep(1)
        raise AssertionError(self("logs", "--tail=20").stdout)

    def containers(self, service: str = "") -> list[str]:
        return self("ps", "-q", *([service] if service else [])).stdout.split()


def inspect(container: str) -> dict[str, Any]:
    shown = subprocess.run(["docker", "inspect", container], text=True, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(shown.stdout)[0]
    return found


def logs(container: str) -> str:
    shown = subprocess.run(["docker", "logs", container], text=True, capture_output=True, check=True)
    return shown.stdout + shown.stderr


def health(container: str) -> str:
    state = inspect(container)["State"]
    return str(state.get("Health", {}).get("Status", "none")) if state["Running"] else "stopped"


def python_in(container: str, script: str) -> str:
    """Output of a Python script in a running container."""
    words = ["docker", "exec", "-i", container, "python", "-"]
    ended = subprocess.run(words, input=script, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
