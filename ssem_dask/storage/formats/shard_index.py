"""Chunks inside shards: the index of a shard says which of its chunks are stored, and where they are.

A copy of a volume can be whole in files but not in shards: a writer that was interrupted leaves shards without some of
their chunks, and a shard that was cut off has an index that points beyond its end.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.formats.chunk_count import grid_of, missing_note
from ssem_dask.storage.formats.precomputed_chunks import decoded_index, index_limit, index_rows
from ssem_dask.types import AnyArray
from ssem_dask.units import plural

_ENTRY_BYTES = 16
"""Bytes of an entry: offset and length, or start and stop, 8 bytes each."""
_CHECKSUM_BYTES = 4
_NOT_STORED = np.iinfo(np.uint64).max
_MOST_REMOTE = 1000
"""Shards behind a URL above which their indices are not read: each takes two requests."""
_READERS = 8
_MOST_INDEX_BITS = 20
"""Bits of the number of a minishard above which indices are not read: the index of each shard takes 16 MiB."""


@dataclass(frozen=True, slots=True)
class ShardContent:
    """Number of chunks in shards."""

    stored: int
    expected: int


def missing_in_shards_note(where: str, content: ShardContent) -> tuple[str, ...]:
    """Return a remark about chunks that are missing in the shards that are there; () if there are none."""
    return missing_note(f"{where}, inside its shards", stored=content.stored, expected=content.expected)


def zarr_shards(url: str, array: ZarrArray, shards: Mapping[tuple[int, ...], str]) -> ShardContent | None:
    """Count the chunks in the shards of a Zarr v3 array.

    Args:
        url: of the array.
        array: the array, with shards.
        shards: name of the file of each shard that is stored, by its index.

    Returns:
        The chunks of these shards; None if their index has an unusual form, or reading all would be slow.

    Raises:
        SourceError: a shard is shorter than its index says.
    """
    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or array.shards is None:
        return None
    plain = [isinstance(codec, BytesCodec | Crc32cCodec) for codec in codecs[0].index_codecs]
    if not all(plain) or len(plain) > 2 or _too_many(url, len(shards)):
        return None
    # The standard has no order of its own, so the codec states it.
    order = ">" if str(getattr(codecs[0].index_codecs[0], "endian", "")).endswith("big") else "<"
    inner = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    grid = grid_of(array.shape, array.chunks)
    size = math.prod(inner) * _ENTRY_BYTES
    tail = size + _CHECKSUM_BYTES * (len(plain) - 1)
    # An enumeration in zarr 3.1, a word in later versions.
    at_start = str(getattr(codecs[0].index_location, "value", codecs[0].index_location)) == "start"

    def count(item: tuple[tuple[int, ...], str]) -> tuple[int, int, str]:
        place, name = item
        inside = tuple(min(n, g - p * n) for n, g, p in zip(inner, grid, place, strict=True))
        expected = math.prod(inside)
        file = location.join(url, name)
        length = location.file_size(file) or 0
        start = 0 if at_start else length - tail
        if length < tail:
            return 0, expected, name
        content = location.read_range(file, start=start, stop=start + size)
        entries = np.frombuffer(content, f"{order}u8").reshape(*inner, 2)
        stored = entries[..., 0] != _NOT_STORED
        if _reaches_beyond(entries[stored], length):
            return 0, expected, name
        return int(stored[tuple(slice(n) for n in inside)].sum()), expected, ""

    return _counted(url, count, shards.items())


def precomputed_shards(url: str, sharding: Mapping[str, Any], *, grid: Sequence[int]) -> ShardContent | None:
    """Count the chunks in the shards of a scale of a precomputed volume.

    Args:
        url: of the scale.
        sharding: its record of the same name in `info`.
        grid: number of chunks of the scale along each axis.

    Returns:
        Its chunks; None if the location cannot be listed, or reading all indices would be slow.

    Raises:
        SourceError: a shard is shorter than its index says.
    """
    try:
        names = [name for name in location.list_files(url) if name.endswith(".shard")]
    except (OSError, NotImplementedError):
        return None
    if _too_many(url, len(names)) or (not names and not location.is_local(url)):
        return None
    bits = int(sharding["minishard_bits"])
    if bits > _MOST_INDEX_BITS:
        return None
    size = _ENTRY_BYTES << bits
    limit = index_limit(grid)
    is_gzip = sharding.get("minishard_index_encoding", "raw") == "gzip"

    def count(name: str) -> tuple[int, int, str]:
        file = location.join(url, name)
        length = location.file_size(file) or 0
        if length < size:
            return 0, 0, name
        entries = np.frombuffer(location.read_range(file, start=0, stop=size), "<u8").reshape(-1, 2)
        stored = 0
        for start, stop in entries[entries[:, 0] < entries[:, 1]].tolist():
            if size + stop > length:
                return 0, 0, name
            if stop - start > 2 * limit:
                return 0, 0, name
            content = location.read_range(file, start=size + start, stop=size + stop)
            index = decoded_index(content, limit=limit) if is_gzip else content
            rows = None if index is None else index_rows(index)
            if rows is None:
                return 0, 0, name
            stored += rows.shape[1]
            if _reaches_beyond(rows[1:].T, length - size):
                return 0, 0, name
        return stored, 0, ""

    found = _counted(url, count, names)
    return ShardContent(found.stored, math.prod(grid))


def _counted(url: str, count: Callable[[Any], tuple[int, int, str]], shards: Iterable[Any]) -> ShardContent:
    """Sum stored and expected chunks over all shards; SourceError names the first that is cut off."""
    stored, expected, damaged = 0, 0, []
    with ThreadPoolExecutor(_READERS) as readers:
        for own_stored, own_expected, broken in readers.map(count, shards):
            stored, expected = stored + own_stored, expected + own_expected
            damaged += [broken] if broken else []
    if damaged:
        raise SourceError(
            f"{url}: {plural(len(damaged), 'shard')} {'is' if len(damaged) == 1 else 'are'} cut off or damaged, the "
            f"first is {sorted(damaged)[0]}, whose index points beyond its end; copy them again."
        )
    return ShardContent(stored, expected)


def _too_many(url: str, count: int) -> bool:
    return not location.is_local(url) and (url.startswith("http") or count > _MOST_REMOTE)


def _reaches_beyond(entries: AnyArray, length: int) -> bool:
    """Return whether an offset and a length lead beyond the end of a file."""
    return bool(np.any(entries > length) or np.any(entries.sum(axis=-1) > length))
