"""A dataset of HDF5 whose chunks are looked at before HDF5 decodes them: see `chunk_bombs`."""

from typing import Any

import h5py

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.chunk_bombs import (
    chunks_under,
    may_expand,
    refuse_expanding,
    refuse_large_chunk,
    refuse_overlong,
)
from ssem_dask.types import AnyArray

_BITSHUFFLE = 32008
_COMPRESSORS = {
    **{1: "zlib", 4: "szip", 307: "bz2", 32000: "lzf", 32001: "blosc", 32004: "lz4 of HDF5", 32015: "zstd"},
    _BITSHUFFLE: "bitshuffle",
}
"""Filters of HDF5 that compress, by their registered numbers. LZF expands a hundredfold at most."""
_SHUFFLE, _FLETCHER32, _NBIT, _SCALE_OFFSET = 2, 3, 5, 6
_OTHERS = {_SHUFFLE, _FLETCHER32, _NBIT, _SCALE_OFFSET}
"""Filters whose output has as many values as the metadata say."""
_PACKED_VALUES = 2
"""Place of the number of values among the parameters of the filters n-bit and scale-offset."""
_FLETCHER32_BYTES = 4
_BITSHUFFLE_COMPRESSION = 4
"""Place of the compression among the parameters of bitshuffle; 0 is none."""


class BoundedDataset:
    """A dataset that can be sliced; reading raises SourceError if a chunk expands to more than it may hold.

    A virtual dataset has its values in others: see `hdf5_parts`.
    """

    def __init__(self, dataset: Any, *, where: str) -> None:
        """Find the chunks that may expand to much.

        Raises:
            SourceError: the chunks cannot be decoded here, are compressed twice, or take more memory than there is.
        """
        self.shape: tuple[int, ...] = dataset.shape
        self._dataset, self._where = dataset, where
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
        self._bytes = 0
        if dataset.chunks is not None:
            self._bytes = refuse_large_chunk(dataset.chunks, itemsize=dataset.dtype.itemsize, where=where)
        for number, _, parameters, name in filters:
            self._check_filter(number, parameters, name.decode("utf-8", "replace"))
        self._filters = [number for number, *_ in filters]
        names = [_name(number, parameters) for number, _, parameters, _ in filters]
        names = [name for name in names if name]
        if len(names) > 1:
            raise SourceError(
                f"{where}: its chunks are compressed {len(names)} times ({', '.join(names)}), which is never needed; "
                "export it with one compression."
            )
        self._name = names[0] if names and dataset.chunks is not None else ""
        self._suspects = self._find_suspects() if self._filters and dataset.chunks is not None else frozenset()

    def __getitem__(self, index: tuple[slice | int, ...]) -> AnyArray:
        """Return the values of a part of the dataset."""
        if self._suspects:
            for position in chunks_under(index, shape=self.shape, chunks=self._dataset.chunks):
                start = tuple(at * extent for at, extent in zip(position, self._dataset.chunks, strict=True))
                if start in self._suspects:
                    self._look_at(start)
        values: AnyArray = self._dataset[index]
        return values

    def look_at_all(self) -> None:
        """Look at every chunk that may expand to much."""
        for start in sorted(self._suspects):
            self._look_at(start)

    def _check_filter(self, number: int, parameters: tuple[int, ...], name: str) -> None:
        called = f"filter {number}" + (f" ({name})" if name else "")
        if number not in _COMPRESSORS and number not in _OTHERS:
            raise SourceError(
                f"{self._where}: its chunks are encoded with {called}, which may expand a few bytes to any size, so it "
                "is not read; export it with gzip (h5repack -f GZIP=4)."
            )
        if not h5py.h5z.filter_avail(number):
            raise SourceError(
                f"{self._where}: its chunks are encoded with {called}, which HDF5 does not have here; install its "
                "plugin (pip install hdf5plugin, and set HDF5_PLUGIN_PATH), or export it with gzip "
                "(h5repack -f GZIP=4)."
            )
        if number in (_NBIT, _SCALE_OFFSET) and len(parameters) > _PACKED_VALUES:
            packed = parameters[_PACKED_VALUES]
            if packed * self._dataset.dtype.itemsize > self._bytes:
                raise SourceError(
                    f"{self._where}: its {called} has {packed} values in a chunk of {self._dataset.chunks}; it is "
                    "damaged, export it again."
                )

    def _find_suspects(self) -> frozenset[tuple[int, ...]]:
        """Return the start of each chunk that is to be looked at."""
        found: list[tuple[int, ...]] = []

        def collect(chunk: Any) -> None:
            start = tuple(chunk.chunk_offset)
            refuse_overlong(chunk.size, limit=self._bytes, where=f"{self._where}: the chunk at {start}")
            if self._name and may_expand(self._name, stored=chunk.size):
                found.append(start)

        if self._dataset.size:
            self._dataset.id.chunk_iter(collect)
        return frozenset(found)

    def _look_at(self, start: tuple[int, ...]) -> None:
        skipped, content = self._dataset.id.read_direct_chunk(start)
        for i in reversed(range(len(self._filters))):
            if skipped & (1 << i):
                continue
            if self._filters[i] == _FLETCHER32:
                content = content[:-_FLETCHER32_BYTES]
                continue
            if self._filters[i] in _COMPRESSORS:
                where = f"{self._where}: the chunk at {start}"
                refuse_expanding(content, name=self._name, limit=self._bytes, where=where)
            return


def _name(number: int, parameters: tuple[int, ...]) -> str:
    """Return the name of a compressor; "" for a filter that does not compress."""
    if number == _BITSHUFFLE and not any(parameters[_BITSHUFFLE_COMPRESSION:][:1]):
        return ""
    return _COMPRESSORS.get(number, "")
