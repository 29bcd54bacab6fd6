"""Blocks of N5 that are looked at before TensorStore decodes them: see `chunk_bombs`."""

import math
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ssem_dask.storage import location
from ssem_dask.storage.formats.chunk_bombs import chunks_under, may_expand, refuse_expanding
from ssem_dask.storage.retry import in_this_context

_COMPRESSORS = {"gzip": "zlib", "bzip2": "bz2", "xz": "lzma", "blosc": "blosc", "zstd": "zstd"}
_READERS = 16


class BlockGuard:
    """Knows how many bytes a block of a dataset may hold."""

    def __init__(self, dataset: str, attributes: Mapping[str, Any]) -> None:
        """Interpret the metadata of a dataset; its axes are x, y, z, as N5 stores them."""
        self._dataset = dataset
        self._shape = [int(extent) for extent in attributes["dimensions"]]
        self._block = [int(extent) for extent in attributes.get("blockSize", self._shape)]
        compression = attributes.get("compression")
        kind = compression.get("type") if isinstance(compression, Mapping) else attributes.get("compressionType")
        self._name = _COMPRESSORS.get(str(kind), "")
        self._bytes = math.prod(self._block) * np.dtype(str(attributes.get("dataType", "uint8"))).itemsize

    def look_at(self, index: Sequence[slice | int]) -> None:
        """Raise SourceError if a block under a part of the dataset expands to more than it may hold."""
        if not self._name:
            return
        positions = chunks_under(index, shape=self._shape, chunks=self._block)
        urls = (location.join(self._dataset, *map(str, position)) for position in positions)
        with ThreadPoolExecutor(_READERS) as readers:
            for _ in readers.map(in_this_context(self._look_at), urls):
                pass

    def _look_at(self, url: str) -> None:
        stored = location.file_size(url)
        if stored is None or not may_expand(self._name, stored=stored):
            return
        content = location.read_bytes(url)
        try:
            mode, axes = struct.unpack_from(">HH", content)
        except struct.error:
            return  # TensorStore says that it is cut off
        header = 4 + 4 * axes + (4 if mode == 1 else 0)
        refuse_expanding(content[header:], name=self._name, limit=self._bytes, where=url)
