"""Empty space: where a section carries no tissue.

Law: a pixel is empty exactly where some square of 9 × 9 px (`side`) that contains it is constant, whatever the value;
so every pixel of textured tissue stays tissue, up to its very border, and empty space does not depend on black or white
padding.
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

EMPTY_SIDE = 9
"""Side in px of the smallest constant square that counts as empty; smaller ones are vesicles, dirt or saturation."""


def tissue_mask(image: Tensor, *, side: int = EMPTY_SIDE) -> Tensor:
    """Where a section shows something.

    Args:
        image: `(y, x)` or `(z, y, x)`, any intensity unit, any real dtype; NaN is empty.
        side: of the smallest constant square that counts as empty, px; odd. Of pooled pixels fewer are needed.

    Returns:
        bool, the same shape: False in empty space. At the border of the image the part of a square that lies inside
        decides.

    Raises:
        ValueError: the image has neither 2 nor 3 axes.
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"tissue_mask: got {image.ndim} axes {tuple(image.shape)}, wanted (y, x) or (z, y, x).")
    values = image if image.is_floating_point() else image.to(torch.float32)
    known = torch.isfinite(values)
    values = torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    stacked = values.reshape(-1, 1, *values.shape[-2:])
    constant = _square_max(stacked, side) == -_square_max(-stacked, side)
    empty = _square_max(constant.to(torch.float32), side) > 0
    return known & ~empty.reshape(image.shape)


def _square_max(values: Tensor, side: int) -> Tensor:
    """Largest value of the square about each pixel, `(n, 1, y, x)`; one axis at a time."""
    reach = side // 2
    rows = max_pool2d(values, (side, 1), stride=1, padding=(reach, 0))
    return max_pool2d(rows, (1, side), stride=1, padding=(0, reach))
