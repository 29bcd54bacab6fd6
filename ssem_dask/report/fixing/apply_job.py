"""The driver that solves a run again with its fixes, as a process of its own whose progress the page shows.

It is the command that a user would type. So it may be killed at any moment, like the server and the browser: what it
has done is in the run's ledger, and the next apply completes the rest. A page that stays open has the next process
ready, with everything imported (`cli.standby`).
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

_LINES_KEPT = 30
_STOP_SECONDS = 20.0
_STAGE_KEYS = ("stage", "done", "tasks", "seconds_left")


@dataclass(frozen=True, slots=True)
class _Driver:
    """A process that waits for the words of its command."""

    process: "subprocess.Popen[str]"
    answer: IO[str]

    @classmethod
    def start(cls) -> "_Driver":
        # A file, since a result may be longer than a pipe holds while nobody reads it.
        answer = tempfile.TemporaryFile("w+")  # noqa: SIM115  the thread that follows the driver closes it
        # A session of its own: Ctrl-C reaches the server alone, which then interrupts the driver once.
        process = subprocess.Popen(
            [sys.executable, "-m", "ssem_dask.cli.standby"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return cls(process, answer)

    def begin(self, words: Sequence[str]) -> bool:
        """Let it run a command; return whether it could still be reached."""
        assert self.process.stdin is not None
        try:
            with self.process.stdin as stdin:
                stdin.write(json.dumps(words) + "\n")
        except OSError:
            self.end()
            return False
        return self.process.poll() is None

    def end(self) -> None:
        """End it, if it has nothing to do."""
        self.process.kill()
        with contextlib.suppress(OSError), self.process, self.answer:
            pass


class ApplyJob:
    """At most one driver at a time."""

    def __init__(self, command: Sequence[str], *, ended: Callable[[], None]) -> None:
        """Prepare the job.

        Args:
            command: words of the command, without the program.
            ended: called after a driver that has succeeded, in a thread of its own.
        """
        self._words = list(command)
        self._ended = ended
        self._ready: _Driver | None = None
        self._keeps_ready = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._state: dict[str, Any] = {"state": "idle"}

    def state(self) -> dict[str, Any]:
        """Return as JSON values: `idle`, `running`, `done` or `failed`, with seconds, progress and message."""
        with self._lock:
            state = dict(self._state)
        if state["state"] == "running":
            state["seconds"] = round(time.monotonic() - state.pop("started"), 1)
        return state

    def start(self, version: str) -> bool:
        """Start the driver; return whether it was started, and not running already.

        Args:
            version: of the fixes that it applies.
        """
        with self._lock:
            if self._state["state"] == "running":
                return False
            self._state = {"state": "running", "started": time.monotonic(), "version": version, "message": ""}
        driver = self._take_ready()
        if driver is None or not driver.begin(self._words):
            driver = _Driver.start()  # there was none, or somebody has killed it
            driver.begin(self._words)
        self._process = driver.process
        threading.Thread(target=self._follow, args=(driver.process, driver.answer), daemon=True).start()
        return True

    def keep_ready(self) -> None:
        """Have the next driver ready from now on, until `close`."""
        with self._lock:
            self._keeps_ready = True
            if self._ready is None:
                self._ready = _Driver.start()

    def close(self) -> None:
        """Interrupt the driver, and end the one that is ready."""
        with self._lock:
            self._keeps_ready = False
        ready = self._take_ready()
        if ready is not None:
            ready.end()
        self.stop()

    def _take_ready(self) -> "_Driver | None":
        with self._lock:
            ready, self._ready = self._ready, None
        return ready

    def stop(self) -> None:
        """Interrupt the driver, if one is running, and wait until it has ended."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)

    def _follow(self, process: "subprocess.Popen[str]", answer: IO[str]) -> None:
        lines: deque[str] = deque(maxlen=_LINES_KEPT)
        with process, answer:
            assert process.stderr is not None
            for line in process.stderr:
                self._hear(line.strip(), lines)
            code = process.wait()
            answer.seek(0)
            verdict = _verdict(answer.read())
        with self._lock:
            seconds = time.monotonic() - self._state["started"]
            version = self._state["version"]
        if code == 0:
            self._ended()
        with self._lock:
            self._state = {
                "state": "done" if code == 0 else "failed",
                "version": version,
                "seconds": round(seconds, 1),
                "message": verdict if code == 0 else _reason(code, lines),
            }
            if self._keeps_ready and self._ready is None:
                self._ready = _Driver.start()

    def _hear(self, line: str, lines: deque[str]) -> None:
        """Take a line of the driver's stderr: an event as JSON, or a message."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            if line:
                lines.append(line)
            return
        if event.get("event") == "note":
            lines.append(str(event.get("message", "")))
            return
        with self._lock:
            self._state["progress"] = {key: event[key] for key in _STAGE_KEYS if key in event}


def _verdict(answer: str) -> str:
    """Return the verdict of a driver's result, empty if it has none."""
    try:
        result = json.loads(answer)
        return str(result.get("verdict") or "")
    except (ValueError, AttributeError):
        return ""


def _reason(code: int, lines: Sequence[str]) -> str:
    errors = [line for line in lines if line.startswith("error:")]
    last = (errors or list(lines) or [f"It ended with exit code {code} and said nothing."])[-1]
    return last.removeprefix("error:").strip()
