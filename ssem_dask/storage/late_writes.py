"""Notes on tasks whose output may have been overwritten by a task of an earlier driver that ended late.

A note is a small file in `ledger/late.writes`, usually there is none. The worker that was late writes it after its
write. So what the note says holds for data that was written before it, by whomever. Only the driver that holds the
lease marks the ledger entry accordingly and then deletes the note; a note that was left meanwhile is another file.
"""

import contextlib
import hashlib
import json
import uuid
from dataclasses import replace

from ssem_dask.storage import location
from ssem_dask.storage.fence import fenced
from ssem_dask.storage.lease import Claim
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.storage.untrusted import JSON_OBJECT, read_hint
from ssem_dask.task import Cause, Outcome, TaskReport

_FOLDER = "late.writes"


def leave_note(claim: Claim, key: str) -> None:
    """Leave a note on a task that a worker has written after its driver had lost its claim.

    Does nothing if the output was removed: there is nobody left to read the note.
    """
    if not location.list_names(claim.url):
        return
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{claim.generation}-{uuid.uuid4().hex[:8]}"
    content = json.dumps({"key": key, "generation": claim.generation}).encode()
    with fenced(None), location.writing(claim.output), retry_for(LONG_RETRY_S):
        location.write_bytes(location.join(claim.output, "ledger", _FOLDER, name), content)


def noted_keys(ledger: Ledger) -> dict[str, list[str]]:
    """Return the keys of the tasks that notes are about, with the URLs of their notes; one listing if there is none."""
    folder = location.join(ledger.url, _FOLDER)
    keys: dict[str, list[str]] = {}
    for name in location.list_names(folder):
        url = location.join(folder, name)
        record = read_hint(url, JSON_OBJECT) or {}
        keys.setdefault(str(record.get("key", "")), []).append(url)
    return keys


def overwritten(entry: TaskReport) -> TaskReport:
    """Return the entry that a task gets if its output may have been overwritten."""
    return replace(
        entry,
        outcome=Outcome.FAILED,
        cause=Cause.SUPERSEDED,
        message="A task of an earlier driver ended late and may have overwritten the result; it is to be recomputed.",
        restore=False,
    )


def mark_overwritten(ledger: Ledger) -> frozenset[str]:
    """Mark all tasks that notes are about as failed, then delete the notes; the caller holds the lease.

    Returns:
        Keys of the tasks that had ended well.
    """
    marked = set()
    for key, urls in noted_keys(ledger).items():
        with contextlib.suppress(ValueError):  # a key that is none: the note is torn, or from something else
            entry = ledger.read(key)
            if entry is not None and entry.outcome.is_done:
                ledger.replace_all([overwritten(entry)])
                marked.add(key)
        for url in urls:
            location.delete(url, recursive=False)
    return frozenset(marked)
