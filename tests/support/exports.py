"""Volumes to export, and what tests read of an export."""

from pathlib import Path
from typing import Any

import numpy as np

from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray

SHAPE = (13, 150, 131)
MIPS = 3


def make_volume(url: str, *, dtype: str = "uint8", attributes: dict[str, Any] | None = None, seed: int = 0) -> str:
    """A volume of random values, with a corner of zeros; its levels have nothing to do with each other."""
    random = np.random.default_rng(seed)
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype(dtype), pixel_size=4.6, section_thickness=50.0)
    volume = create_volume(url, info=info, chunk=(2, 32, 32), shard=(4, 64, 64), mips=MIPS, attributes=attributes)
    for mip in range(MIPS):
        shape = volume.shape_at(mip)
        values = random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
        values[:5, :40, :70] = 0
        volume.write(Box((0, 0, 0), shape, mip), values)
    return url


def values_of(url: str, mip: int) -> AnyArray:
    volume = Volume.open(url)
    return volume.read(Box((0, 0, 0), volume.shape_at(mip), mip))


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files without the ledger, which has times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "ledger"
    }


def open_scale(folder: str, mip: int) -> Any:
    import tensorstore

    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": folder},
        "scale_index": mip,
    }
    return tensorstore.open(spec, open=True, read=True).result()
