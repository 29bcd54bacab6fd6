"""Results in a notebook: a line, and a small picture without any further package."""

import base64
import html
import struct
import zlib

import numpy as np

from ssem_dask.errors import SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.storage import arrays, location
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

_SIDE_PX = 320
"""Longest side of a picture."""
_READ_PX = 512
"""Longest side of the level that a picture is made of, if there is one so coarse."""


def grey_png(image: AnyArray) -> bytes:
    """Return a grey picture (y, x), stretched to its 1st to 99th percentile, as PNG."""
    step = max(1, -(-max(image.shape) // _SIDE_PX))
    small = image[::step, ::step].astype(np.float32)
    known = small[small != 0]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    pixels = ((small - low) / max(float(high - low), 1e-6) * 255).clip(0, 255).astype(np.uint8)
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def as_html(lines: list[str], image: AnyArray | None) -> str:
    """Return lines of text, the first in bold, above a picture; None: without one."""
    first, *others = (html.escape(line) for line in lines)
    text = "".join(f"<div>{line}</div>" for line in (f"<b>{first}</b>", *others))
    if image is None:
        return text
    data = base64.b64encode(grey_png(image)).decode()
    return f'{text}<img alt="middle section" src="data:image/png;base64,{data}">'


def middle_section(output: str) -> AnyArray | None:
    """Return the middle section of a run or an image at a coarse level; None before there is one."""
    try:
        aligned = location.join(output, ALIGNED)
        volume = Volume.open(output if arrays.group_attributes(aligned) is None else aligned)
        mip = next((m for m in volume.mips if max(volume.shape_at(m)[1:]) <= _READ_PX), volume.mips[-1])
        z, y, x = volume.shape_at(mip)
        (picture,) = volume.each_channel[0].read(Box((z // 2, 0, 0), (z // 2 + 1, y, x), mip))
    except SsemDaskError:
        return None  # a picture is no reason to fail
    return np.asarray(picture)
