"""Chunks of a neuroglancer-precomputed volume that are looked at before TensorStore decodes them: see `chunk_bombs`.

A chunk is a file, or a part of a shard. A shard has an index of its minishards, and each minishard has an index of its
chunks, which may be compressed as well. The number of a chunk is its compressed Morton code, and a hash of it chooses
shard and minishard (https://github.com/google/neuroglancer, `datasource/precomputed/sharded.md`).
"""

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

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
from ssem_dask.storage.formats.chunk_count import grid_of
from ssem_dask.types import AnyArray

Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

_ENTRY_BYTES = 16
_ROW_BYTES = 24
"""Bytes of a chunk in the index of its minishard: number, offset and length, 8 bytes each."""
_MOST_MINISHARD_BITS = 24
"""Bits of the number of a minishard at most: the index of a shard then has 256 MiB."""
_MOST_INDEX_BYTES = 1 << 28
"""Bytes of the index of a minishard at most, 11 million chunks."""
_PNG_HEAD = 26
_PNG_PALETTE = 3


class ChunkGuard:
    """Knows how many bytes a chunk of a scale may hold."""

    def __init__(self, url: str, metadata: Mapping[str, Any], scale: Mapping[str, Any]) -> None:
        """Interpret the metadata of a volume.

        Args:
            url: of the volume.
            metadata: content of its file `info`.
            scale: its first scale.

        Raises:
            SourceError: a chunk takes more memory than any machine has.
        """
        self._place = location.join(url, str(scale["key"]))
        self._size = [int(extent) for extent in scale["size"]]
        self._chunk = [int(extent) for extent in scale["chunk_sizes"][0]]
        self._offset = [int(start) for start in scale.get("voxel_offset", [0, 0, 0])]
        self._bits = 8 * np.dtype(str(metadata["data_type"])).itemsize
        self._is_png = scale.get("encoding") == "png"
        channels = int(metadata.get("num_channels", 1))
        self._bytes = refuse_large_chunk([*self._chunk, channels], itemsize=self._bits // 8, where=url)
        self._grid = grid_of(self._size, self._chunk)
        sharding = scale.get("sharding")
        self._shards = None if sharding is None else _Shards(self._place, sharding, self._grid, chunk=self._bytes)

    def look_at(self, index: Sequence[slice | int]) -> None:
        """Raise SourceError if a chunk under a part (x, y, z) of the scale takes more memory than it may hold."""
        positions = list(chunks_under(index, shape=self._size, chunks=self._chunk))
        if self._shards is not None:
            self._shards.look_at(np.array(positions, np.uint64), head=self._look_at_head)
        elif not self._place.startswith("http"):  # a request for each file; and a hostile server says what it likes
            look_at_each(self._look_at_file, positions, local=location.is_local(self._place))

    def _look_at_file(self, position: tuple[int, ...]) -> None:
        box = zip(position, self._chunk, self._size, self._offset, strict=True)
        spans = [(at * n + start, min((at + 1) * n, size) + start) for at, n, size, start in box]
        url = location.join(self._place, "_".join(f"{start}-{stop}" for start, stop in spans))
        stored = location.file_size(url)
        if stored is not None:
            refuse_overlong(stored, limit=self._bytes, where=url)
            if self._is_png:
                self._look_at_head(location.read_range(url, start=0, stop=min(stored, _PNG_HEAD)), url)

    def _look_at_head(self, content: bytes, where: str) -> None:
        """Raise SourceError about a PNG image that TensorStore cannot read: it ends the process, or shows entries."""
        if not self._is_png or len(content) < _PNG_HEAD:
            return
        bits, colour = content[24], content[25]
        if bits > self._bits or colour == _PNG_PALETTE:
            kind = "entries of a palette" if colour == _PNG_PALETTE else f"{bits} bits"
            raise SourceError(
                f"{where}: the PNG image has {kind} where the metadata say {self._bits} bits; export the volume again."
            )


class _Shards:
    """The shards of a scale, whose indices are read as far as they are needed."""

    def __init__(self, place: str, sharding: Mapping[str, Any], grid: Sequence[int], *, chunk: int) -> None:
        self._place, self._grid, self._chunk = place, grid, chunk
        self._shift = int(sharding["preshift_bits"])
        self._minishard_bits, self._shard_bits = int(sharding["minishard_bits"]), int(sharding["shard_bits"])
        if self._minishard_bits > _MOST_MINISHARD_BITS:
            raise SourceError(
                f"{place}: a shard has 2^{self._minishard_bits} minishards, but at most 2^{_MOST_MINISHARD_BITS} are "
                "read; store the volume in smaller shards."
            )
        self._is_hashed = sharding["hash"] == "murmurhash3_x86_128"
        self._index_is_gzip = sharding.get("minishard_index_encoding", "raw") == "gzip"
        self._data_is_gzip = sharding.get("data_encoding", "raw") == "gzip"
        self._most_index = index_limit(grid)
        self._rows = lru_cache(maxsize=64)(self._read_rows)

    def look_at(self, positions: Numbers, *, head: Callable[[bytes, str], None]) -> None:
        """Raise SourceError if a chunk at one of the positions (chunk, axis) takes more memory than it may hold."""
        numbers = chunk_numbers(positions, self._grid)
        # TensorStore refuses a volume whose bits are more than 64, before it reads anything.
        hashed = numbers >> np.uint64(min(self._shift, 63))
        hashed = murmurhash(hashed) if self._is_hashed else hashed
        minishards = hashed & np.uint64((1 << self._minishard_bits) - 1)
        shards = hashed >> np.uint64(min(self._minishard_bits, 63)) & np.uint64((1 << self._shard_bits) - 1)
        groups: dict[tuple[int, int], set[int]] = {}
        for shard, minishard, number in zip(shards.tolist(), minishards.tolist(), numbers.tolist(), strict=True):
            groups.setdefault((shard, minishard), set()).add(number)

        def look(item: tuple[tuple[int, int], set[int]]) -> None:
            (shard, minishard), wanted = item
            name, rows = self._rows(shard, minishard)
            chosen = rows[:, np.isin(rows[0], np.fromiter(wanted, np.uint64))]
            for number, start, length in chosen.T.tolist():
                where = f"{name} chunk {number}"
                refuse_overlong(length, limit=self._chunk, where=where)
                if self._data_is_gzip and may_expand("zlib", stored=length):
                    content = location.read_range(name, start=start, stop=start + length)
                    refuse_expanding(content, name="zlib", limit=self._chunk, where=where)
                head(self._head(name, start, length), where)

        look_at_each(look, groups.items(), local=location.is_local(self._place))

    def _head(self, name: str, start: int, length: int) -> bytes:
        content = location.read_range(name, start=start, stop=start + min(length, 1 << 12))
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, _PNG_HEAD) if self._data_is_gzip else content

    def _read_rows(self, shard: int, minishard: int) -> tuple[str, Numbers]:
        """Return the file of a shard, and number, start and length (3, chunk) of the chunks in one minishard."""
        width = -(-self._shard_bits // 4)
        name = location.join(self._place, f"{shard:0{width}x}.shard")
        first = minishard * _ENTRY_BYTES
        base = _ENTRY_BYTES << self._minishard_bits
        nothing = np.empty((3, 0), np.uint64)
        stored = location.file_size(name)
        if stored is None or stored < first + _ENTRY_BYTES:
            return name, nothing  # TensorStore reads the fill value, or says that the shard is cut off
        # TensorStore reads a shard as a whole if all of its chunks are wanted.
        refuse_overlong(stored, limit=self._most_chunks() * self._chunk + base, where=name, unit="shard")
        entry = location.read_range(name, start=first, stop=first + _ENTRY_BYTES)
        start, stop = struct.unpack("<QQ", entry)
        if start >= stop or base + stop > stored:
            return name, nothing
        where = f"{name} minishard {minishard}"
        refuse_overlong(stop - start, limit=self._most_index, where=where, unit="index")
        content = location.read_range(name, start=base + start, stop=base + stop)
        if self._index_is_gzip:
            refuse_expanding(content, name="zlib", limit=self._most_index, where=where)
            decoded = decoded_index(content, limit=self._most_index)
            content = b"" if decoded is None else decoded
        rows = index_rows(content)
        if rows is None:
            return name, nothing
        rows[1] += np.uint64(base)
        return name, rows

    def _most_chunks(self) -> int:
        """Return how many chunks a shard can hold."""
        every = math.prod(self._grid)
        if self._is_hashed:
            return every
        number_bits = sum(max(0, count - 1).bit_length() for count in self._grid)
        inside = self._shift + self._minishard_bits
        return min(every, 1 << min(inside + max(0, number_bits - inside - self._shard_bits), 64))


def index_limit(grid: Sequence[int]) -> int:
    """Return the bytes that the decoded index of a minishard has at most, if it holds all chunks of a grid."""
    return min(_MOST_INDEX_BYTES, _ROW_BYTES * max(1, math.prod(grid)))


def decoded_index(content: bytes, *, limit: int) -> bytes | None:
    """Return the decompressed index of a minishard; None if it is damaged or longer than the limit."""
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        index = decoder.decompress(content, limit + 1)
    except (zlib.error, gzip.BadGzipFile):
        return None
    return index if decoder.eof else None


def index_rows(content: bytes) -> Numbers | None:
    """Return number, start behind the index of the shard, and length (3, chunk) from the index of a minishard.

    None if it is damaged. Numbers are stored as differences; a chunk begins where the one before ends, plus a gap.
    """
    if len(content) % _ROW_BYTES:
        return None
    numbers, gaps, lengths = np.frombuffer(content, "<u8").reshape(3, -1)
    ends = np.cumsum(gaps + lengths, dtype=np.uint64)
    return np.stack([np.cumsum(numbers, dtype=np.uint64), ends - lengths, lengths])


def chunk_numbers(positions: AnyArray, grid: Sequence[int]) -> Numbers:
    """Return the compressed Morton code of chunks.

    Args:
        positions: (chunk, axis), in chunks, x first.
        grid: number of chunks along each axis.
    """
    widths = [max(0, int(count) - 1).bit_length() for count in grid]
    numbers = np.zeros(len(positions), np.uint64)
    out = 0
    for bit in range(max(widths, default=0)):
        for axis, width in enumerate(widths):
            if bit < width:
                numbers |= (positions[:, axis].astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) << np.uint64(out)
                out += 1
    return numbers


def murmurhash(numbers: Numbers) -> Numbers:
    """Return the low 8 bytes of MurmurHash3_x86_128 of 8-byte numbers, with seed 0."""
    mask = np.uint64(0xFFFFFFFF)

    def times(value: Numbers, factor: int) -> Numbers:
        return value * np.uint64(factor) & mask

    def turned(value: Numbers, bits: int) -> Numbers:
        return (value << np.uint64(bits) | value >> np.uint64(32 - bits)) & mask

    def mixed(value: Numbers) -> Numbers:
        value = times(value ^ value >> np.uint64(16), 0x85EBCA6B)
        value = times(value ^ value >> np.uint64(13), 0xC2B2AE35)
        return value ^ value >> np.uint64(16)

    eight = np.uint64(8)
    first = times(turned(times(numbers & mask, 0x239B961B), 15), 0xAB0E9789) ^ eight
    second = times(turned(times(numbers >> np.uint64(32), 0xAB0E9789), 16), 0x38B34AE5) ^ eight
    third = fourth = np.full_like(numbers, eight)
    first = first + second + third + fourth & mask
    second, third = second + first & mask, third + first & mask
    first, second, third = mixed(first), mixed(second), mixed(third)
    first = first + second + third + third & mask  # the fourth part is the same as the third
    second = second + first & mask
    return first | second << np.uint64(32)
