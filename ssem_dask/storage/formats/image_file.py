"""Header and values of an image file that holds one section: TIFF, PNG or JPEG."""

import io
import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import PNG, TIFF, decoding
from ssem_dask.storage.formats.tiff_tags import check_whole, grey_dtype, sizes
from ssem_dask.types import AnyArray, ShapeYX

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Parsed header of an image file."""

    shape: ShapeYX
    dtype: np.dtype[Any]
    pixel_size: float | None = None
    """nm; None if the file does not contain it."""


def read_header(url: str) -> ImageHeader:
    """Read size and type of an image file without decoding it.

    Raises:
        SourceError: the file is missing, damaged, or not one grey section; names it.
    """
    with decoding(url):
        if _has_suffix(url, TIFF):
            with _open_tiff(url) as tiff:
                page = tiff.pages.first
                _check_single_page(tiff, url)
                check_whole(tiff, url)
                return ImageHeader(
                    shape=(page.imagelength, page.imagewidth),
                    dtype=grey_dtype(page, url),
                    pixel_size=sizes(tiff)[0],
                )
        content = _head(url)
        return _png_header(content, url) if _has_suffix(url, PNG) else _jpeg_header(content, url)


def read_image(url: str) -> AnyArray:
    """Read the values (y, x) of an image file.

    Raises:
        SourceError: the file is missing or damaged; names it.
    """
    with decoding(url):
        if _has_suffix(url, TIFF):
            with _open_tiff(url) as tiff:
                return np.asarray(tiff.pages.first.asarray())
        content = location.read_bytes(url)
        if _has_suffix(url, PNG):
            return np.asarray(imagecodecs.png_decode(content))
        if b"\xff\xd9" not in content[-64:]:  # libjpeg silently fills missing parts with grey
            raise SourceError(f"{url}: the JPEG ends before its end marker, it is truncated; export it again.")
        return np.asarray(imagecodecs.jpeg_decode(content))


def _open_tiff(url: str) -> tifffile.TiffFile:
    if location.is_local(url):
        return tifffile.TiffFile(location.local_path(url))
    return tifffile.TiffFile(io.BytesIO(location.read_bytes(url)))


def _check_single_page(tiff: tifffile.TiffFile, url: str) -> None:
    if len(tiff.pages) != 1:
        raise SourceError(
            f"{url}: holds {len(tiff.pages)} pages, but a file of a series holds one section; "
            "import a multi-page file on its own."
        )


def _head(url: str) -> bytes:
    if not location.is_local(url):
        return location.read_bytes(url)
    with location.local_path(url).open("rb") as file:
        return file.read(1 << 20)


def _png_header(content: bytes, url: str) -> ImageHeader:
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise SourceError(f"{url}: is not a PNG file; check its name.")
    width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
    _check_grey(_PNG_CHANNELS.get(colour, 0), url)
    return ImageHeader(shape=(height, width), dtype=np.dtype(np.uint16 if bits == 16 else np.uint8))


def _jpeg_header(content: bytes, url: str) -> ImageHeader:
    if content[:2] != b"\xff\xd8":
        raise SourceError(f"{url}: is not a JPEG file; check its name.")
    at = 2
    while True:
        start, marker, length = struct.unpack(">BBH", content[at : at + 4])
        if start != 0xFF:
            raise ValueError("a marker is missing")
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack(">BHHB", content[at + 4 : at + 10])
            _check_grey(channels, url)
            return ImageHeader(shape=(height, width), dtype=np.dtype(np.uint8 if bits == 8 else np.uint16))
        at += 2 + length


def _check_grey(channels: int, url: str) -> None:
    if channels != 1:
        raise SourceError(
            f"{url}: has {channels} channels (RGB or the like), but a section has one grey channel; convert it to grey."
        )


def _has_suffix(url: str, suffixes: tuple[str, ...]) -> bool:
    return url.lower().endswith(suffixes)
