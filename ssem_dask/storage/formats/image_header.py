"""Parsed header of an image file that holds one section."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.storage.formats.grey import ValueTags
from ssem_dask.storage.lengths import UNKNOWN_SIZES, Sizes
from ssem_dask.types import ShapeYX


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Size and type of an image as stored, and the tags that say what its values mean."""

    height: int
    width: int
    stored: np.dtype[Any]
    """Type of the stored values."""
    tags: ValueTags
    sizes: Sizes = UNKNOWN_SIZES

    @property
    def shape(self) -> ShapeYX:
        """Shape (y, x) of the upright image."""
        return self.tags.shape(self.height, self.width)
