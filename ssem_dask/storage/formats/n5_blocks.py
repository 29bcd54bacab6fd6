"""Blocks of N5 that are looked at before TensorStore decodes them: see `chunk_bombs`."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.chunk_bombs import (
    chunks_under,
    look_at_each,
    may_expand,
    refuse_expanding,
    refuse_large_chunk,
    refuse_overlong,
)

_COMPRESSORS = {"raw": "", "gzip": "zlib", "bzip2": "bz2", "xz": "lzma", "blosc": "blosc", "zstd": "zstd"}


class BlockGuard:
    """Knows how many values and bytes a block of a dataset may hold."""

    def __init__(self, dataset: str, attributes: Mapping[str, Any]) -> None:
        """Interpret the metadata of a dataset; its axes are x, y, z, as N5 stores them.

        Raises:
            SourceError: its compression cannot be decoded, or a block takes more memory than any machine has.
        """
        if "compressionType" in attributes and "compression" not in attributes:
            raise SourceError(
                f"{dataset}: names its compression as N5 did before version 2 (compressionType); write "
                f'"compression": {{"type": "{attributes["compressionType"]}"}} to its attributes.json instead.'
            )
        lacking = [name for name in ("blockSize", "dataType", "compression") if name not in attributes]
        if lacking:
            raise SourceError(f"{dataset}: its attributes.json has no {', '.join(lacking)}; copy it again.")
        self._dataset = dataset
        self._shape = [int(extent) for extent in attributes["dimensions"]]
        self._block = [int(extent) for extent in attributes["blockSize"]]
        compression = attributes["compression"]
        kind = compression.get("type") if isinstance(compression, Mapping) else compression
        if kind is not None and kind not in _COMPRESSORS:
            raise SourceError(
                f"{dataset}: its blocks are compressed with {kind}, which cannot be decoded here; export it with one "
                f"of {', '.join(_COMPRESSORS)}."
            )
        self._name = _COMPRESSORS.get(str(kind), "")
        itemsize = np.dtype(str(attributes["dataType"])).itemsize
        self._bytes = refuse_large_chunk(self._block, itemsize=itemsize, where=dataset)

    def look_at(self, index: Sequence[slice | int]) -> None:
        """Raise SourceError if a block under a part of the dataset is too small, or expands to more than it may."""
        if not self._name and self._dataset.startswith("http"):
            return  # a request for each block would not bound what a server sends
        positions = chunks_under(index, shape=self._shape, chunks=self._block)
        look_at_each(self._look_at, positions, local=location.is_local(self._dataset))

    def _look_at(self, position: tuple[int, ...]) -> None:
        url = location.join(self._dataset, *map(str, position))
        stored = location.file_size(url)
        if stored is None:
            return
        refuse_overlong(stored, limit=self._bytes, where=url)
        expands = bool(self._name) and may_expand(self._name, stored=stored)
        if not expands and not location.is_local(url):
            return  # a request for each header would take longer than the data
        longest = stored if expands else 8 + 4 * len(self._shape)
        content = location.read_range(url, start=0, stop=longest)
        try:
            mode, axes = struct.unpack_from(">HH", content)
            extents = struct.unpack_from(f">{axes}I", content, 4)
        except struct.error:
            return  # TensorStore says that it is cut off
        self._refuse_small(extents, position, url)
        if expands:
            header = 4 + 4 * axes + (4 if mode == 1 else 0)
            refuse_expanding(content[header:], name=self._name, limit=self._bytes, where=url)

    def _refuse_small(self, extents: tuple[int, ...], position: tuple[int, ...], url: str) -> None:
        """Raise SourceError about a block that ends before it should: the rest would read as 0."""
        needed = [min(n, size - at * n) for at, n, size in zip(position, self._block, self._shape, strict=True)]
        if len(extents) == len(needed) and any(n < least for n, least in zip(extents, needed, strict=True)):
            raise SourceError(f"{url}: the block is {extents}, but {tuple(needed)} belong into it; export it again.")
