"""The process that holds a lease: who it is, and whether it is known to live.

A process is looked up in /proc only if /proc is the one that it runs in: the machine has the same name, was booted at
the same time and shows the same process ids (pid namespace). Two machines may have one name, and two containers on one
machine have process ids of their own. Of any other process only what it writes to the store is known.
"""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from ssem_dask.storage.untrusted import understood

LIVE_NAMES: set[str] = set()
"""Names of the holders that this process is at present. A lease that it could not give back, since the store failed, is
recognised by this as nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds a lease. The names of the fields are those of its JSON keys."""

    name: str
    """Unique among all holders."""
    host: str
    boot: str
    """Id of the boot of the machine; empty if the system has none."""
    namespace: str
    """Namespace of process ids; empty if the system has none."""
    process: int
    born: str
    """Start time of the process as its system counts; distinguishes it from a later one with the same id."""
    since: str
    """Start of the lease, UTC, ISO 8601."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.since})"

    @property
    def content(self) -> bytes:
        """The holder as JSON."""
        return json.dumps(asdict(self)).encode()

    def known_alive(self) -> bool | None:
        """Return whether the process lives; None if it cannot be looked up from here."""
        here = this_process()
        if not here.boot or not here.namespace:
            return None
        if (self.host, self.boot, self.namespace) != (here.host, here.boot, here.namespace):
            return None
        if (self.process, self.born) == (here.process, here.born):
            return self.name in LIVE_NAMES
        return _start_time(self.process) == self.born != ""


_HOLDER = TypeAdapter(Holder)
UNKNOWN = Holder(name="?", host="?", boot="", namespace="", process=0, born="", since="?")
"""The holder whose record is torn, or was written by something else."""


def this_process() -> Holder:
    """Return a new holder that is this process."""
    return Holder(
        name=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot=_boot_id(),
        namespace=_pid_namespace(),
        process=os.getpid(),
        born=_start_time(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def parse_holder(content: bytes) -> Holder:
    """Read a holder from JSON; `UNKNOWN` if the content is anything else."""
    return understood(lambda: _HOLDER.validate_json(content, strict=True)) or UNKNOWN


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _start_time(process: int) -> str:
    """Return the start of a process in clock ticks since boot; empty if it does not exist or is a zombie."""
    try:
        # The name in brackets may hold spaces; state and start follow it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
