"""Decompression that takes no more memory than the metadata say a chunk holds.

A few kilobytes of zstd, Blosc or gzip can expand to gigabytes, and the usual codecs allocate whatever the compressed
bytes ask for. So `bounded` puts a wrapper around each compressor of an opened array. The wrapper knows how many bytes
the chunk has by its shape and type, and stops with an error before there are more. Codecs that compress nothing, such
as checksums, are not wrapped. Compressors that are not known here are refused.

The selection of codecs in zarr's registry would be global to the process, so the codecs of this one array are replaced.
"""

import asyncio
import bz2
import copy
import lzma
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec as Numcodec
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from ssem_dask.errors import SourceError

ZarrArray: TypeAlias = zarr.Array[Any]

MAX_CHUNK_BYTES = 64 << 30
"""Bytes of a decoded chunk at most; a task decodes whole chunks in memory."""
MAX_CHUNKS_PER_SHARD = 1 << 24
"""Chunks of a shard at most; its index takes 16 bytes for each."""
_BOUNDED: Final = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
"""Compressors, by the names that numcodecs and Zarr v3 give them."""
_SIZE_KEPT: Final = frozenset({"shuffle"})
_NO_COMPRESSORS: Final = _SIZE_KEPT | {
    *("adler32", "astype", "base64", "bitround", "bytes", "categorize", "crc32", "crc32c", "delta", "endian"),
    *("fixedscaleoffset", "fletcher32", "jenkins_lookup3", "packbits", "quantize"),
}
"""Codecs whose output has at most `_WIDENING` times the bytes of their input."""
_WIDENING = 8
"""Factor by which filters can widen the values of a chunk, as from uint8 to float64."""
_SLACK_BYTES = 1 << 20
_HEADERS: Final = {"blosc": "<4xI", "lz4": "<I", "szip": "<I", "lz4 of HDF5": ">Q", "bitshuffle": ">Q"}
_ZSTD_BLOCK: Final = 1 << 17
"""Bytes that a block of zstd holds at most."""
_REPEATED_BYTE, _COMPRESSED_BLOCK = 1, 2  # kinds of blocks
_GZIP_WINDOW, _ZLIB_WINDOW = 31, 15  # `wbits` of zlib: with the header of gzip, with that of zlib


