"""Intensities that are shown black and white."""

import numpy as np
from numpy.typing import NDArray

from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray


def stretch_intensities(image: AnyArray, *, low: float, high: float) -> NDArray[np.uint8]:
    """Map intensities from `low` … `high` to 0 … 255."""
    scaled = (image.astype(np.float32) - low) / max(high - low, 1e-6) * 255.0
    return np.asarray(scaled.round().clip(0, 255), dtype=np.uint8)


def intensity_limits(image: AnyArray) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentile of the pixels that are not 0 (0 is unknown)."""
    known = image[image != 0]
    if known.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(known, [0.5, 99.5])
    return float(low), float(high)


def volume_limits(volume: Volume) -> tuple[float, float]:
    """Return the intensities to show black and white, from the coarsest level of the middle section."""
    mip = volume.mips[-1]
    z, y, x = volume.shape_at(mip)
    # Without a pyramid, reading the whole section would take too long.
    height, width = min(y, 1024), min(x, 1024)
    top, left = (y - height) // 2, (x - width) // 2
    limits = intensity_limits(volume.read(Box((z // 2, top, left), (z // 2 + 1, top + height, left + width), mip)))
    return limits if limits != (0.0, 1.0) else (0.0, float(np.iinfo(volume.info.dtype).max))
