"""A small file that marks the one active driver of a run; the driver renews it.

The file is created atomically, only if there is none, so one of several drivers that start together succeeds. Another
driver

- is refused while the holder is alive;
- takes over at once from a dead process of its own host, which it can look up;
- takes over from a holder on another host if the file was not renewed for `EXPIRY_S`. Only changes of the file are
  watched: clocks of different machines are never compared.

Fencing: a holder that merely stalled is taken for dead. When it returns, it finds another name in the file, stops
renewing, and `Lease.check` raises `LeaseLostError`. No result is lost by then, because tasks are idempotent and own
what they write. `runtime.exclusive_driver` puts this check in front of every report that a driver receives.

Limits: a store has no request that renews a file only if its content is as expected. A holder reads the file, then
writes it; a driver that takes over reads it, then deletes it. If a takeover falls between the two requests of another
driver, that driver overwrites or deletes the new lease. The driver whose name is no longer in the file finds this at
its next renewal and stops at its next report. Until then, both may hand out tasks.
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

RENEWAL_S = 5.0
"""Seconds between two renewals."""
EXPIRY_S = 30.0
"""Seconds without a renewal after which a holder on another host counts as dead."""
_POLL_S = 0.5
"""Seconds between two reads of a lease whose holder may be dead."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Content of a lease file: the driver that holds the lease. The names are those of its JSON keys."""

    name: str
    """Unique among all drivers."""
    host: str
    process: int
    born: str
    """Start time of the process as its system counts; distinguishes it from a later one with the same id."""
    since: str
    """Start of the lease, UTC, ISO 8601."""
    beat: int
    """Number of renewals."""


class Lease:
    """A lease that is held; a thread renews it until it is released."""

    def __init__(self, url: str, holder: Holder) -> None:
        """Start to renew a lease that was taken; see `hold_lease`."""
        self.url = url
        self._holder = holder
        self._released = threading.Event()
        self._successor: Holder | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLostError if another driver has taken the run over."""
        if self._successor is not None:
            raise LeaseLostError(
                f"{self.url}: {_description(self._successor)} has taken this run over, since this driver stopped "
                "renewing its lease; no result is lost; wait for that driver to finish."
            )

    def release(self) -> None:
        """Delete the lease, unless another driver has taken it over."""
        self._released.set()
        self._thread.join(timeout=RENEWAL_S)
        with contextlib.suppress(OSError, OutputError):
            holder = read_holder(self.url)
            if holder is not None and holder.name == self._holder.name:
                location.delete(self.url, recursive=False)

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_S):
            try:
                holder = read_holder(self.url)
                if holder is not None and holder.name != self._holder.name:
                    self._successor = holder
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                location.write_bytes(self.url, _content(self._holder))
            except Exception:  # noqa: BLE001  a store that fails now may answer at the next renewal
                continue


@contextmanager
def hold_lease(url: str) -> Iterator[Lease]:
    """Hold the lease at `url` inside the context.

    Raises:
        OutputError: another driver is alive, or the location cannot be written.
    """
    holder = Holder(
        name=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        born=_start_time(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        beat=0,
    )
    with location.writing(url), retry_for(LONG_RETRY_S):
        while not location.create_bytes(url, _content(holder)):
            _remove_if_dead(url)
    lease = Lease(url, holder)
    try:
        yield lease
    finally:
        lease.release()


def read_holder(url: str) -> Holder | None:
    """Return the holder of a lease; None if nobody holds it."""
    try:
        tree: Any = json.loads(location.read_bytes(url))
        return Holder(**tree)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # torn while it was written
        return Holder(name="?", host="?", process=0, born="", since="?", beat=0)


def is_held(url: str) -> bool:
    """Return whether a driver seems to be alive, without waiting; a holder on another host counts as alive."""
    holder = read_holder(url)
    return holder is not None and _known_alive(holder) is not False


def _remove_if_dead(url: str) -> None:
    """Wait until it is known whether the holder is alive, then remove the lease of a dead one.

    Raises:
        OutputError: the holder is alive.
    """
    first = read_holder(url)
    end = time.monotonic() + EXPIRY_S
    while first is not None:
        alive = _known_alive(first)
        holder = read_holder(url)
        if holder is None:
            return
        if alive or holder != first:
            raise OutputError(
                f"{url}: {_description(holder)} is at work on this output; wait until it has ended, or stop it and try "
                "again."
            )
        if alive is False or time.monotonic() > end:
            location.delete(url, recursive=False)
            return
        time.sleep(_POLL_S)


def _known_alive(holder: Holder) -> bool | None:
    """Return whether the holder's process lives; None if it runs on another host and cannot be looked up."""
    if holder.host != socket.gethostname():
        return None
    return _start_time(holder.process) == holder.born != ""


def _start_time(process: int) -> str:
    """Return the start of a process in clock ticks since boot; empty if it does not exist or is a zombie."""
    try:
        # The name in brackets may hold spaces; state and start follow it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _start_time_without_proc(process)
    return "" if fields[0] in "ZX" else fields[19]


def _start_time_without_proc(process: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except (OSError, OverflowError):
        return ""
    return "alive"


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _description(holder: Holder) -> str:
    return f"process {holder.process} on {holder.host} (since {holder.since})"