def bounded(array: ZarrArray, *, where: str) -> ZarrArray:
    """Return the same array with decompression that is bounded.

    Args:
        array: an array of Zarr v2 or v3.
        where: its URL, for messages.

    Raises:
        SourceError: a chunk, or the index of a shard, would not fit into memory, or the compressor cannot be bounded.
    """
    metadata: Any = copy.copy(array.metadata)
    itemsize = array.dtype.itemsize
    chunk_bytes = math.prod(array.chunks) * itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise SourceError(
            f"{where}: a chunk of {array.chunks} values has {chunk_bytes} bytes, but at most {MAX_CHUNK_BYTES} are "
            "read; store the volume in smaller chunks."
        )
    per_shard = math.prod(s // c for s, c in zip(array.shards or array.chunks, array.chunks, strict=True))
    if per_shard > MAX_CHUNKS_PER_SHARD:
        raise SourceError(
            f"{where}: a shard of {array.shards} values holds {per_shard} chunks, but at most {MAX_CHUNKS_PER_SHARD} "
            "are read; store the volume in smaller shards."
        )
    if metadata.zarr_format == 2:
        _bound_v2(metadata, chunk_bytes, where=where)
    else:
        object.__setattr__(metadata, "codecs", _bounded_chain(metadata.codecs, where=where))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def decode_bounded(
    codec: Any, content: Any, *, name: str, config: Mapping[str, Any], size: int | None, most: int
) -> Any:
    """Decompress the bytes of a chunk.

    Args:
        codec: codec of numcodecs that decodes what the standard library does not.
        content: the compressed bytes, as any buffer.
        name: name of the compressor.
        config: its settings; LZMA needs its format and filters.
        size: exact number of bytes that must result; None: unknown.
        most: bytes that may result at most.

    Raises:
        ValueError: the content is damaged, or expands to more.
    """
    limit = most if size is None else size
    if (
        name == "zstd" and size is not None
    ):  # a buffer of the right size also bounds frames that do not state their size
        return codec.decode(content, np.empty(size, np.uint8))
    if name in ("zstd", "blosc", "lz4"):
        if stated_size(content, name=name) > limit:
            raise _expands(limit)
    elif name in ("gzip", "zlib", "bz2", "lzma"):
        decoded = _streamed(_bytes(content), name=name, config=config, limit=limit)
        if size is not None and len(decoded) != size:
            raise ValueError(f"it expands to {len(decoded)} bytes, not {size}")
        return decoded
    return codec.decode(content)


def stated_size(content: Any, *, name: str) -> int:
    """Return the number of bytes that the header of compressed bytes states.

    Args:
        content: the compressed bytes, or the first 18 of them.
        name: `blosc`, `lz4` as numcodecs writes it, `szip`, `lz4 of HDF5` and `bitshuffle` as HDF5 has them, or
            `zstd`.

    Raises:
        ValueError: nothing is stated, or `name` is another one.
    """
    if name == "zstd":
        size = _zstd_size(content)
        if size is None:
            raise ValueError("its compressed bytes do not state how many there are")
        return size
    if name not in _HEADERS:
        raise ValueError(f"{name} states no size")
    return _stated(content, _HEADERS[name])


def zstd_bound(content: bytes) -> int:
    """Return a number of bytes that frames of zstd do not exceed when they are decompressed.

    The headers of the blocks are followed, since a frame need not state its size, and further frames may come after the
    first one (RFC 8878, 3.1.1).

    Raises:
        ValueError: the frames are damaged.
    """
    total, at = 0, 0
    while at < len(content):
        magic = content[at : at + 4]
        if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:  # a frame of somebody else's, to be skipped
            at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
            continue
        stated = _zstd_size(content[at : at + 18])
        descriptor = content[at + 4]
        at += 5 + _zstd_header(descriptor)
        size, last = 0, False
        while not last:
            if at + 3 > len(content):
                raise ValueError("it ends too early")
            block = int.from_bytes(content[at : at + 3], "little")
            last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
            size += _ZSTD_BLOCK if kind == _COMPRESSED_BLOCK else length
            at += 3 + (1 if kind == _REPEATED_BYTE else length)
        at += 4 if descriptor & 4 else 0  # checksum
        total += size if stated is None else min(stated, size)
    return total


def _streamed(content: bytes, *, name: str, config: Mapping[str, Any], limit: int) -> bytes:
    """Decompress with the standard library, whose streams stop at a limit."""
    parts, total = [], 0
    while content:  # these formats allow several streams one after the other
        stream: Any
        if name == "bz2":
            stream = bz2.BZ2Decompressor()
        elif name == "lzma":
            form = config.get("format", lzma.FORMAT_XZ)
            stream = lzma.LZMADecompressor(form, filters=config.get("filters") if form == lzma.FORMAT_RAW else None)
        else:
            stream = zlib.decompressobj(_GZIP_WINDOW if name == "gzip" else _ZLIB_WINDOW)
        try:
            part = stream.decompress(content, limit - total + 1)
        except (OSError, lzma.LZMAError, zlib.error) as error:  # bz2 raises OSError about its content
            raise ValueError(str(error)) from error
        total += len(part)
        if total > limit:
            raise _expands(limit)
        if not stream.eof:
            raise ValueError("its compressed bytes end too early")
        parts.append(part)
        content = stream.unused_data
        if name == "zlib":
            break  # bytes after the stream are padding
    return b"".join(parts)


def _expands(limit: int) -> ValueError:
    return ValueError(f"it expands to more than the {limit} bytes that it may hold")


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else bytes(memoryview(content).cast("B"))


def _stated(content: Any, form: str) -> int:
    try:
        return int(struct.unpack_from(form, _bytes(content)[:16])[0])
    except struct.error as error:
        raise ValueError("it is too short") from error


def _zstd_size(content: Any) -> int | None:
    """Return the content size in the header of a zstd frame; None if it is not stated (RFC 8878, 3.1.1.1)."""
    head = _bytes(content)[:18]
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it is no zstd frame")
    width = _zstd_width(head[4])
    if width == 0:
        return None
    start = 5 + _zstd_header(head[4]) - width
    stated = int.from_bytes(head[start : start + width], "little")
    return stated + 256 if width == 2 else stated


def _zstd_width(descriptor: int) -> int:
    """Return the number of bytes of the content size in a frame header."""
    return (1 if descriptor & 0x20 else 0, 2, 4, 8)[descriptor >> 6]


def _zstd_header(descriptor: int) -> int:
    """Return the number of bytes between the descriptor of a frame and its first block."""
    single_segment = bool(descriptor & 0x20)
    return (not single_segment) + (0, 1, 2, 4)[descriptor & 3] + _zstd_width(descriptor)


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):
    """A compressor of Zarr v3 that decodes with a bound, and encodes as the one that it wraps."""

    inner: Any
    name: str
    config: Mapping[str, Any]
    extra_bytes: int | None
    """Bytes of the chunk that the codecs before add; None if their number depends on the values."""

    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata of the wrapped codec."""
        return dict(self.inner.to_dict())

    def evolve_from_array_spec(self, array_spec: Any) -> "BoundedCodec":
        """Return the codec adapted to the type of an array."""
        return replace(self, inner=self.inner.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Return the size as the wrapped codec knows it."""
        return int(self.inner.compute_encoded_size(input_byte_length, chunk_spec))

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decoded, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await self.inner._encode_single(chunk_bytes, chunk_spec)

    def _decoded(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        chunk = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        decoded = decode_bounded(
            numcodecs.get_codec({"id": self.name}),
            chunk_bytes.as_numpy_array(),
            name=self.name,
            config=self.config,
            size=None if self.extra_bytes is None else chunk + self.extra_bytes,
            most=chunk * _WIDENING + _SLACK_BYTES,
        )
        return chunk_spec.prototype.buffer.from_bytes(decoded)


@dataclass(frozen=True)
class BoundedSyncCodec(BoundedCodec):
    """A compressor that the fused pipeline calls without a coroutine."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return self._decoded(chunk_bytes, chunk_spec)

    def _encode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return self.inner._encode_sync(chunk_bytes, chunk_spec)


def _refuse_unbounded(name: str, where: str) -> None:
    """Raise SourceError about a codec that is not known here."""
    if name not in _NO_COMPRESSORS:
        raise SourceError(
            f"{where}: is compressed with {name!r}, which may expand a few bytes to any size, so it is not read; "
            "export it with zstd, Blosc, gzip or LZ4."
        )


def _bounded_chain(codecs: tuple[Any, ...], *, where: str) -> tuple[Any, ...]:
    """Return a chain of codecs with its compressors wrapped, also inside shards."""
    chain: list[Any] = []
    extra: int | None = None
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            chain.append(replace(codec, codecs=_bounded_chain(codec.codecs, where=where)))
            continue
        settings = codec.to_dict()
        name = str(settings.get("name", "")).removeprefix("numcodecs.")
        if isinstance(codec, BytesBytesCodec) and name in _BOUNDED:
            kind = BoundedSyncCodec if hasattr(codec, "_encode_sync") else BoundedCodec
            chain.append(kind(codec, name, dict(settings.get("configuration") or {}), extra))
            extra = None
            continue
        if not isinstance(codec, ArrayArrayCodec):
            _refuse_unbounded(name, where)
        if isinstance(codec, BytesCodec):
            extra = 0
        elif isinstance(codec, Crc32cCodec):
            extra = None if extra is None else extra + 4
        elif name not in _SIZE_KEPT:
            extra = None
        chain.append(codec)
    return tuple(chain)


class BoundedNumcodec(Numcodec):  # type: ignore[misc]
    """A compressor of Zarr v2 that decodes with a bound, and encodes as the one that it wraps."""

    def __init__(self, inner: Any, *, size: int | None, most: int) -> None:
        """Wrap a codec; `size` and `most` as in `decode_bounded`."""
        self.codec_id = inner.codec_id
        self._inner, self._size, self._most = inner, size, most

    def encode(self, buf: Any) -> Any:
        """Compress as the wrapped codec does."""
        return self._inner.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decompress; ValueError if there are more bytes than a chunk holds."""
        del out  # zarr never gives a buffer
        config = self.get_config()
        return decode_bounded(self._inner, buf, name=self.codec_id, config=config, size=self._size, most=self._most)

    def get_config(self) -> dict[str, Any]:
        """Return the metadata of the wrapped codec."""
        return dict(self._inner.get_config())


def _bound_v2(metadata: Any, chunk_bytes: int, *, where: str) -> None:
    """Replace the compressor, and any filter that is one, in the metadata of an array of Zarr v2."""
    size: int | None = chunk_bytes
    filters = []
    for codec in metadata.filters or ():
        filters.append(_bounded_numcodec(codec, size, chunk_bytes, where))
        if codec.codec_id not in _SIZE_KEPT:
            size = None
    object.__setattr__(metadata, "filters", tuple(filters) or None)
    if metadata.compressor is not None:
        object.__setattr__(metadata, "compressor", _bounded_numcodec(metadata.compressor, size, chunk_bytes, where))


def _bounded_numcodec(codec: Any, size: int | None, chunk_bytes: int, where: str) -> Any:
    if codec.codec_id not in _BOUNDED:
        _refuse_unbounded(codec.codec_id, where)
        return codec
    return BoundedNumcodec(codec, size=size, most=chunk_bytes * _WIDENING + _SLACK_BYTES)
