"""Follow a microscope: append what has come to a run, batch by batch, until nothing more comes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ssem_dask.driver.append import AppendPlan, plan_append, run_sections
from ssem_dask.errors import SourceError
from ssem_dask.runtime.exclusive_driver import lease_url
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fence import fenced
from ssem_dask.storage.lease import hold_lease
from ssem_dask.storage.run_group import read_run, read_writable_run
from ssem_dask.storage.volume import Volume
from ssem_dask.units import shortened
from ssem_dask.volumes.growing_volume import Arrivals, absent_sections, add_sections, record_baseline

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """When to look, and when to stop."""

    interval: float
    """Seconds between two looks. A file counts as whole if it did not change between them."""
    until: int | None = None
    """Number of sections after which to stop, once all have come; None: no number."""
    idle: float | None = None
    """Seconds without anything new after which to stop; None: never."""


def follow(
    output: str,
    source: str,
    watching: Watching,
    *,
    note: Callable[[str], None],
    settled: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[AppendPlan]:
    """Yield an append for each batch; the caller executes it before the next.

    Args:
        output: URL of the run.
        source: folder of image files, of which the source of the run was made, or a volume (Zarr) that grows.
        watching: when to look, and when to stop.
        note: receives sentences for the user.
        settled: returns whether the last batch ended well; if not, it is tried again with the next one.
        sleep: waits.

    Raises:
        SourceError: there is no run, or the files of the folder do not number the sections of its source.
        OutputError: another process adds sections to the source.
    """
    record = read_writable_run(output)
    if is_node(source):
        yield from _follow_volume(output, source, watching, sleep=sleep)
        return
    volume = record.source
    if Volume.open(volume).info.channels:
        raise SourceError(f"{volume}: has channels, and files of single channels cannot be added; append a volume.")
    arrivals, reported = Arrivals(volume, source), ""
    with hold_lease(lease_url(volume), output=volume, keep=False) as lease:
        with fenced(lease):
            record_baseline(volume, source)
        arrivals.whole()
        idle_since = time.monotonic()
        while True:
            sleep(watching.interval)
            values, found, waiting = arrivals.whole()
            if values:
                with fenced(lease):
                    add_sections(volume, values, found)
                idle_since = time.monotonic()
            pending = run_sections(output, read_run(output)) < Volume.open(volume).info.shape[0]
            if values or pending or not settled():
                absent = absent_sections(Volume.open(volume).section_names)
                if absent:
                    note(f"Sections that have not come and are blank: {shortened(map(str, absent), limit=_SHOWN)}.")
                yield plan_append(output, None)
                idle_since = time.monotonic()
            remark = "; ".join(waiting[:_SHOWN])
            if remark and remark != reported:
                note(f"Waiting for {remark}.")
            reported = remark
            names = Volume.open(volume).section_names
            is_full = watching.until is not None and len(names) >= watching.until
            if is_full and not absent_sections(names[: watching.until]) and settled():
                return
            if watching.idle is not None and time.monotonic() - idle_since >= watching.idle:
                return


def _follow_volume(
    output: str, source: str, watching: Watching, *, sleep: Callable[[float], None]
) -> Iterator[AppendPlan]:
    """Yield an append whenever a volume has more sections, or others, and its files did not change for an interval."""
    idle_since, before = time.monotonic(), Volume.open(source).fingerprints()
    appended: dict[tuple[int, int, int], str] | None = None
    while True:
        sleep(watching.interval)
        volume = Volume.open(source)
        stamps = volume.fingerprints()
        sections = run_sections(output, read_run(output))
        is_new = volume.info.shape[0] > sections or (appended is not None and stamps != appended)
        if is_new and stamps == before:
            yield plan_append(output, source)
            appended, idle_since = stamps, time.monotonic()
        elif stamps != before:
            idle_since = time.monotonic()
        before = stamps
        if watching.until is not None and run_sections(output, read_run(output)) >= watching.until:
            return
        if watching.idle is not None and time.monotonic() - idle_since >= watching.idle:
            return
