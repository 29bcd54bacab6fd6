"""Whether the source is still what it was when it was read, section by section.

What tells a file's content from another one's (the store's ETag, or size and time of change) is written down when a run
begins, and compared when it goes on. So a section that was imaged again, or restored from a backup, is noticed, and
what reads it can be done again.
"""

import json

from ssem_dask.geometry.region import Region
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import open_source
from ssem_dask.storage import location

Stamps = dict[tuple[int, int, int], str]
"""By (mip, start, stop): what tells the content of these sections from another."""


def source_stamps(job: Job) -> Stamps:
    """Of the source as it is now."""
    return open_source(job).fingerprints()


def changed_sections(job: Job, now: Stamps) -> list[Region]:
    """Sections of the source that are not what they were when the run last began; [] where that is not known."""
    before = _read(job)
    if before is None:
        return []
    places = sorted(place for place in {*before, *now} if before.get(place) != now.get(place))
    spans = dict.fromkeys((start, stop) for _, start, stop in places)
    return [job.sections("source", start, stop) for start, stop in spans]


def remember(job: Job, stamps: Stamps) -> None:
    """Write down what the source is."""
    if _read(job) == stamps:
        return
    tree = {f"{mip}:{start}:{stop}": stamp for (mip, start, stop), stamp in stamps.items()}
    with location.writing(_url(job)):
        location.write_bytes(_url(job), json.dumps(tree, indent=0).encode())


def _read(job: Job) -> Stamps | None:
    try:
        tree = json.loads(location.read_bytes(_url(job)))
    except (FileNotFoundError, ValueError):
        return None
    stamps: Stamps = {}
    for place, stamp in tree.items():
        mip, start, stop = map(int, place.split(":"))
        stamps[mip, start, stop] = stamp
    return stamps


def _url(job: Job) -> str:
    return job.url("ledger", "source.stamps")
