"""A page that is watched, and the viewer as a process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

_ARGUMENTS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium without a window."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is not installed; 'make test-browser' installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield started
        started.close()


@dataclass
class Watched:
    """A page, and what it complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> Page:
        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.complaints.append(f"{message.text} {message.location}")

        page.on("console", hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        return page


def wait_until(page: Page, condition: str, *, timeout: float = 60) -> None:
    """Until an expression or function of JavaScript is true; Playwright's own way is forbidden by the page's policy."""
    end = time.monotonic() + timeout
    while True:
        with suppress(Error):  # the page leads on to another
            if page.evaluate(condition):
                return
        assert time.monotonic() < end, condition
        page.wait_for_timeout(100)


def start_viewer(run: str, *words: str, command: str = "view") -> tuple[subprocess.Popen[str], str]:
    """The process of `ssem-dask view`, or of another command that serves a page, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ssem_dask.cli", command, run, "--print-url", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop_viewer(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    with process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
