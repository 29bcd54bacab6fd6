"""Registration of two images, for those who want nothing else."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from ssem_dask.errors import SourceError
from ssem_dask.registration.image_pair import register_image_pair
from ssem_dask.types import Float32Array

_MIN_SIDE_PX = 32


class RegisteredPair(NamedTuple):
    """The displacement between two images."""

    field: Float32Array
    """`(2, y, x)`: (dy, dx) at every pixel, px; NaN is unknown."""
    confidence: Float32Array
    """`(y, x)`: 0 to 1; 0 where the field is unknown."""


def register_pair(fixed: ArrayLike, moving: ArrayLike, *, pixel_size: float) -> RegisteredPair:
    """Find the field that pulls one image onto another: `fixed[p] ≈ moving[p + field[:, p]]`.

    Rotations of up to 30° and shifts of up to 30 % of the side are found first, elastic displacements then.

    Args:
        fixed: reference image (y, x).
        moving: image of the same shape.
        pixel_size: nm per pixel, from which the scale that is looked at follows.

    Raises:
        SourceError: they are no two images of one shape.

    Examples:
        >>> import ssem_dask, zarr
        >>> sections = zarr.open_array("volume.zarr/0", mode="r")
        >>> field, confidence = ssem_dask.register_pair(sections[4], sections[3], pixel_size=4)
        >>> field.shape, confidence.shape
        ((2, 160, 160), (160, 160))
    """
    images = [np.asarray(image) for image in (fixed, moving)]
    shapes = [image.shape for image in images]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or min(shapes[0]) < _MIN_SIDE_PX:
        raise SourceError(
            f"register_pair: got arrays of {shapes[0]} and {shapes[1]}, but wanted are two images (y, x) of one shape, "
            f"at least {_MIN_SIDE_PX} px a side."
        )
    if any(image.dtype.kind not in "biuf" for image in images):
        raise SourceError("register_pair: the images must hold numbers; convert them to uint8, uint16 or float32.")
    first, second = (torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)) for image in images)
    with torch.inference_mode():
        field, confidence = register_image_pair(fixed=first, moving=second, pixel_size=float(pixel_size))
    return RegisteredPair(field.numpy(), confidence.numpy())
