"""Results as dask arrays, whose parts are read or warped when they are computed."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ssem_dask.types import AnyArray, ShapeZYX

if TYPE_CHECKING:
    from ssem_dask.storage.arrays import ZarrArray
    from ssem_dask.storage.volume import Volume
    from ssem_dask.volumes.alignment import Alignment

_BLOCK_PX = 2048


def lazy_zarr(array: "ZarrArray") -> Any:
    """Return a Zarr array as a dask array with a block per shard."""
    import dask.array as da

    return da.from_array(array, chunks=array.shards or array.chunks)


def lazy_warp(alignment: "Alignment", volume: "Volume", *, labels: bool, kind: Any) -> Any:
    """Return a volume, warped, as a dask array `(z, y, x)`: a block is warped when it is computed."""
    import dask.array as da

    from ssem_dask.geometry.box import Box

    shape: ShapeZYX = volume.info.shape

    def block(block_info: Any = None) -> AnyArray:
        (z, stop), (top, bottom), (left, right) = block_info[None]["array-location"]
        box = Box((z, top, left), (stop, bottom, right))
        return np.stack(
            [alignment.warp_section(volume, z=section, box=box, kind=kind, labels=labels) for section in range(z, stop)]
        )

    chunks = tuple(tuple(_parts(n, limit)) for n, limit in zip(shape, (1, _BLOCK_PX, _BLOCK_PX), strict=True))
    return da.map_blocks(block, chunks=chunks, dtype=volume.info.dtype, meta=np.empty((0, 0, 0), volume.info.dtype))


def _parts(extent: int, limit: int) -> list[int]:
    return [min(limit, extent - start) for start in range(0, extent, limit)]
