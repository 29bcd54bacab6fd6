"""Header and grey values of a JPEG file."""

import struct
from typing import BinaryIO

import imagecodecs
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.exif import exif_orientation
from ssem_dask.storage.formats.grey import ValueTags, orientation_of
from ssem_dask.storage.formats.image_header import ImageHeader
from ssem_dask.types import AnyArray

JPEG_MAGIC = b"\xff\xd8"
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF, _SCAN = 0xE1, 0xDA
_NO_CONTENT = {0x01, *range(0xD0, 0xD9)}
_CHROMA_TOLERANCE = 2
"""Grey values by which channels of a grey JPEG may differ: colour conversion rounds."""


def read_jpeg_header(file: BinaryIO, url: str) -> ImageHeader:
    """Read the segments before the pixels, however long they are.

    Raises:
        SourceError: the image has channels of print (CMYK).
    """
    orientation, frame = 1, None
    file.seek(2)
    while frame is None:
        marker = _next_marker(file)
        if marker in _NO_CONTENT:
            continue
        head = file.read(2)
        if len(head) < 2 or marker == _SCAN:
            raise ValueError("no frame is before the pixels")
        length = struct.unpack(">H", head)[0] - 2
        if marker in _FRAMES:
            content = file.read(length)
            bits, height, width, channels = struct.unpack(">BHHB", content[:6])
            frame = (bits, height, width, channels)
        elif marker == _EXIF:
            content = file.read(length)
            if content[:6] == b"Exif\0\0":
                orientation = orientation_of(exif_orientation(content[6:]))
        else:
            file.seek(length, 1)
    bits, height, width, channels = frame
    if channels not in (1, 3):
        raise SourceError(
            f"{url}: has {channels} channels (CMYK), but a section has one grey channel; convert it to grey."
        )
    tags = ValueTags(channels=channels, orientation=orientation)
    return ImageHeader(height=height, width=width, stored=np.dtype(np.uint8 if bits == 8 else np.uint16), tags=tags)


def decode_jpeg(content: bytes, url: str) -> AnyArray:
    """Return the stored values (y, x) or (y, x, channel) of a whole file; channels that round to one grey are equal.

    Raises:
        SourceError: the file ends before its end marker.
    """
    # Compressed pixels have no such bytes, and neither bytes appended to the file nor a thumbnail before them count.
    scan = content.find(b"\xff\xda", _frame_start(content))
    if scan < 0 or content.find(b"\xff\xd9", scan) < 0:  # libjpeg silently fills missing parts with grey
        raise SourceError(f"{url}: the JPEG ends before its end marker, it is truncated; export it again.")
    values = np.asarray(imagecodecs.jpeg_decode(content))
    if values.ndim == 3 and np.ptp(values.astype(np.int16), axis=2).max(initial=0) <= _CHROMA_TOLERANCE:
        values = np.repeat(values[..., 1:2], values.shape[2], axis=2)
    return values


def _next_marker(file: BinaryIO) -> int:
    if file.read(1) != b"\xff":
        raise ValueError("a marker is missing")
    marker = b"\xff"
    while marker == b"\xff":  # padding before a marker
        marker = file.read(1)
    if not marker:
        raise ValueError("the file ends before its pixels")
    return marker[0]


def _frame_start(content: bytes) -> int:
    """Return the position of the frame, behind all blocks of metadata; 0 if it is not found."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _NO_CONTENT:
            at += 2
        elif marker in _FRAMES:
            return at
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0
