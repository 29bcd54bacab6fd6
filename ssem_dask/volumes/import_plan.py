"""The plan of an import: source and destination with every choice made, and how an import is recognised again."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ssem_dask import __version__
from ssem_dask.runtime.memory import PROCESS_BYTES
from ssem_dask.storage import location, places
from ssem_dask.storage.formats.channel_set import ChannelSelection
from ssem_dask.storage.formats.source import HDF5_NAME, ReadOptions
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.storage.zip_files import split_zip, without_zip_protocol
from ssem_dask.types import ShapeZYX

BAND_BYTES = 1 << 29
"""Bytes of a band of rows, in which sections are read. So a file whose sections fit into a band is decoded once."""


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """An import that was checked."""

    source: str
    destination: str
    info: VolumeInfo
    chunk: ShapeZYX
    shard: ShapeZYX
    mips: int
    """Number of levels that are written."""
    reading: ReadOptions
    """How the source is read."""
    selection: ChannelSelection = field(default_factory=ChannelSelection)
    """Channels that are imported."""
    names: tuple[str, ...] = ()
    """Name of each section; empty if they have none."""
    notes: tuple[str, ...] = ()
    """Remarks about the source, one sentence each."""
    fingerprints: dict[str, str]
    """Fingerprint of each file of the source, by its name; empty if they cannot be listed."""
    overwrite: bool
    """Whether a complete volume at the destination may be replaced."""

    @cached_property  # made of the names of all files, and needed for each slab
    def digest(self) -> str:
        """Digest of source and options, by which an interrupted import is recognised; empty if that is not possible."""
        if not self.fingerprints:
            return ""
        sizes = [self.info.pixel_size, self.info.section_thickness]
        layout = [self.info.shape, self.info.dtype.str, sizes, self.chunk, self.shard, self.mips]
        return digest_of({"source": self.source, "files": self.fingerprints, "layout": layout, **self._reading})

    @property
    def worker_memory(self) -> int:
        """Peak bytes of a worker that copies a slab of sections, its process included."""
        row = min(self.shard[0], self.info.shape[0]) * self.info.shape[2] * self.info.dtype.itemsize * self.info.planes
        rows = min(self.shard[1], self.info.shape[1])
        band = min(max(BAND_BYTES, row * rows), row * self.info.shape[1])
        # The band as it is read and as it is converted, and the rows of shards of all levels, which are halved in turn.
        return PROCESS_BYTES + 2 * band + 3 * row * rows

    @property
    def gpu_memory(self) -> int:
        """Bytes of a GPU that a worker needs: none."""
        return 0

    @property
    def record(self) -> dict[str, Any]:
        """Attributes of the import, without its state."""
        return {"source": self.source, "labels": self.reading.labels, "digest": self.digest}

    @property
    def _reading(self) -> dict[str, Any]:
        """Everything that decides what the files mean: another version may read them in another way."""
        channels = [*self.selection.numbers, self.selection.register, *self.selection.names]
        return {"options": asdict(self.reading), "channels": channels, "names": self.names, "version": __version__}


def source_fingerprints(source: str, *, destination: str) -> dict[str, str]:
    """Return a fingerprint of each file of a source, by its name; {} if they cannot be listed."""
    url = without_zip_protocol(source).removeprefix("precomputed://")
    hdf5 = HDF5_NAME.match(url)
    with location.reading(source):
        in_zip = split_zip(url)
        if in_zip:
            return location.file_fingerprints(in_zip[0])
        if hdf5:
            return location.file_fingerprints(hdf5["file"])
        if location.is_pattern(url):
            return {
                file: value for file in location.glob_urls(url) for value in location.file_fingerprints(file).values()
            }
        found = location.file_fingerprints(url)
        if location.is_local(url) and places.relation(destination, url) is places.Relation.INSIDE:
            # A volume may be written beside its images.
            inside = location.local_path(destination).resolve().relative_to(location.local_path(url).resolve())
            return {name: value for name, value in found.items() if not name.startswith(f"{inside}/")}
    return found
