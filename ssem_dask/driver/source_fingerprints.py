"""Fingerprints of the source per range of sections, which show whether it has changed since it was read.

A file's fingerprint is the store's ETag, or its size and modification time. The fingerprints are saved when a run
begins and compared when it resumes. So a section that was imaged again, or restored from a backup, is noticed, and
whatever reads it can run again.
"""

import json

from pydantic import TypeAdapter

from ssem_dask.geometry.region import Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source
from ssem_dask.storage import location
from ssem_dask.storage.untrusted import read_hint, understood

Fingerprints = dict[tuple[int, int, int], str]
"""Fingerprints of sections by (mip, start, stop)."""


_TREE = TypeAdapter(dict[str, str])


def read_fingerprints(job: Job) -> Fingerprints:
    """Return the present fingerprints of the source."""
    return open_source(job).fingerprints()


def changed_sections(job: Job, current: Fingerprints) -> list[Region]:
    """Return the source sections that have changed since the run last began; [] if that is not known."""
    saved = _load(job)
    if saved is None:
        return []
    differing = sorted(key for key in {*saved, *current} if saved.get(key) != current.get(key))
    spans = dict.fromkeys((start, stop) for _, start, stop in differing)
    return [job.source_region(start, stop) for start, stop in spans]


def save_fingerprints(job: Job, fingerprints: Fingerprints) -> None:
    """Save the fingerprints of the source in the run; write nothing if they are the saved ones."""
    if _load(job) == fingerprints:
        return
    tree = {f"{mip}:{start}:{stop}": value for (mip, start, stop), value in fingerprints.items()}
    with location.writing(_url(job)):
        location.write_bytes(_url(job), json.dumps(tree, indent=0).encode())


def _load(job: Job) -> Fingerprints | None:
    tree = read_hint(_url(job), _TREE)
    return None if tree is None else understood(lambda: {_sections_of(key): value for key, value in tree.items()})


def _sections_of(key: str) -> tuple[int, int, int]:
    mip, start, stop = map(int, key.split(":"))
    return mip, start, stop


def _url(job: Job) -> str:
    return job.url("ledger", "source.stamps")
