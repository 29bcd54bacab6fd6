"""Compressed chunks that expand to more than they may hold, found before a library decodes them.

HDF5 and TensorStore allocate whatever compressed bytes ask for. So a chunk that could take much memory is decompressed
here first, up to the bytes that the metadata allow. Most chunks are too small for that and are not looked at.
"""

import bz2
import lzma
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, TypeVar

import numcodecs
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.bounded_codecs import MAX_CHUNK_BYTES, stated_size, zstd_bound
from ssem_dask.storage.retry import in_this_context

T = TypeVar("T")

_ALWAYS_EXPANDED = 1 << 30
"""Bytes that any chunk may expand to: one that cannot expand to more is not looked at."""
_DEFLATE_RATIO = 1032
"""Bytes that Deflate makes of one byte, at most."""
_SLACK = 1 << 16
_MOST_GROWTH = 4
"""Factor by which compression may make a chunk larger: compressed_segmentation has tables, others headers alone."""
_OVERHEAD = 1 << 20
"""Bytes of metadata that any chunk may have beside its values."""
_PIECE = 1 << 20
_READERS = 16
_SLOW_SECONDS = 2e-4
"""Seconds per chunk above which chunks are looked at in threads; handing a chunk to a thread takes about half."""
_TRIED_SECONDS = 2e-2
"""Seconds after which a store is known to be slow, and not the machine busy for a moment."""
_STREAMS: dict[str, Callable[[], Any]] = {
    "zlib": lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),  # with the header of zlib or of gzip
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}


def may_expand(name: str, *, stored: int) -> bool:
    """Return whether a chunk of so many compressed bytes may expand to more than is always allowed.

    Args:
        name: name of the compressor, as in `refuse_expanding`.
        stored: number of compressed bytes.
    """
    return name != "zlib" or stored * _DEFLATE_RATIO > _ALWAYS_EXPANDED


def refuse_large_chunk(values: Sequence[int], *, itemsize: int, where: str) -> int:
    """Return the number of bytes of a chunk; raise SourceError if no memory holds it.

    Args:
        values: extents of a chunk.
        itemsize: bytes of a value.
        where: name of the array.
    """
    size = math.prod(values) * itemsize
    if size > MAX_CHUNK_BYTES:
        raise SourceError(
            f"{where}: a chunk of {tuple(values)} values has {size} bytes, but at most {MAX_CHUNK_BYTES} are read; "
            "store the volume in smaller chunks."
        )
    return size


def refuse_overlong(stored: int, *, limit: int, where: str, unit: str = "chunk") -> None:
    """Raise SourceError if a chunk is stored in far more bytes than it holds, before they are read.

    Args:
        stored: number of stored bytes.
        limit: bytes that the chunk holds by its metadata.
        where: name of the chunk.
        unit: what it is, if it is no chunk.
    """
    if stored > _MOST_GROWTH * limit + _OVERHEAD:
        raise SourceError(
            f"{where}: has {stored} bytes, but a {unit} here holds {limit}, so it is damaged, or made to take all "
            "memory; export the volume again."
        )


def refuse_expanding(content: bytes, *, name: str, limit: int, where: str) -> None:
    """Raise SourceError if a chunk expands to more than it may hold, without taking the memory for it.

    Damaged content is left to the library that decodes it, which says what is wrong.

    Args:
        content: the compressed bytes.
        name: `zlib` (or gzip), `bz2`, `lzma`, `zstd`, or one of `bounded_codecs.stated_size`.
        limit: bytes that the chunk holds by its metadata.
        where: name of the chunk.
    """
    try:
        if name in _STREAMS:
            expands = _expands(content, _STREAMS[name], limit=limit + _SLACK)
        elif name == "zstd":
            expands = zstd_bound(content) > limit + _SLACK and not _fits(content, limit=limit + _SLACK)
        else:
            expands = stated_size(content, name=name) > limit + _SLACK
    except (ValueError, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, struct.error):
        return
    if expands:
        raise SourceError(
            f"{where}: expands to more than the {limit} bytes that it may hold, so it is damaged, or made to take all "
            "memory; export the volume again."
        )


def chunks_under(
    index: Sequence[slice | int], *, shape: Sequence[int], chunks: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    """Yield the position, in chunks, of every chunk that a part of an array touches.

    Args:
        index: a slice without a step, or an integer, per axis.
        shape: of the array.
        chunks: extent of a chunk.
    """
    spans = []
    for part, extent, chunk in zip(index, shape, chunks, strict=True):
        start, stop = (part, part + 1) if isinstance(part, int) else part.indices(extent)[:2]
        spans.append(range(start // chunk, math.ceil(stop / chunk)))
    yield from product(*spans)


def look_at_each(look: Callable[[T], object], items: Iterable[T], *, local: bool) -> None:
    """Call a function for each item, in threads if the store is slow; raise the first error.

    Args:
        look: takes an item.
        items: chunks, in any form.
        local: the store is a local folder, whose speed is to be tried. Others are slow.
    """
    left = iter(items)
    if local:
        began = time.monotonic()
        for count, item in enumerate(left, 1):
            look(item)
            if time.monotonic() - began > max(_TRIED_SECONDS, count * _SLOW_SECONDS):
                break
        else:
            return
    with ThreadPoolExecutor(_READERS) as readers:
        for _ in readers.map(in_this_context(look), left):
            pass


def _expands(content: bytes, new_stream: Callable[[], Any], *, limit: int) -> bool:
    """Return whether content decompresses to more than `limit` bytes; several streams may follow one another."""
    total = 0
    while content:
        stream = new_stream()
        while not stream.eof:
            piece = stream.decompress(content, _PIECE)
            content = stream.unconsumed_tail if hasattr(stream, "unconsumed_tail") else b""
            total += len(piece)
            if total > limit:
                return True
            if not piece and not stream.eof and not content:
                return False  # cut off
        content = stream.unused_data
    return False


def _fits(content: bytes, *, limit: int) -> bool:
    """Return whether frames of zstd decompress to at most `limit` bytes; an error of the codec if they are damaged."""
    try:
        numcodecs.Zstd().decode(content, np.empty(limit, np.uint8))
    except (RuntimeError, ValueError) as error:
        if "too small" in str(error):
            return False
        raise
    return True
