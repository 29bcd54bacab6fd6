"""Scale levels (C3): at mip m a pixel covers 2**m mip-0 pixels in y and x, never in z."""

import math

from ssem_dask.types import ShapeYX


def ceil_div(value: int, divisor: int) -> int:
    """Divide and round up."""
    return -(-value // divisor)


def shape_at_mip(shape: ShapeYX, *, mip: int) -> ShapeYX:
    """Shape (y, x) at `mip` of a section whose mip-0 shape is `shape`; a partial last pixel counts."""
    scale = 2**mip
    return ceil_div(shape[0], scale), ceil_div(shape[1], scale)


def level_count(shape: ShapeYX, *, smallest: int) -> int:
    """Levels of a pyramid, mip 0 among them, that goes on until the longer side is at most `smallest` px (at least 1).

    Args:
        shape: (y, x) at mip 0.
        smallest: px of the coarsest level.
    """
    levels = 1
    while max(shape_at_mip(shape, mip=levels - 1)) > smallest:
        levels += 1
    return levels


def mip_for_pixel_size(pixel_size: float, *, wanted: float) -> int:
    """The mip whose pixel is nearest to `wanted` nm on a log scale, never below 0.

    Args:
        pixel_size: nm per mip-0 pixel.
        wanted: nm per pixel.
    """
    return max(0, round(math.log2(wanted / pixel_size)))
