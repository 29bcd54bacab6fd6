"""Header and grey values of a PNG file."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import imagecodecs
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.exif import exif_orientation
from ssem_dask.storage.formats.grey import ValueTags, grey_palette, orientation_of
from ssem_dask.storage.formats.image_header import ImageHeader
from ssem_dask.types import AnyArray

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_GREY_ALPHA = 4
_BITS_AT = 24
"""Byte of a file with the bits per sample; the next is the kind of colour, and the last of the header interlacing."""


def read_png_header(file: BinaryIO, url: str) -> ImageHeader:
    """Read the chunks before the pixels.

    Raises:
        SourceError: the file is damaged, or an animation.
    """
    header: tuple[int, int, int, int] | None = None
    palette: AnyArray | None = None
    orientation = 1
    for kind, content in _chunks(file):
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack(">IIBB", content[:10])
            header = (width, height, bits, colour)
        elif kind == b"PLTE":
            palette = grey_palette(np.frombuffer(content, np.uint8).reshape(-1, 3), url)
        elif kind == b"eXIf":
            orientation = orientation_of(exif_orientation(content))
        elif kind == b"acTL" and struct.unpack(">I", content[:4])[0] > 1:
            frames = struct.unpack(">I", content[:4])[0]
            raise SourceError(f"{url}: is an animation of {frames} images, but a section is one; export it as files.")
    if header is None:
        raise ValueError("no header chunk")
    width, height, bits, colour = header
    dtype = np.dtype(np.bool_) if bits == 1 and colour == 0 else np.dtype(np.uint16 if bits == 16 else np.uint8)
    tags = ValueTags(
        channels=_CHANNELS.get(colour, 0), palette=palette if colour == _PALETTE else None, orientation=orientation
    )
    return ImageHeader(height=height, width=width, stored=dtype, tags=tags)


def decode_png(content: bytes, header: ImageHeader) -> AnyArray:
    """Return the stored values (y, x) or (y, x, channel) of a whole file.

    Raises:
        ValueError: the palette shows one colour for several values, so that the values cannot be found.
    """
    bits, colour, interlaced = content[_BITS_AT], content[_BITS_AT + 1], content[_BITS_AT + 4] != 0
    # libpng prints a warning to the terminal about each interlaced image; libspng decodes most of them.
    decode = imagecodecs.spng_decode if interlaced and bits == 8 and colour != _GREY_ALPHA else imagecodecs.png_decode
    values = np.asarray(decode(content))
    if header.tags.palette is not None:
        return _palette_entries(values, header.tags.palette)
    if values.ndim == 3 and values.shape[2] == header.tags.channels + 1:
        # The decoder adds alpha if one grey value is declared transparent; the values themselves are unchanged.
        values = values[..., :-1]
        values = values[..., 0] if header.tags.channels == 1 else values
    return np.asarray(values > 0) if header.stored == np.bool_ else values


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each chunk before the pixels."""
    file.seek(len(PNG_MAGIC))
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("the file ends before its pixels")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            return
        content = file.read(length)
        checksum = file.read(4)
        if len(checksum) < 4 or struct.unpack(">I", checksum)[0] != zlib.crc32(kind + content):
            raise ValueError(f"chunk {kind!r} is damaged")
        yield kind, content


def _palette_entries(values: AnyArray, palette: AnyArray) -> AnyArray:
    """Return the stored entries of an image whose decoder applied the palette."""
    weights = np.array([1 << 16, 1 << 8, 1], np.int64)
    codes = palette.astype(np.int64) @ weights
    order = np.argsort(codes, kind="stable")
    shown = values[..., :3].astype(np.int64) @ weights
    entries = order[np.searchsorted(codes[order], shown).clip(max=len(order) - 1)]
    if not np.array_equal(codes[entries], shown):
        raise ValueError("a colour is not in the palette")
    return np.asarray(entries, np.uint8)
