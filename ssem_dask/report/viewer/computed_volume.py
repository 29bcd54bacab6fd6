"""Images whose chunks are computed when they are requested, as Zarr v3 (z, y, x).

- The coarse-aligned sections. They are not stored, which would double the volume. The pyramid ends before a chunk needs
  more than 2048² px of the source.
- One channel of an image with channels. So each is a layer of its own, with its own contrast.
- A volume that the alignment warps (`live_volume`).
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from ssem_dask.geometry.box import Box
from ssem_dask.report.viewer.served_files import VirtualFiles, group_files
from ssem_dask.stages.source_sections import read_aligned
from ssem_dask.stages.warped_pixels import to_dtype
from ssem_dask.storage import ngff
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

_CHUNK_PX = 256
_EXTRA_MIPS = 3
"""Levels beyond those that are stored: 256 px of the last are 2048 stored px."""
_CACHED_CHUNKS = 256
_KEY = re.compile(r"^(\d+)/c/(\d+)/(\d+)/(\d+)$")


def serve_coarse(volume: Volume, *, coarse: str) -> VirtualFiles:
    """Return the files of the coarse-aligned sections.

    Args:
        volume: the source.
        coarse: URL of `fields/coarse`.
    """
    affines = np.asarray(open_coarse(coarse)[:])

    def aligned(box: Box) -> AnyArray | None:
        z = box.start[0]
        if not np.isfinite(affines[z]).all():
            return None
        with torch.inference_mode():
            image, _ = read_aligned(volume, z=z, box=box, affine=affines[z])
        return to_dtype(image, volume.info.dtype)

    return serve_computed(volume, name="coarse-aligned", mips=pyramid_mips(volume), compute=aligned)


def serve_channel(channel: Volume) -> VirtualFiles:
    """Return the files of one channel of an image with channels."""

    def stored(box: Box) -> AnyArray:
        (pixels,) = channel.read(box.clipped(channel.shape_at(box.mip)))
        return np.asarray(pixels)

    return serve_computed(channel, name="channel", mips=len(channel.mips), compute=stored)


def pyramid_mips(volume: Volume) -> int:
    """Return the number of levels, of which the last has one chunk, or needs as many stored px as a chunk may."""
    mips = 1
    while max(volume.shape_at(mips - 1)[1:]) > _CHUNK_PX and mips < len(volume.mips) + _EXTRA_MIPS:
        mips += 1
    return mips


def serve_computed(volume: Volume, *, name: str, mips: int, compute: Callable[[Box], AnyArray | None]) -> VirtualFiles:
    """Return the files of an image.

    Args:
        volume: has the shape, type and sizes of the image.
        name: of the image.
        mips: number of levels.
        compute: returns the pixels (y, x) of a box that is one section deep, or its part inside; None: all are 0.
    """
    image = ngff.ImageMetadata(
        name=name,
        pixel_size=volume.info.pixel_size,
        section_thickness=volume.info.section_thickness,
        mips=mips,
    )
    files = group_files(ngff.image_attributes(image), zarr_format=3)
    for mip in range(mips):
        files[f"{mip}/zarr.json"] = _array_metadata(volume, mip)

    @lru_cache(maxsize=_CACHED_CHUNKS)
    def chunk(path: str) -> bytes:
        match = _KEY.match(path)
        if match is None:
            raise FileNotFoundError(path)
        mip, z, row, column = (int(part) for part in match.groups())
        shape = volume.shape_at(mip)
        start = z, row * _CHUNK_PX, column * _CHUNK_PX
        if mip >= mips or any(a >= n for a, n in zip(start, shape, strict=True)):
            raise FileNotFoundError(path)
        box = Box(start, (z + 1, start[1] + _CHUNK_PX, start[2] + _CHUNK_PX), mip)
        pixels = np.zeros((_CHUNK_PX, _CHUNK_PX), dtype=volume.info.dtype.newbyteorder("<"))
        found = compute(box)
        if found is not None:
            pixels[: found.shape[0], : found.shape[1]] = found
        return pixels.tobytes()

    return VirtualFiles(files, {}, chunk)


def _array_metadata(volume: Volume, mip: int) -> bytes:
    codec = (
        {"name": "bytes", "configuration": {"endian": "little"}}
        if volume.info.dtype.itemsize > 1
        else {"name": "bytes"}
    )
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(volume.shape_at(mip)),
            "data_type": volume.info.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, _CHUNK_PX, _CHUNK_PX]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [codec],
            "attributes": {},
            "dimension_names": list(ngff.AXES),
        }
    ).encode()
