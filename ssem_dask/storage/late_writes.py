"""Notes on tasks whose output may have been overwritten by a task of an earlier driver that ended late.

A note is a small file in `ledger/late.writes`, usually there is none. The worker that was late writes it after its
write. So what the note says holds for data that was written before it, by whomever. Only the driver that holds the
lease marks the ledger entry accordingly and then deletes the note; a note that was left meanwhile is another file.
"""

import hashlib
import json
import uuid
from dataclasses import replace
from typing import NamedTuple

from ssem_dask.storage import location
from ssem_dask.storage.fence import fenced
from ssem_dask.storage.lease import Claim
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.retry import LONG_RETRY_S, retry_for
from ssem_dask.storage.untrusted import JSON_OBJECT, read_hint
from ssem_dask.task import Cause, Outcome, TaskReport, stage_part

_FOLDER = "late.writes"


def leave_note(claim: Claim, *, key: str, digest: str) -> None:
    """Leave a note on a task that a worker has written after its driver had lost its claim.

    Does nothing if the output was removed: there is nobody left to read the note.
    """
    if not location.list_names(claim.url):
        return
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{claim.generation}-{uuid.uuid4().hex[:8]}"
    content = json.dumps({"key": key, "digest": digest, "generation": claim.generation}).encode()
    with fenced(None), location.writing(claim.output), retry_for(LONG_RETRY_S):
        location.write_bytes(location.join(claim.output, "ledger", _FOLDER, name), content)


class Note(NamedTuple):
    """A task that may have written late."""

    key: str
    digest: str
    """Digest of its configuration. With another one, files of the same names may belong to other tasks of the stage."""
    url: str

    def concerns(self, entry: TaskReport) -> bool:
        """Return whether the late write may have changed the files of an entry."""
        stage = self.key.partition("/")[0]
        return entry.key == self.key or (entry.stage == stage and stage_part(entry.digest) != stage_part(self.digest))


def read_notes(ledger: Ledger) -> list[Note]:
    """Return all notes, by one listing if there is none."""
    folder = location.join(ledger.url, _FOLDER)
    urls = [location.join(folder, name) for name in location.list_names(folder)]
    records = [read_hint(url, JSON_OBJECT) or {} for url in urls]
    return [Note(str(r.get("key", "")), str(r.get("digest", "")), url) for r, url in zip(records, urls, strict=True)]


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
    notes = read_notes(ledger)
    late = [
        overwritten(entry)
        for entry in (ledger.reports(None) if notes else ())
        if entry.outcome.is_done and any(note.concerns(entry) for note in notes)
    ]
    ledger.replace_all(late)
    for note in notes:
        location.delete(note.url, recursive=False)
    return frozenset(entry.key for entry in late)
