"""Neuroglancer-precomputed, written by TensorStore, an optional package.

Precomputed is (x, y, z) throughout; only this module transposes it (C1). Its voxels count from their corners like ours
(C3), so no level is offset.

Tasks open a scale without reading the store, because all of its metadata is known: `info` is written last.

A shard holds the chunks whose compressed Morton codes agree in all but the lowest bits. With the hash `identity` these
are the chunks of a box, so a task can own whole shards.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ssem_dask.errors import OutputError, SourceError, SsemDaskError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage import location
from ssem_dask.storage.exports.target import UNIT_BYTES, Target, grown
from ssem_dask.storage.fence import check_fence
from ssem_dask.storage.tensorstores import kvstore_spec, tensorstore
from ssem_dask.types import AnyArray, ShapeZYX

_TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32")
_CHUNKS_PER_INDEX = 6
"""log2 of the number of chunks per index of a shard, which a reader fetches as a whole."""
_ONE_THREAD = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
"""One thread per worker: there is one worker per core, and memory freed by a thread is kept for that thread alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecomputedTarget(Target):
    """A precomputed volume."""

    FORM: ClassVar[str] = "precomputed"

    sharded: bool
    """Whether a file holds many chunks, compressed by gzip; else one file per chunk."""

    def check(self) -> None:
        """See `Target.check`."""
        self.check_chunk()
        dtype = self.info.dtype
        if dtype.name not in _TYPES or (self.labels and dtype.kind not in "iu"):
            raise SourceError(
                f"{self.url}: precomputed holds no {'labels' if self.labels else 'values'} of type {dtype}, but "
                f"{', '.join(_TYPES)}; convert them, or write --ngff 0.4."
            )
        with location.as_output_error():
            tensorstore(self.url)
            place = kvstore_spec(self.url)
        if place["driver"] == "http":
            raise OutputError(f"{self.url}: precomputed is written to a folder, s3:// or gs://; choose one of these.")

    def prepare(self) -> None:
        """Do nothing: TensorStore makes folders, and needs no file before it writes others."""

    def reopen(self) -> None:
        """See `Target.reopen`."""
        with location.writing(self.url):
            location.delete(location.join(self.url, "info"), recursive=False)

    def unit(self, mip: int) -> ShapeZYX:
        """See `Target.unit`."""
        if not self.sharded:
            return grown(self.chunk, shape=self.shape_at(mip), dtype=self.info.dtype, depth=self.depth)
        x, y, z, _ = self._open(mip).chunk_layout.write_chunk.shape
        return z, y, x

    def write(self, values: AnyArray, *, start: ShapeZYX, mip: int) -> None:
        """See `Target.write`; chunks of zeros are written too, because some readers require them."""
        z, y, x = (slice(a, a + n) for a, n in zip(start, values.shape[-3:], strict=True))
        by_channel = values if self.leading else values[None]
        with location.writing(self.url):
            check_fence()  # TensorStore writes past the stores of this package
            try:
                self._open(mip)[x, y, z].write(by_channel.transpose(3, 2, 1, 0)).result()
            except (SsemDaskError, MemoryError):
                raise
            except Exception as error:  # TensorStore raises many kinds
                raise OSError(str(error)) from error

    def finish(self) -> None:
        """Write `info`."""
        scales = []
        for mip in range(self.mips):
            scale = self._scale(mip)
            scales.append({**scale, "chunk_sizes": [scale.pop("chunk_size")]})
        info = {"@type": "neuroglancer_multiscale_volume", **self._multiscale(), "scales": scales}
        with location.writing(self.url):
            location.write_json(location.join(self.url, "info"), info)

    def _open(self, mip: int) -> Any:
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": kvstore_spec(self.url),
            "multiscale_metadata": self._multiscale(),
            "scale_metadata": self._scale(mip),
            "store_data_equal_to_fill_value": True,
            "context": _ONE_THREAD,
        }
        return tensorstore(self.url).open(spec, open=True, assume_metadata=True).result()

    def _multiscale(self) -> dict[str, Any]:
        kind = "segmentation" if self.labels else "image"
        return {"type": kind, "data_type": self.info.dtype.name, "num_channels": self.info.planes}

    def _scale(self, mip: int) -> dict[str, Any]:
        pixel, thickness = self.info.pixel_size * 2**mip, self.info.section_thickness
        scale: dict[str, Any] = {
            "key": f"{pixel:g}_{pixel:g}_{thickness:g}",
            "size": list(self.shape_at(mip)[::-1]),
            "voxel_offset": [0, 0, 0],
            "resolution": [pixel, pixel, thickness],
            "chunk_size": list(self.chunk[::-1]),
            "encoding": "raw",
        }
        if self.labels and self.info.dtype in (np.uint32, np.uint64):
            scale |= {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
        if self.sharded:
            scale["sharding"] = self._sharding(mip)
        return scale

    def _sharding(self, mip: int) -> dict[str, Any]:
        """Shards of at most `UNIT_BYTES`, raw."""
        grid = [ceil_div(n, c) for n, c in zip(self.shape_at(mip), self.chunk, strict=True)]
        code_bits = sum((n - 1).bit_length() for n in grid)
        fitting = max(1, UNIT_BYTES // (math.prod(self.chunk) * self.info.dtype.itemsize * self.info.planes))
        inside = min(code_bits, fitting.bit_length() - 1)
        index_bits = min(inside, _CHUNKS_PER_INDEX)
        return {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            "preshift_bits": index_bits,
            "minishard_bits": inside - index_bits,
            "shard_bits": code_bits - inside,
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        }
