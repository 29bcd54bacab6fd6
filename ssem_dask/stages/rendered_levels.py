"""The levels that a task of stage render writes from its pixels in memory; stage downsample makes the others.

A task covers a square of shards, 1, 2 or 4 along y and x. Of a level it writes the shards that are made of its own
pixels alone: as many levels as its side doubles, or all of them if it covers whole sections. Law: the levels are those
that stage downsample makes of the same mip 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.image.label_pooling import halve_labels
from ssem_dask.image.pooling import halve
from ssem_dask.types import AnyArray, ShapeZYX

_FEWEST_TASKS = (48, 256)
"""Tasks that must be left after the first and the second doubling of their sides, so that no worker waits long for the
last ones."""


@dataclass(frozen=True, slots=True)
class LevelsOfTask:
    """The part of a volume that each of its tasks writes."""

    shape: ShapeZYX
    """Shape of the volume at mip 0."""
    shard: ShapeZYX
    mips: int
    """Levels of the volume."""
    sections: int = 0
    """Sections that decide how large tasks are, which must not change when others are appended; 0: all."""

    @property
    def doublings(self) -> int:
        """How often the side of a task is twice that of a shard."""
        count, decisive = 0, (self.sections or self.shape[0], *self.shape[1:])
        while (
            count < min(len(_FEWEST_TASKS), self.mips - 1)
            and self._is_even
            and chunk_count(decisive, chunk=self._grown(count + 1)) >= _FEWEST_TASKS[count]
        ):
            count += 1
        return count

    @property
    def extent(self) -> ShapeZYX:
        """Extent of a task at mip 0."""
        return self._grown(self.doublings)

    @property
    def count(self) -> int:
        """Levels that tasks write whole, mip 0 included; at least 1."""
        doublings, extent = self.doublings, self.extent
        if all(n <= e for n, e in zip(self.shape[1:], extent[1:], strict=True)) and self._is_even:
            return self.mips
        return doublings + 1

    def decisive(self) -> dict[str, int]:
        """Return what decides which files a task writes; empty if it is one shard of mip 0."""
        if self.count == 1:
            return {}
        return {"levels": self.count, "shards_along_side": 1 << self.doublings}

    def shape_at(self, mip: int) -> ShapeZYX:
        """Return the shape of a level."""
        return (self.shape[0], *shape_at_mip((self.shape[1], self.shape[2]), mip=mip))

    def level_boxes(self, box: Box) -> list[Box]:
        """Return what the task of a mip-0 box writes of each level."""
        return [box.at_mip(mip).clipped(self.shape_at(mip)) for mip in range(self.count)]

    def write(
        self, box: Box, *, pixels_of: Callable[[Box], AnyArray], write: Callable[[Box, AnyArray], None], labels: bool
    ) -> None:
        """Write all shards of a task; hold no more than one shard of each level.

        Args:
            box: of the task, at mip 0.
            pixels_of: returns the pixels of a shard at mip 0, by its box; called once for each.
            write: writes a shard of any level.
            labels: the values are ids: the most frequent of four goes to the next level, not their mean.
        """
        coarsest = self.level_boxes(box)[-1]
        for part in chunk_boxes(coarsest.shape, chunk=self.shard, mip=coarsest.mip):
            self._made(part.shifted(coarsest.start), pixels_of, write, halve_labels if labels else halve)

    def _made(
        self,
        shard: Box,
        pixels_of: Callable[[Box], AnyArray],
        write: Callable[[Box, AnyArray], None],
        halved: Callable[[AnyArray], AnyArray],
    ) -> AnyArray:
        """Write a shard and all that is under it; return its pixels."""
        if shard.mip == 0:
            pixels = pixels_of(shard)
        else:
            finer = shard.at_mip(shard.mip - 1).clipped(self.shape_at(shard.mip - 1))
            pixels = np.empty(0)
            for part in chunk_boxes(finer.shape, chunk=self.shard, mip=finer.mip):
                quarter = halved(self._made(part.shifted(finer.start), pixels_of, write, halved))
                if quarter.shape == shard.shape:
                    pixels = quarter
                    break
                if not pixels.size:
                    pixels = np.empty(shard.shape, dtype=quarter.dtype)
                _, y, x = (start // 2 for start in part.start)
                pixels[:, y : y + quarter.shape[1], x : x + quarter.shape[2]] = quarter
        write(shard, pixels)
        return pixels

    def _grown(self, doublings: int) -> ShapeZYX:
        z, y, x = self.shard
        return z, y << doublings, x << doublings

    @property
    def _is_even(self) -> bool:
        """Whether a pixel of a coarser level is never made of pixels of two shards."""
        return all(s % 2 == 0 or n <= s for n, s in zip(self.shape[1:], self.shard[1:], strict=True))
