"""Fingerprints of the source per range of sections, which show whether it has changed since it was read.

A file's fingerprint is the store's ETag, or its size and modification time. The fingerprints are saved when a run
begins and compared when it resumes. So a section that was imaged again, or restored from a backup, is noticed, and
whatever reads it can run again. They are compared again before a run counts as complete.

If tasks may have read a section in another state than the saved one, the saved fingerprint is replaced by one that no
file has. So the section counts as changed, even if it comes back with its old fingerprint.
"""

import json

from pydantic import TypeAdapter

from ssem_dask.geometry.region import Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source
from ssem_dask.storage import location
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.untrusted import read_hint, understood
from ssem_dask.units import shortened

_UNKNOWN = "read while it changed"
"""Saved in place of the fingerprint of sections that were read in an unknown state."""
_SPANS_SHOWN = 10

Fingerprints = dict[tuple[int, int, int], str]
"""Fingerprints of sections by (mip, start, stop)."""


_TREE = TypeAdapter(dict[str, str])


def read_fingerprints(job: Job) -> Fingerprints:
    """Return the present fingerprints of the source."""
    return open_source(job).fingerprints()


def changed_sections(job: Job, current: Fingerprints) -> list[Region]:
    """Return the source sections that have changed since the run last began; [] if that is not known."""
    saved = _load(job)
    return [] if saved is None else _regions(job, _differing(saved, current))


def distrust_changed(job: Job, current: Fingerprints) -> None:
    """Remember that tasks may read sections in another state than the saved one, before such tasks run."""
    saved = _load(job)
    if saved is not None:
        save_fingerprints(job, {**saved, **dict.fromkeys(_differing(saved, current), _UNKNOWN)})


def accept_grown(job: Job, *, before: int) -> None:
    """Save the fingerprints of the files of appended sections, before any task reads them.

    The last file of the source may hold old sections and new ones. Of such a file only its end is new: the section
    after the last old one, and those that follow.

    Args:
        job: the run, with the sections that it is to have.
        before: sections that it had.
    """
    saved, current = _load(job), read_fingerprints(job)
    if saved is None:
        return
    is_elsewhere = read_run(job.output).source != job.source
    kept = {} if is_elsewhere else {key: value for key, value in saved.items() if key[2] < before}
    added = {key: value for key, value in current.items() if key not in kept and (is_elsewhere or key[2] >= before)}
    save_fingerprints(job, {**kept, **added})


def changed_while_read(job: Job, before: Fingerprints) -> str:
    """Compare the source with its state before the tasks began; remember which sections have changed.

    Returns:
        A sentence for the user; empty if nothing has changed.
    """
    differing = _differing(before, read_fingerprints(job))
    if job.growth is not None:
        # Sections that come after those of the run may share its last file.
        differing = [key for key in differing if key[2] < job.shape[0]]
    if not differing:
        return ""
    save_fingerprints(job, {**(_load(job) or before), **dict.fromkeys(differing, _UNKNOWN)})
    return (
        f"{job.source}: sections {spans_of(_regions(job, differing))} were written while this command read them; "
        f"recompute what read them with 'ssem-dask rerun {job.output}'."
    )


def spans_of(regions: list[Region]) -> str:
    """Return the sections of some regions as text."""
    return shortened([f"{r.box.start[0]}:{r.box.stop[0]}" for r in regions], limit=_SPANS_SHOWN)


def save_fingerprints(job: Job, fingerprints: Fingerprints) -> None:
    """Save the fingerprints of the source in the run; write nothing if they are the saved ones."""
    if _load(job) == fingerprints:
        return
    tree = {f"{mip}:{start}:{stop}": value for (mip, start, stop), value in fingerprints.items()}
    with location.writing(_url(job)):
        location.write_bytes(_url(job), json.dumps(tree, indent=0).encode())


def _differing(one: Fingerprints, other: Fingerprints) -> list[tuple[int, int, int]]:
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _regions(job: Job, keys: list[tuple[int, int, int]]) -> list[Region]:
    spans = sorted({(start, stop) for _, start, stop in keys})
    return [Region("source", job.sections_box(start, stop)) for start, stop in spans]


def _load(job: Job) -> Fingerprints | None:
    tree = read_hint(_url(job), _TREE)
    return None if tree is None else understood(lambda: {_sections_of(key): value for key, value in tree.items()})


def _sections_of(key: str) -> tuple[int, int, int]:
    mip, start, stop = map(int, key.split(":"))
    return mip, start, stop


def _url(job: Job) -> str:
    return job.url("ledger", "source.stamps")
