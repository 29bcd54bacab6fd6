"""Writing of an imported volume: slab by slab, shard by shard, with a journal; at the end the shards are counted."""

from collections.abc import Callable, Iterator, Sequence

from ssem_dask.errors import IncompleteError, OutputError, SourceError
from ssem_dask.runtime.executor import Executor
from ssem_dask.storage import location
from ssem_dask.storage.arrays import chunk_index
from ssem_dask.storage.formats.channel_set import ChannelSet
from ssem_dask.storage.late_writes import read_notes
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.section_names import names_attribute
from ssem_dask.storage.volume import Volume, create_volume
from ssem_dask.units import plural, shortened
from ssem_dask.volumes import import_place
from ssem_dask.volumes.import_journal import Journal, Slab
from ssem_dask.volumes.import_plan import ImportPlan, source_fingerprints
from ssem_dask.volumes.import_slabs import SLAB_STAGE, SlabTask, copy_slabs


def write_volume(
    source: ChannelSet,
    plan: ImportPlan,
    where: str,
    *,
    journal: Journal,
    progress: Callable[[int], None],
    executor: Executor | None = None,
) -> None:
    """Write all slabs that the journal lacks; check that the volume is whole.

    Args:
        source: the source, open.
        plan: the import.
        where: URL of the group to write.
        journal: records of the slabs that are written.
        progress: called with the number of pixels of mip 0 done since the last call.
        executor: runs the copies of slabs; None: this process does.
    """
    volume = create_volume(
        where,
        info=plan.info,
        chunk=plan.chunk,
        shard=plan.shard,
        mips=plan.mips,
        name=plan.destination.rstrip("/").rpartition("/")[2],
        attributes=names_attribute(plan.names),
    )
    presence = _Presence(plan, where)
    depth, sections = volume.write_unit(0)[0], plan.info.shape[0]
    known = {z: journal.read(z) for z in range(0, sections, depth)}
    slabs = {z: slab for z, slab in known.items() if slab is not None}
    pixels = plan.info.shape[1] * plan.info.shape[2] * plan.info.planes
    for z in slabs:
        progress((min(z + depth, sections) - z) * pixels)
    # Shards of unfinished slabs, by the number of the slab.
    existing: dict[int, set[str]] = {}
    for path in _stored_shards(volume) if len(slabs) < len(known) else ():
        index = chunk_index(path.partition("/")[2])
        if index:
            existing.setdefault(index[-3], set()).add(path)
    tasks = [
        SlabTask(
            key=f"{SLAB_STAGE}/z{z:06d}",
            output=plan.destination,
            digest=plan.digest,
            pixels=(min(z + depth, sections) - z) * pixels,
            start=z,
            stop=min(z + depth, sections),
            source=plan.source,
            reading=plan.reading,
            selection=plan.selection,
            where=where,
            info=plan.info,
            mips=plan.mips,
            existing=frozenset(existing.get(z // depth, ())),
        )
        for z in known
        if z not in slabs
    ]
    for task, slab in _copied(source, volume, tasks, executor=executor, progress=progress):
        presence.check()
        journal.write(task.start, slab)
        slabs[task.start] = slab
    lowest, highest = min(slab.lowest for slab in slabs.values()), max(slab.highest for slab in slabs.values())
    if lowest == highest and not plan.reading.labels:
        raise SourceError(
            f"{plan.source}: every pixel of the volume is {lowest:g}, so there is nothing to align; check the export."
        )
    _refuse_changed_source(plan)
    presence.check()
    _refuse_late_writes(plan, volume, journal=journal)
    _refuse_missing_shards(plan, volume, slabs, journal=journal)


def _copied(
    source: ChannelSet,
    volume: Volume,
    tasks: Sequence[SlabTask],
    *,
    executor: Executor | None,
    progress: Callable[[int], None],
) -> Iterator[tuple[SlabTask, Slab]]:
    """Copy slabs here or by workers; yield each as it ends."""
    if executor is None:
        yield from ((task, task.copy_from(source, volume, progress=progress)) for task in tasks)
        return
    try:
        for task, slab in copy_slabs(tasks, executor=executor):
            progress(task.pixels)
            yield task, slab
    except IncompleteError:
        # The executor has recorded that workers died; a volume has no entries of tasks.
        location.delete(location.join(tasks[0].output, "ledger", SLAB_STAGE), recursive=True)
        raise


def _stored_shards(volume: Volume) -> set[str]:
    return {f"{mip}/{name}" for mip in volume.mips for name in location.list_files(volume.level_urls[mip])}


class _Presence:
    """Looks whether the group that is written is still there."""

    def __init__(self, plan: ImportPlan, where: str) -> None:
        self._plan, self._where = plan, where
        self._seen: bytes | None = None

    def check(self) -> None:
        """Raise OutputError if the group is gone, or belongs to another import."""
        # The metadata have the names of all sections. So they are interpreted only if they are not those seen before.
        content = import_place.metadata(self._where)
        if content is not None and content == self._seen:
            return
        found = import_place.look(self._where)
        if found.state != "importing" or found.digest != self._plan.digest:
            raise OutputError(
                f"{self._plan.destination}: the output was removed while it was written; delete what is left of it, "
                "then run the same command again."
            )
        self._seen = content


def _refuse_changed_source(plan: ImportPlan) -> None:
    """Raise IncompleteError if files of the source are not those that were there before the first one was read."""
    current = source_fingerprints(plan.source, destination=plan.destination)
    changed = sorted(
        name for name in {*plan.fingerprints, *current} if plan.fingerprints.get(name) != current.get(name)
    )
    if changed:
        raise IncompleteError(
            f"{plan.source}: {shortened([name or 'the file' for name in changed], limit=5)} changed while it was read, "
            "so the import is not complete; run the same command again when nobody writes there."
        )


def _refuse_late_writes(plan: ImportPlan, volume: Volume, *, journal: Journal) -> None:
    """Delete what was written if a worker of an earlier import ended late, and raise IncompleteError."""
    notes = read_notes(open_ledger(plan.destination))
    if notes:
        journal.delete()
        for url in volume.level_urls:  # shards that are there would not be written again
            location.delete(url, recursive=True)
        location.delete(notes[0].url.rpartition("/")[0], recursive=True)
        raise IncompleteError(
            f"{plan.destination}: a worker of an earlier import ended late and may have overwritten shards; "
            "run the same command again, which starts from the beginning."
        )


def _refuse_missing_shards(plan: ImportPlan, volume: Volume, slabs: dict[int, Slab], *, journal: Journal) -> None:
    """Raise IncompleteError if shards are gone that were written."""
    stored = _stored_shards(volume)
    missing = {z: sorted({*slab.files} - stored) for z, slab in slabs.items()}
    names = [name for files in missing.values() for name in files]
    if names:
        journal.forget(z for z, files in missing.items() if files)
        raise IncompleteError(
            f"{plan.destination}: {plural(len(names), 'shard')} that had been written cannot be found, the first is "
            f"{names[0]}; look for whatever deletes them, then run the same command again, which writes them again."
        )
