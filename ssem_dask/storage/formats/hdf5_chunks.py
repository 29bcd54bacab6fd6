"""A dataset of HDF5 whose chunks are looked at before HDF5 decodes them: see `chunk_bombs`."""

import math
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.chunk_bombs import chunks_under, may_expand, refuse_expanding
from ssem_dask.types import AnyArray

_COMPRESSORS = {1: "zlib", 4: "szip", 307: "bz2", 32000: "lzf", 32001: "blosc", 32015: "zstd"}
"""Filters of HDF5 that compress, by their registered numbers. LZF expands a hundredfold at most."""
_FLETCHER32, _FLETCHER32_BYTES = 3, 4


class BoundedDataset:
    """A dataset that can be sliced; reading raises SourceError if a chunk expands to more than it may hold.

    Virtual datasets, whose values are in other files, and filters of plugins that are not in the list are not bounded.
    """

    def __init__(self, dataset: Any, *, where: str) -> None:
        """Find the chunks that may expand to much.

        Raises:
            SourceError: chunks are compressed twice.
        """
        self.shape: tuple[int, ...] = dataset.shape
        self._dataset, self._where = dataset, where
        plist = dataset.id.get_create_plist()
        self._filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        names = [_COMPRESSORS[number] for number in self._filters if number in _COMPRESSORS]
        if len(names) > 1:
            raise SourceError(
                f"{where}: its chunks are compressed {len(names)} times ({', '.join(names)}), which is never needed; "
                "export it with one compression."
            )
        self._name = names[0] if names and dataset.chunks is not None else ""
        self._suspects = self._find_suspects() if self._name else frozenset()

    def __getitem__(self, index: tuple[slice | int, ...]) -> AnyArray:
        """Return the values of a part of the dataset."""
        if self._suspects:
            for position in chunks_under(index, shape=self.shape, chunks=self._dataset.chunks):
                start = tuple(at * extent for at, extent in zip(position, self._dataset.chunks, strict=True))
                if start in self._suspects:
                    self._look_at(start)
        values: AnyArray = self._dataset[index]
        return values

    def _find_suspects(self) -> frozenset[tuple[int, ...]]:
        """Return the start of each chunk that is to be looked at."""
        found: list[tuple[int, ...]] = []

        def collect(chunk: Any) -> None:
            if may_expand(self._name, stored=chunk.size):
                found.append(tuple(chunk.chunk_offset))

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
                refuse_expanding(
                    content,
                    name=self._name,
                    limit=math.prod(self._dataset.chunks) * self._dataset.dtype.itemsize,
                    where=f"{self._where}: the chunk at {start}",
                )
            return
