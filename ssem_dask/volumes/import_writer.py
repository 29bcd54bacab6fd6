"""Writing of an imported volume: slab by slab, shard by shard, with a journal; at the end the shards are counted."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssem_dask.errors import IncompleteError, OutputError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.storage import location
from ssem_dask.storage.formats.channel_set import ChannelSet
from ssem_dask.storage.section_names import names_attribute
from ssem_dask.storage.volume import Volume, create_volume
from ssem_dask.types import AnyArray
from ssem_dask.units import plural, shortened
from ssem_dask.volumes import import_place
from ssem_dask.volumes.import_journal import Journal, Slab
from ssem_dask.volumes.import_plan import ImportPlan, source_fingerprints

_PROBE_PX = 64
"""Distance of the values of a shard that are looked at first."""
BAND_BYTES = 1 << 29
"""Bytes of a band of rows, in which sections are read. So a file whose sections fit into a band is decoded once."""


def write_volume(
    source: ChannelSet,
    plan: ImportPlan,
    where: str,
    *,
    journal: Journal,
    progress: Callable[[int], None],
) -> None:
    """Write all slabs that the journal lacks; check that the volume is whole."""
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
    slabs: dict[int, Slab] = {}
    existing: set[str] | None = None
    for z in range(0, sections, depth):
        span = range(z, min(z + depth, sections))
        slab = journal.read(z)
        if slab is None:
            if existing is None:  # shards of an unfinished slab; later slabs have none
                existing = _stored_shards(volume)
            slab = Slab(plan.digest, np.inf, -np.inf)
            writers = [_ShardWriter(channel, slab, existing=existing) for channel in volume.each_channel]
            _copy(source, plan, span, writers=writers, progress=progress)
            presence.check()
            journal.write(z, slab)
        else:
            progress(len(span) * plan.info.shape[1] * plan.info.shape[2] * plan.info.planes)
        slabs[z] = slab
    lowest, highest = min(slab.lowest for slab in slabs.values()), max(slab.highest for slab in slabs.values())
    if lowest == highest and not plan.reading.labels:
        raise SourceError(
            f"{plan.source}: every pixel of the volume is {lowest:g}, so there is nothing to align; check the export."
        )
    _refuse_changed_source(plan)
    presence.check()
    _refuse_missing_shards(plan, volume, slabs, journal=journal)


class _ShardWriter:
    """Writes the shards of one slab, unless they are there already, and records them."""

    def __init__(self, volume: Volume, slab: Slab, *, existing: set[str]) -> None:
        self.slab = slab
        self.volume = volume
        self._existing = existing

    def write(self, box: Box, values: AnyArray) -> None:
        """Write a shard."""
        # Zeros have no file. Most shards show by a few of their values that they hold more.
        if not (values[:, ::_PROBE_PX, ::_PROBE_PX].any() or values.any()):
            return
        path = self.volume.shard_path(box)
        if path not in self._existing:
            self.volume.write(box, values)
        self.slab.files.append(path)


def _copy(
    source: ChannelSet,
    plan: ImportPlan,
    sections: range,
    *,
    writers: Sequence["_ShardWriter"],
    progress: Callable[[int], None],
) -> None:
    """Copy one slab of sections, band by band, into all levels of the volume; all channels of a band at once."""
    volume = writers[0].volume
    unit_z, unit_y, _ = volume.write_unit(0)
    _, y, x = volume.info.shape
    row_bytes = min(unit_z, volume.info.shape[0]) * x * volume.info.dtype.itemsize * len(writers)
    band = max(1, BAND_BYTES // (row_bytes * unit_y)) * unit_y
    labels = plan.reading.labels
    levels = [
        SlabWriter(writer.volume, sections=sections, labels=labels, write_shard=writer.write) for writer in writers
    ]
    slab = writers[0].slab
    for y_start in range(0, y, band):
        box = Box((sections.start, y_start, 0), (sections.stop, y_start + band, x)).clipped(volume.info.shape)
        with location.reading(plan.source):
            bands = source.read(z_start=box.start[0], z_stop=box.stop[0], y_start=box.start[1], y_stop=box.stop[1])
        for writer, level in zip(writers, levels, strict=True):
            values = bands.pop(0)
            if plan.info.channel in (None, writer.volume.info.channel):  # another detector may see nothing
                slab.lowest = min(slab.lowest, float(values.min()))
                slab.highest = max(slab.highest, float(values.max()))
            level.write(_as_type(values, volume.info.dtype))
            progress(box.size)


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


def _as_type(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    if values.dtype.newbyteorder("=") != dtype:
        raise SourceError(f"values are {values.dtype} where the header says {dtype}; export the volume again.")
    return values.astype(dtype, copy=False)
