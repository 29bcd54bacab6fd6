"""Writers and readers of small odd inputs, for tests that run in an empty folder (fixture `in_folder`)."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo
from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import plan_import
from tests.support.input_formats import volume

VALUES = volume()
"""Sections of 24 × 40 px."""
OTHER = 255 - VALUES
SIZES: dict[str, Any] = {"pixel_size": 5.0, "section_thickness": 50.0}


def read_source(url: str, **options: Any) -> tuple[AnyArray, SourceInfo]:
    """Return all values (z, y, x) of a source, and what it says about itself."""
    with contextlib.closing(open_any_format(url, ReadOptions(**options))) as source:
        z, y, _ = source.info.shape
        return source.read(z_start=0, z_stop=z, y_start=0, y_stop=y), source.info


def check_refused(url: str, sentence: str, **options: Any) -> None:
    """Check that a source is refused in one sentence, when its import is planned or when it is read."""

    def plan_and_read() -> None:
        plan_import(url, "out.zarr", **{**SIZES, **options})
        read_source(url)

    with pytest.raises(SourceError, match=sentence) as caught:
        plan_and_read()
    assert "\n" not in str(caught.value)
    assert not Path("out.zarr").exists()


def write_tiffs(name: str, values: AnyArray = VALUES, **options: Any) -> str:
    """Write a TIFF file per section; `{z}` in the name is its number. Returns the folder."""
    for z, section in enumerate(values):
        path = Path(name.format(z=z))
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, section, **options)
    return name.partition("/")[0]


def write_files(folder: str, suffix: str, encode: Callable[[AnyArray], Any], values: AnyArray = VALUES) -> str:
    """Write an encoded file per section; returns the folder."""
    Path(folder).mkdir()
    for z, section in enumerate(values):
        Path(folder, f"s{z}{suffix}").write_bytes(bytes(encode(section)))
    return folder


def two_detectors(*names: str) -> str:
    """Write sections of two detectors under two names, with `{z}` for the number; returns the folder."""
    for name, values in zip(names, (VALUES, OTHER), strict=True):
        write_tiffs(name, values)
    return names[0].partition("/")[0]


def tiff_of_bits(section: AnyArray, bits: int, *tags: tuple[int, int], photometric: int = 1) -> bytes:
    """Return a TIFF file of one page whose samples have any number of bits, packed row by row.

    Args:
        section: values (y, x).
        bits: bits per sample.
        tags: further tags and their values.
        photometric: meaning of 0: 0 is white, 1 is black.
    """
    height, width = section.shape
    unpacked = np.unpackbits(section.astype(">u4").view("u1").reshape(height, width, 4), axis=2)[..., 32 - bits :]
    content = b"".join(np.packbits(row).tobytes() for row in unpacked.reshape(height, -1))
    return tiff_of_strip(content, (height, width), bits, *tags, photometric=photometric)


def tiff_of_strip(
    content: bytes, shape: tuple[int, int], bits: int, *tags: tuple[int, int], photometric: int = 1
) -> bytes:
    """Return a TIFF file of one page with its only strip; a tag replaces one of the same number."""
    height, width = shape
    stored = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    stored |= {279: len(content), **dict(tags)}
    content += b"\0" * (len(content) % 2)
    entries = b"".join(_tag(number, value) for number, value in sorted(stored.items()))
    start = (8 + len(content)).to_bytes(4, "little")
    return b"II*\0" + start + content + len(stored).to_bytes(2, "little") + entries + bytes(4)


def _tag(number: int, value: int) -> bytes:
    return number.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
