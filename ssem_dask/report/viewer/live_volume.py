"""A volume that is warped as it is looked at, as Zarr v3: nothing of it is written.

Laws: mips 0 to `EXACT_MIPS` have the pixels that `ssem-dask warp` writes, bit by bit, since they are computed in the
same boxes. A coarser mip m is warped at mip m - 2 of the volume, from stored pixels, and halved twice. If the volume
has no such level, the coarsest stored one is taken, and the pyramid ends before a chunk needs more than 2048² px.

Memory is bounded by the boxes that are computed at the same time, one per thread of the server, and by the caches of
boxes and of chunks.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_spans
from ssem_dask.image.label_pooling import halve_labels
from ssem_dask.image.pooling import halve
from ssem_dask.report.viewer.computed_volume import pyramid_mips, serve_computed
from ssem_dask.report.viewer.served_files import VirtualFiles
from ssem_dask.stages.warped_volume import Warping, warped_box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, ShapeZYX

EXACT_MIPS = 2
_CACHE_BYTES = 256 << 20
"""Bytes of warped boxes that are kept: neighbouring chunks, and chunks of several mips, come from one box."""


class SharedResults:
    """Arrays that are computed once, also if several threads ask at the same time; the oldest are dropped."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes, and the latest array whatever its size."""
        self._limit, self._bytes = limit, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, AnyArray] = OrderedDict()
        self._running: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, compute: Callable[[], AnyArray]) -> AnyArray:
        """Return the array of a key, computed if it is not kept."""
        with self._lock:
            running = self._running.setdefault(key, threading.Lock())
        with running:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            values = compute()
            with self._lock:
                self._kept[key] = values
                self._bytes += values.nbytes
                while self._bytes > self._limit and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
                self._running.pop(key, None)
            return values


@dataclass(frozen=True, slots=True)
class _Level:
    """A level of the volume, warped in the boxes of the shards that `warp` writes."""

    volume: Volume
    warping: Warping
    results: SharedResults

    def read(self, box: Box) -> AnyArray:
        """Return the warped pixels `(1, y, x)` of a box of one section, at the level's own mip 0."""
        shape = self.volume.info.shape
        clipped = box.clipped(shape)
        (z, top, left), (_, bottom, right) = clipped.start, clipped.stop
        out = np.zeros(clipped.shape, dtype=self.volume.info.dtype)
        _, height, width = self.warping.config.shard
        for row, below in chunk_spans(shape[1], chunk=height):
            for column, beside in chunk_spans(shape[2], chunk=width):
                rows = slice(max(row, top), min(below, bottom))
                columns = slice(max(column, left), min(beside, right))
                if rows.start < rows.stop and columns.start < columns.stop:
                    shard = self._shard((z, row, column), (z + 1, below, beside))
                    part = shard[:, rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
                    out[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
        return out

    def _shard(self, start: ShapeZYX, stop: ShapeZYX) -> AnyArray:
        return self.results.get(
            (self.volume.info.shape, start),
            lambda: warped_box(self.warping, self.volume, Box(start, stop), contrast=None).pixels,
        )


def serve_warped(channel: Volume, warping: Warping) -> VirtualFiles:
    """Return the files of one channel of a volume, warped; arguments as in `warped_pixels`."""
    return serve_computed(channel, name="warped", mips=pyramid_mips(channel), compute=warped_pixels(channel, warping))


def warped_pixels(channel: Volume, warping: Warping) -> Callable[[Box], AnyArray]:
    """Return what computes the warped pixels `(y, x)` of a box that is one section deep, at any mip.

    Args:
        channel: the volume that is warped, as `warping.open_source` opens it.
        warping: how it is warped.
    """
    results = SharedResults(_CACHE_BYTES)
    levels = []
    for mip in channel.mips:
        volume = channel.at_level(mip)
        scaled = replace(warping, info=replace(warping.info, shape=volume.info.shape), scale=warping.scale * 2**mip)
        levels.append(_Level(volume, scaled, results))

    def warped(box: Box) -> AnyArray:
        mip = min(max(0, box.mip - EXACT_MIPS), len(levels) - 1)
        halvings = box.mip - mip
        pixels = levels[mip].read(replace(box, mip=halvings).at_mip(0))
        for _ in range(halvings):
            pixels = halve_labels(pixels) if warping.labels else halve(pixels)
        return np.asarray(pixels[0])

    return warped
