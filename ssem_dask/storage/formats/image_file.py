"""Header and values of an image file that holds one section: TIFF, PNG or JPEG, recognised by their first bytes."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import unnamed_channels
from ssem_dask.storage.formats.grey import grey_values
from ssem_dask.storage.formats.image_header import ImageHeader
from ssem_dask.storage.formats.jpeg_file import JPEG_MAGIC, decode_jpeg, read_jpeg_header
from ssem_dask.storage.formats.png_file import PNG_MAGIC, decode_png, read_png_header
from ssem_dask.storage.formats.source import (
    ReadOptions,
    decoding,
    refuse_bomb,
    refuse_no_file,
    refuse_overlong_image,
)
from ssem_dask.storage.formats.tiff_file import TiffSource
from ssem_dask.storage.lengths import UNKNOWN_SIZES, Sizes
from ssem_dask.storage.zip_files import split_zip
from ssem_dask.types import AnyArray, ShapeYX
from ssem_dask.units import plural

_LONGEST_MAGIC = 8
_LFS_MAGIC = b"version "


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Size and type of the grey image that a file holds."""

    shape: ShapeYX
    dtype: np.dtype[Any]
    sizes: Sizes = UNKNOWN_SIZES
    channels: tuple[str, ...] = ()
    """Name of each channel of the stored image, empty if it has none; () for one channel."""
    orientation: int = 1
    """Orientation that is undone when the file is read."""
    missing: tuple[str, ...] = ()
    """Remark about parts of the file that are not stored."""
    plain_tiff: bool = False
    """Whether it is a local TIFF file of one page, which was checked and whose stored values are the grey values."""
    raw: tuple[int, np.dtype[Any]] | None = None
    """Place and stored type of the values of such a file, if they can be read as they are."""


def read_section_header(url: str, options: ReadOptions) -> Section:
    """Read size and type of an image file without decoding it.

    Raises:
        SourceError: the file is missing, damaged, or not one section; names it.
    """
    with decoding(url), _open(url) as file:
        header = _header(file, url)
        if header is not None:
            declared = header.height * header.width * header.stored.itemsize * header.tags.channels
            refuse_bomb(url, declared=declared, stored=file.seek(0, io.SEEK_END))
            dtype = header.tags.dtype(header.stored, labels=options.labels)
            return Section(
                shape=header.shape,
                dtype=dtype,
                sizes=header.sizes,
                channels=unnamed_channels(header.tags.channels),
                orientation=header.tags.orientation,
            )
    with contextlib.closing(_single_tiff(url, options)) as tiff:
        _, y, x = tiff.info.shape
        return Section(
            shape=(y, x),
            dtype=tiff.info.dtype,
            sizes=tiff.info.sizes,
            channels=tiff.info.channels,
            orientation=tiff.tags.orientation,
            missing=tiff.missing,
            plain_tiff=location.is_local(url) and tiff.is_one_plain_page,
            raw=tiff.raw_values if location.is_local(url) else None,
        )


def read_section(
    url: str, options: ReadOptions, *, header: Section | None = None, channels: Sequence[int] | None = None
) -> list[AnyArray]:
    """Read the grey values (y, x) of an image file, which is decoded once.

    Args:
        url: of the file.
        options: choices of the user.
        channels: numbers of the channels; None for the chosen one.
        header: what `read_section_header` has found, which spares a second look at most files; None: nothing yet.

    Raises:
        SourceError: the file is missing or damaged, or coloured; names it.
    """
    if header is not None and header.raw is not None:
        start, stored = header.raw
        with decoding(url):
            values = np.fromfile(location.local_path(url), stored, math.prod(header.shape), offset=start)
            return [values.reshape(header.shape).astype(header.dtype, copy=False)]
    if header is not None and header.plain_tiff:
        with decoding(url), tifffile.TiffFile(location.local_path(url)) as opened:
            return [np.asarray(opened.pages.first.asarray())]
    with decoding(url), _open(url) as file:
        image = _header(file, url)
        if image is not None:
            declared = image.height * image.width * image.stored.itemsize * image.tags.channels
            refuse_overlong_image(url, declared=declared, stored=file.seek(0, io.SEEK_END))
            file.seek(0)
            content = file.read()
            values = decode_jpeg(content, url) if content[:2] == JPEG_MAGIC else decode_png(content, image)
            if values.shape[:2] != (image.height, image.width):
                raise SourceError(
                    f"{url}: its header says {image.width} × {image.height}, but it holds {values.shape}; export "
                    "it again."
                )
            wanted: Sequence[int | None] = channels or [options.channel]
            return [grey_values(values, image.tags, url, labels=options.labels, channel=channel) for channel in wanted]
    with contextlib.closing(_single_tiff(url, options)) as tiff:
        y = tiff.info.shape[1]
        if channels:
            return [band[0] for band in tiff.read_channels(channels, z_start=0, z_stop=1, y_start=0, y_stop=y)]
        return [tiff.read(z_start=0, z_stop=1, y_start=0, y_stop=y)[0]]


@contextmanager
def _open(url: str) -> Iterator[BinaryIO]:
    if location.is_local(url):
        path = location.local_path(url)
        refuse_no_file(url, path)
        with path.open("rb") as file:
            yield file
    elif split_zip(url) is not None:
        with location.open_remote(url) as file:  # a small archive may hold files of any size
            yield file
    else:
        yield io.BytesIO(location.read_bytes(url))


def _header(file: BinaryIO, url: str) -> ImageHeader | None:
    """Return the header of a PNG or JPEG file; None for a TIFF file, which has its own reader."""
    magic = file.read(_LONGEST_MAGIC)
    if magic == PNG_MAGIC:
        return read_png_header(file, url)
    if magic[:2] == JPEG_MAGIC:
        return read_jpeg_header(file, url)
    if magic[:2] in (b"II", b"MM", b"EP"):
        return None
    if not magic:
        raise ValueError("it is empty, 0 bytes")
    if magic == _LFS_MAGIC:
        raise SourceError(f"{url}: is a pointer of Git LFS, not an image; run `git lfs pull` where it comes from.")
    raise ValueError("it begins like no TIFF, PNG or JPEG file")


def _single_tiff(url: str, options: ReadOptions) -> TiffSource:
    tiff = TiffSource(url, options, alone=False)
    sections = tiff.info.shape[0]
    if sections != 1:
        tiff.close()
        raise SourceError(
            f"{url}: holds {plural(sections, 'page')}, but a file of a series holds one section; import a multi-page "
            "file "
            "on its own."
        )
    return tiff
