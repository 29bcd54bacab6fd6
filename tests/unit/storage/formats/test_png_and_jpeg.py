"""PNG and JPEG files as libraries, scanners and cameras encode them."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from ssem_dask.types import AnyArray
from tests.support.odd_inputs import VALUES, check_refused, read_source, write_files

pytestmark = pytest.mark.usefixtures("in_folder")

WIDE = VALUES.astype(np.uint16) * 16
GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4
RAMP = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    section: AnyArray,
    *,
    rows: bytes | None = None,
    bits: int = 8,
    colour: int = GREY,
    before: bytes = b"",
    interlaced: bool = False,
    parts: int = 1,
) -> bytes:
    """Return a PNG file; `rows` are its filtered rows, if they are not those of the section."""
    height, width = section.shape[:2]
    rows = (adam7(section) if interlaced else filtered(section)) if rows is None else rows
    content = zlib.compress(rows)
    step = -(-len(content) // parts)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    stored = b"".join(png_chunk(b"IDAT", content[at : at + step]) for at in range(0, len(content), step))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + stored + png_chunk(b"IEND", b"")


def filtered(rows: Any) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in rows)


def adam7(section: AnyArray) -> bytes:
    """Return the rows of an interlaced image, in its seven passes."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return b"".join(filtered(section[y::dy, x::dx]) for y, x, dy, dx in passes)


def four_bits(section: AnyArray) -> bytes:
    return filtered((row[::2] >> 4 << 4) | (row[1::2] >> 4) for row in section)


def with_opaque(section: AnyArray) -> AnyArray:
    return np.stack([section, np.full_like(section, np.iinfo(section.dtype).max)], -1)


TRANSPARENT = png_chunk(b"tRNS", b"\0\x50")
GREY_16 = png_chunk(b"PLTE", (np.repeat(np.arange(16, dtype=np.uint8)[:, None], 3, 1) * 17).tobytes())
PNG: dict[str, tuple[Callable[[AnyArray], bytes], AnyArray, AnyArray]] = {
    "interlaced": (lambda s: png(s, interlaced=True), VALUES, VALUES),
    "interlaced, RGB": (lambda s: png(np.stack([s] * 3, -1), colour=RGB, interlaced=True), VALUES, VALUES),
    "interlaced, palette": (
        lambda s: png(s, colour=PALETTE, before=png_chunk(b"PLTE", RAMP.tobytes()), interlaced=True),
        VALUES,
        VALUES,
    ),
    "interlaced, a transparent value": (lambda s: png(s, before=TRANSPARENT, interlaced=True), VALUES, VALUES),
    "many parts, and significant bits": (
        lambda s: png(s, parts=7, before=png_chunk(b"sBIT", b"\5") + png_chunk(b"bKGD", b"\0\0")),
        VALUES,
        VALUES,
    ),
    "bytes after the end": (lambda s: png(s) + b"x" * 99, VALUES, VALUES),
    "16 bits": (lambda s: png(s, bits=16, rows=filtered(s.astype(">u2"))), WIDE, WIDE),
    "16 bits, a transparent value": (
        lambda s: png(s, bits=16, before=TRANSPARENT, rows=filtered(s.astype(">u2"))),
        WIDE,
        WIDE,
    ),
    "16 bits, grey and opaque": (lambda s: bytes(imagecodecs.png_encode(with_opaque(s))), WIDE, WIDE),
    "16 bits, RGB": (lambda s: bytes(imagecodecs.png_encode(np.stack([s] * 3, -1))), WIDE, WIDE),
    "palette of 4 bits": (
        lambda s: png(s, bits=4, colour=PALETTE, before=GREY_16, rows=four_bits(s)),
        VALUES,
        (VALUES >> 4) * 17,
    ),
    "palette with transparency": (
        lambda s: png(s, colour=PALETTE, before=png_chunk(b"PLTE", RAMP.tobytes()) + png_chunk(b"tRNS", b"\xff" * 256)),
        VALUES,
        VALUES,
    ),
    "palette with a grey twice": (
        lambda s: png(s, colour=PALETTE, before=png_chunk(b"PLTE", RAMP[:255].tobytes() + RAMP[:1].tobytes())),
        VALUES,
        VALUES,
    ),
    "an animation of one image": (
        lambda s: png(s, before=png_chunk(b"acTL", struct.pack(">II", 1, 0))),
        VALUES,
        VALUES,
    ),
}


