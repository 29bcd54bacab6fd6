"""Write a volume with all of its levels while its rows arrive; nothing is read back.

Law: the levels are those that stage downsample makes of the same mip 0.

Rows of a slab of sections arrive from the top. A level keeps them until they fill a row of shards, writes these, and
halves them for the next coarser level. So a level holds at most one row of shards, with half as many columns as the
finer level. All levels together hold about as much as a row of shards of mip 0, and half as much again while halved
rows are passed on, for any number of rows.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ssem_dask.errors import PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_spans
from ssem_dask.image.label_pooling import halve_labels
from ssem_dask.image.pooling import halve
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray


class SlabWriter:
    """Writes one slab of sections at all levels of a volume, from the first row to the last."""

    def __init__(
        self,
        volume: Volume,
        *,
        sections: range,
        labels: bool,
        write_shard: Callable[[Box, AnyArray], None] | None = None,
    ) -> None:
        """Begin a slab.

        Args:
            volume: the volume, of which all levels are written.
            sections: whole shards of them, or up to the volume's end.
            labels: the values are ids: the most frequent of four goes to the next level, not their mean.
            write_shard: writes a box, one shard of any level; None: `Volume.write`.
        """
        self._volume = volume
        self._sections = sections
        self._labels = labels
        write_shard = write_shard or volume.write
        self._levels = [_Level(volume, sections=sections, mip=mip, write_shard=write_shard) for mip in volume.mips]

    def write(self, rows: AnyArray) -> None:
        """Write the next rows of mip 0, and the rows of every coarser level that they complete.

        Args:
            rows: `(z, y, x)` of the volume's dtype: whole shards along y, or up to the volume's end.

        Raises:
            PlanError: the rows do not fit the slab.
            OutputError: the volume cannot be written.
        """
        _, height, width = self._volume.shape_at(0)
        left = len(self._sections), height - self._levels[0].done, width
        if (rows.shape[0], rows.shape[2]) != (left[0], left[2]) or rows.shape[1] > left[1]:
            raise PlanError(f"{self._volume.url}: got rows of shape {rows.shape}, but {left} are left to be written.")
        for start, stop in chunk_spans(rows.shape[1], chunk=self._volume.write_unit(0)[1]):
            self._pass_on(rows[:, start:stop], mip=0)

    def _pass_on(self, rows: AnyArray, *, mip: int) -> None:
        """Write whole shards of a level, and what they complete of the coarser ones."""
        self._levels[mip].write(rows)
        if mip + 1 == len(self._levels):
            return
        coarser = self._levels[mip + 1]
        rows = self._levels[mip].in_pairs(rows)
        halved = halve_labels(rows) if self._labels else halve(rows)
        for start, stop in coarser.parts(halved.shape[1]):
            whole = coarser.gathered(halved[:, start:stop])
            if whole is not None:
                self._pass_on(whole, mip=mip + 1)


class _Level:
    """The rows of one level of a slab that wait to be written or halved."""

    def __init__(
        self, volume: Volume, *, sections: range, mip: int, write_shard: Callable[[Box, AnyArray], None]
    ) -> None:
        self._volume = volume
        self._write_shard = write_shard
        self._sections = sections
        self._mip = mip
        self._unit = volume.write_unit(mip)
        _, self._height, self._width = volume.shape_at(mip)
        self._kept = self._no_rows()
        """A row of shards, of which the first `_filled` rows have arrived."""
        self._filled = 0
        self._odd = self._no_rows()
        """A row that is written but not yet halved, since the row below it has not arrived; or none."""
        self.done = 0
        """Rows that are written."""

    def write(self, rows: AnyArray) -> None:
        """Write whole shards."""
        corner = (self._sections.start, self.done, 0)
        # Shard by shard, since zarr holds several copies of what it writes.
        for part in chunk_boxes(rows.shape, chunk=self._unit):
            box = part.shifted(corner)
            self._write_shard(Box(box.start, box.stop, self._mip), rows[part.slices])
        self.done += rows.shape[1]

    def in_pairs(self, rows: AnyArray) -> AnyArray:
        """Return written rows in pairs: with the row left over from the last call, without a row left over now."""
        if self._odd.shape[1]:
            rows = np.concatenate([self._odd, rows], axis=1)
        pairs = rows.shape[1] if self.done == self._height else rows.shape[1] // 2 * 2
        self._odd = rows[:, pairs:].copy()
        return rows[:, :pairs]

    def parts(self, count: int) -> list[tuple[int, int]]:
        """Return start and stop of the parts of the next `count` rows, each of one row of shards."""
        borders = [0, *range(self._unit[1] - self._filled, count, self._unit[1]), count]
        return [(start, stop) for start, stop in pairwise(borders) if start < stop]

    def gathered(self, rows: AnyArray) -> AnyArray | None:
        """Keep rows of one row of shards; return all of them once they are complete, else None."""
        wanted = min(self._unit[1], self._height - self.done)
        if rows.shape[1] == wanted:
            return rows
        if not self._filled:
            self._kept = np.empty((len(self._sections), wanted, self._width), dtype=rows.dtype)
        self._kept[:, self._filled : self._filled + rows.shape[1]] = rows
        self._filled += rows.shape[1]
        if self._filled < wanted:
            return None
        whole, self._kept, self._filled = self._kept, self._no_rows(), 0
        return whole

    def _no_rows(self) -> AnyArray:
        return np.empty((len(self._sections), 0, self._width), dtype=self._volume.info.dtype)
