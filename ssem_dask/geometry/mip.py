"""Scale levels (C3): at mip m a pixel covers 2**m mip-0 pixels in y and x, never in z."""

import math

from ssem_dask.types import ShapeYX


def ceil_div(value: int, divisor: int) -> int:
    """Divide and round up."""
    return -(-value // divisor)


def shape_at_mip(shape: ShapeYX, *, mip: int) -> ShapeYX:
    """Compute the shape (y, x) at `mip` of a section of mip-0 `shape`; a partial last pixel counts."""
    scale = 2**mip
    return ceil_div(shape[0], scale), ceil_div(shape[1], scale)


def level_count(shape: ShapeYX, *, smallest: int) -> int:
    """Count the levels, with mip 0, of a pyramid that ends when the longer side is at most `smallest` px.

    Args:
        shape: (y, x) at mip 0.
        smallest: largest side of the coarsest level, px; at least 1.
    """
    levels = 1
    while max(shape_at_mip(shape, mip=levels - 1)) > smallest:
        levels += 1
    return levels


def mip_for_pixel_size(pixel_size: float, *, wanted: float) -> int:
    """Choose the mip whose pixel is nearest to `wanted` nm on a log scale, never below 0.

    Args:
        pixel_size: nm per mip-0 pixel.
        wanted: nm per pixel.
    """
    return max(0, round(math.log2(wanted / pixel_size)))