@pytest.mark.parametrize("name", PNG)
def test_png_is_read(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    encode, values, expected = PNG[name]
    got, _ = read_source(write_files("d", ".png", encode, values))
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype
    assert capfd.readouterr().err == ""


BAD_PNG: dict[str, tuple[Callable[[AnyArray], bytes], str]] = {
    "wrong checksum": (lambda s: png(s)[:-16] + b"zzzz" + png(s)[-12:], "s0.png.* cannot be decoded"),
    "too few rows": (lambda s: png(s, rows=filtered(s[:10])), "s0.png.* cannot be decoded"),
    "too few rows, interlaced": (lambda s: png(s, rows=adam7(s)[:100], interlaced=True), "s0.png.* cannot be decoded"),
    "unknown filter": (lambda s: png(s, rows=b"\x09" + filtered(s)[1:]), "s0.png.* cannot be decoded"),
    "no rows": (lambda s: png(s[:0]), r"shape \(6, 0, 40\), it is empty"),
    "of a telephone": (lambda s: png(s)[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + png(s)[8:], "cannot be decoded"),
    "one bit": (lambda s: png(s, bits=1, rows=filtered(np.packbits(s > 99, axis=1))), "images are bool"),
    "transparent": (lambda s: bytes(imagecodecs.png_encode(np.stack([s] * 3 + [s // 2], -1))), "has 4 channels"),
}


@pytest.mark.parametrize("name", BAD_PNG)
def test_png_is_refused(name: str) -> None:
    encode, sentence = BAD_PNG[name]
    check_refused(write_files("d", ".png", encode), sentence)


# ---------------------------------------------------------------- JPEG


def jpeg(section: AnyArray, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg_encode(section, level=98, **options))


def grey_as_rgb(section: AnyArray, **options: Any) -> bytes:
    return jpeg(np.stack([section] * 3, -1), **options)


def changed_frame(section: AnyArray, place: int, value: bytes) -> bytes:
    """Return a JPEG file with other bytes in the segment of its frame."""
    content = jpeg(section)
    at = content.index(b"\xff\xc0") + place
    return content[:at] + value + content[at + len(value) :]


def with_thumbnail(section: AnyArray) -> bytes:
    block = b"Exif\0\0II*\0\x08\0\0\0\0\0" + jpeg(section[:8, :8])
    return jpeg(section)[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg(section)[2:]


def progressive(section: AnyArray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(section).save(file, "JPEG", quality=98, progressive=True)
    return file.getvalue()


JPEG: dict[str, Callable[[AnyArray], bytes]] = {
    "progressive": progressive,
    "half the colours": lambda s: grey_as_rgb(s, subsampling="420"),
    "half the colours in one direction": lambda s: grey_as_rgb(s, subsampling="440"),
    "stored as RGB": lambda s: grey_as_rgb(s, colorspace="RGB", outcolorspace="RGB"),
    "grey, sampled twice": lambda s: changed_frame(s, 11, b"\x22"),
    "two images": lambda s: jpeg(s) + jpeg(255 - s),
    "a thumbnail before the image": with_thumbnail,
    "padding": lambda s: b"\xff\xd8" + b"\xff" * 5 + jpeg(s)[2:],
}


@pytest.mark.parametrize("name", JPEG)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])  # the content counts
def test_jpeg_is_read(name: str, suffix: str) -> None:
    got, _ = read_source(write_files("d", suffix, JPEG[name]))
    assert np.abs(got.astype(int) - VALUES).max() <= 6


def test_jpeg_of_more_than_8_bits() -> None:
    def twelve(section: AnyArray) -> bytes:
        return bytes(imagecodecs.jpeg_encode(section, bitspersample=12, level=99))

    got, _ = read_source(write_files("d", ".jpg", twelve, WIDE))
    assert got.dtype == np.uint16
    assert np.abs(got.astype(int) - WIDE).max() <= 90
    got, _ = read_source(write_files("e", ".jpg", imagecodecs.ljpeg_encode, WIDE))
    np.testing.assert_array_equal(got, WIDE)


BAD_JPEG: dict[str, tuple[Callable[[AnyArray], Any], str]] = {
    "CMYK": (lambda s: jpeg(np.stack([s] * 4, -1), colorspace="CMYK", outcolorspace="CMYK"), "4 channels .CMYK"),
    "YCCK": (lambda s: jpeg(np.stack([s] * 4, -1), colorspace="CMYK", outcolorspace="YCCK"), "4 channels .CMYK"),
    "no rows": (lambda s: changed_frame(s, 5, b"\0\0"), r"shape \(6, 0, 40\), it is empty"),
    "a byte before it": (lambda s: b"\0" + jpeg(s), "begins like no TIFF, PNG or JPEG"),
    "JPEG-LS": (imagecodecs.jpegls_encode, "s0.jpg: cannot be decoded"),
    "JPEG 2000": (imagecodecs.jpeg2k_encode, "begins like no TIFF, PNG or JPEG"),
    "BMP": (imagecodecs.bmp_encode, "begins like no TIFF, PNG or JPEG"),
    "GIF": (imagecodecs.gif_encode, "begins like no TIFF, PNG or JPEG"),
    "WebP": (lambda s: imagecodecs.webp_encode(np.stack([s] * 3, -1)), "begins like no TIFF, PNG or JPEG"),
}


@pytest.mark.parametrize("name", BAD_JPEG)
def test_jpeg_is_refused(name: str) -> None:
    encode, sentence = BAD_JPEG[name]
    check_refused(write_files("d", ".jpg", encode), sentence)
