"""Masks of tissue: empty space is constant.

Law: a pixel is empty exactly if some square of 9 × 9 px (`side`) that contains it is constant, whatever the value. So
every pixel of textured tissue stays tissue, up to its very border, and the mask does not depend on black or white
padding.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn.functional import pad

EMPTY_SIDE = 9
"""Side in px of the smallest constant square that counts as empty; smaller ones are vesicles, dirt or saturation."""


def tissue_mask(image: Shaped[Tensor, "*z y x"], *, side: int = EMPTY_SIDE) -> Bool[Tensor, "*z y x"]:
    """Compute the mask of tissue.

    Args:
        image: `(y, x)` or `(z, y, x)`, any intensity unit, any real dtype; NaN is empty.
        side: side of the smallest constant square that counts as empty, px; odd, at least 3; less for pooled images.

    Returns:
        False in empty space. At the border of the image only the part of a square inside it counts.

    Raises:
        ValueError: the image has neither 2 nor 3 axes.
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"tissue_mask: got {image.ndim} axes {tuple(image.shape)}, wanted (y, x) or (z, y, x).")
    if _has_no_empty_space(image, side=side):
        return torch.ones_like(image, dtype=torch.bool)
    values = image
    known = torch.ones_like(image, dtype=torch.bool)
    if image.is_floating_point():
        known = torch.isfinite(image)
        values = torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    reach = side // 2
    # A square is constant if all pairs of adjacent pixels in it are equal; pairs beyond the border count as equal.
    across = pad(values[..., 1:] == values[..., :-1], (reach, reach, reach, reach), value=True)
    down = pad(values[..., 1:, :] == values[..., :-1, :], (reach, reach, reach, reach), value=True)
    constant = _all_in_run(_all_in_run(across, 2 * reach, -1), side, -2)
    constant &= _all_in_run(_all_in_run(down, 2 * reach, -2), side, -1)
    outside_all = pad(~constant, (reach, reach, reach, reach), value=True)
    return known & _all_in_run(_all_in_run(outside_all, side, -1), side, -2)


def _has_no_empty_space(image: Tensor, *, side: int) -> bool:
    """Check few pixels, which usually suffices to show that there is no empty space.

    A square of which at least half a side is inside the image contains one of the blocks of half a side that tile it
    from the first pixel on, or one at the very end. If none of these is constant, no square is.
    """
    block = (side + 1) // 2
    if block < 3 or min(image.shape[-2:]) < block or not bool(torch.isfinite(image.sum(dtype=torch.float32))):
        return False
    rows, columns = (_block_starts(n, block, image.device) for n in image.shape[-2:])
    corner = image[..., rows[:, None], columns]
    last, middle = block - 1, block // 2
    same = torch.ones_like(corner, dtype=torch.bool)
    for down, across in ((middle, middle), (0, last), (last, 0), (last, last)):
        same &= image[..., rows[:, None] + down, columns + across] == corner
    suspects = torch.nonzero(same)
    if not len(suspects):
        return True
    inside = torch.arange(block, device=image.device)
    y, x = rows[suspects[:, -2]][:, None] + inside, columns[suspects[:, -1]][:, None] + inside
    sections = image.reshape(-1, *image.shape[-2:])
    z = suspects[:, 0] if image.ndim == 3 else torch.zeros_like(suspects[:, 0])
    blocks = sections[z[:, None, None], y[:, :, None], x[:, None, :]]
    return not bool((blocks == blocks[:, :1, :1]).flatten(1).all(dim=1).any())


@lru_cache(maxsize=64)
def _block_starts(count: int, block: int, device: torch.device) -> Tensor:
    """List the first pixels of the blocks along an axis; cached, since copying to a GPU takes as long as the check."""
    with torch.inference_mode(False):
        return torch.tensor([*range(0, count - block + 1, block), count - block], device=device)


def _all_in_run(values: Tensor, length: int, axis: int) -> Tensor:
    """Check whether each run of `length` values along an axis is all True; the axis becomes `length - 1` shorter."""
    # Doubling: a run of 2 n is two runs of n, so log2(length) passes suffice.
    done = 1
    while done < length:
        step = min(done, length - done)
        count = values.shape[axis] - step
        values = values.narrow(axis, 0, count) & values.narrow(axis, step, count)
        done += step
    return values
