"""One driver a run: a small file that its driver renews while it lives.

Law: who takes a lease holds it alone. A second driver is refused while the first is alive and takes over when it is
dead: at once where the process can be looked up (same host), else when the file has not been renewed for a while. One
that was only slow, and was taken for dead, finds another's name in the file when it comes back, and stops. Even then
nothing is lost, since tasks own what they write and write the same whoever starts them.

Clocks of different machines are not compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssem_dask.errors import LeaseLostError, OutputError
from ssem_dask.storage import location
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for

BEAT = 5.0
"""Seconds between two renewals."""
DEAD = 30.0
"""Seconds without a renewal after which the driver on another host is taken for dead."""
_LOOK = 0.5  # s, between two looks at a lease that may be dead


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives a run."""

    name: str
    """Unique among all drivers."""
    host: str
    process: int
    born: str
    """When the process was started, as the system counts; tells it from a later one of the same number."""
    since: str
    """UTC, ISO 8601."""
    beat: int
    """Number of renewals."""


class Lease:
    """A lease that is held; it is renewed by a thread until it is released."""

    def __init__(self, url: str, holder: Holder) -> None:
        """See `held`."""
        self.url = url
        self._holder = holder
        self._released = threading.Event()
        self._successor: Holder | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """LeaseLostError where another driver has taken the run over."""
        if self._successor is not None:
            raise LeaseLostError(
                f"{self.url}: {_named(self._successor)} has taken this run over, since this one was not heard of for a "
                "while; nothing is lost, let that one finish."
            )

    def release(self) -> None:
        """Give the lease back."""
        self._released.set()
        self._thread.join(timeout=BEAT)
        with contextlib.suppress(OSError, OutputError):
            found = read_holder(self.url)
            if found is not None and found.name == self._holder.name:
                location.delete(self.url, recursive=False)

    def _renew(self) -> None:
        while not self._released.wait(BEAT):
            try:
                found = read_holder(self.url)
                if found is not None and found.name != self._holder.name:
                    self._successor = found
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                location.write_bytes(self.url, _content(self._holder))
            except Exception:  # noqa: BLE001  a store that fails now may answer at the next beat
                continue


@contextmanager
def hold_lease(url: str) -> Iterator[Lease]:
    """Hold the lease at `url`.

    Raises:
        OutputError: another driver is alive, or the place cannot be written.
    """
    own = Holder(
        name=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        born=_born(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        beat=0,
    )
    with location.writing(url), retry_for(LONG_RETRY_S):
        while not location.create_bytes(url, _content(own)):
            _remove_dead(url)
    lease = Lease(url, own)
    try:
        yield lease
    finally:
        lease.release()


def read_holder(url: str) -> Holder | None:
    """Who holds a lease; None where nobody does."""
    try:
        tree: Any = json.loads(location.read_bytes(url))
        return Holder(**tree)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Holder(name="?", host="?", process=0, born="", since="?", beat=0)


def is_held(url: str) -> bool:
    """Whether a driver seems to be alive, without waiting: one on another host is believed."""
    holder = read_holder(url)
    return holder is not None and _known_alive(holder) is not False


def _remove_dead(url: str) -> None:
    """Wait until it is known whether the holder is alive; remove the lease of a dead one."""
    first = read_holder(url)
    end = time.monotonic() + DEAD
    while first is not None:
        alive = _known_alive(first)
        now = read_holder(url)
        if now is None:
            return
        if alive or now != first:
            raise OutputError(
                f"{url}: {_named(now)} is at work on this output; wait until it has ended, or stop it and try again."
            )
        if alive is False or time.monotonic() > end:
            location.delete(url, recursive=False)
            return
        time.sleep(_LOOK)


def _known_alive(holder: Holder) -> bool | None:
    """Whether the process lives; None where it cannot be looked up."""
    if holder.host != socket.gethostname():
        return None
    return _born(holder.process) == holder.born != ""


def _born(process: int) -> str:
    """Start of a process in ticks since the system's; empty where there is none, or it is only a corpse."""
    try:
        # The name in brackets may hold spaces; state and start follow it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _born_without_proc(process)
    return "" if fields[0] in "ZX" else fields[19]


def _born_without_proc(process: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except (OSError, OverflowError):
        return ""
    return "alive"


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _named(holder: Holder) -> str:
    return f"process {holder.process} on {holder.host} (since {holder.since})"
