"""Registration of one pair of images held in memory: coarse affine, then the fields of stage register.

Law: `fixed(p) ≈ moving(p + field(p))` (C5).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.affine import IDENTITY, Affine, apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_known
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.checked_window import register_checked
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.registration.methods import RegisterConfig, default_mip, default_spacing, resolve
from ssem_dask.registration.registration_method import PairRequest, WindowImages

_THUMBNAIL_PX = 256
_MIN_SIDE_PX = 64
"""px of the working image: coarser images hold too few features."""


def register_image_pair(
    *, fixed: Float[Tensor, "y x"], moving: Float[Tensor, "y x"], pixel_size: float
) -> tuple[Float[Tensor, "2 y x"], Float[Tensor, "y x"]]:
    """Find the field that pulls `moving` onto `fixed`.

    Args:
        fixed: reference, float32, any intensity unit.
        moving: image of the same shape.
        pixel_size: nm per pixel, from which the working scale and the spacing of nodes follow.

    Returns:
        The pull field (dy, dx) at every pixel, px, NaN where it is unknown; and its confidence, 0 to 1.
    """
    shape = (fixed.shape[0], fixed.shape[1])
    affine = _coarse_affine(fixed, moving)
    mip = default_mip(pixel_size)
    while mip > 0 and min(shape) < _MIN_SIDE_PX * 2**mip:
        mip -= 1
    small, other = pool(fixed, 2**mip), pool(moving, 2**mip)
    grid = Grid((small.shape[0], small.shape[1]), float(2**mip))
    at = apply_affine(affine, grid.positions())
    pulled, valid = sample_image(other[None], grid=grid, positions=at, kind="bilinear", tissue=tissue_mask(other))
    window = WindowImages(
        images=torch.stack([pulled[0], small]), valid=torch.stack([valid, tissue_mask(small)]), grid=grid
    )
    nodes = Grid.of_section(shape, spacing=default_spacing(pixel_size))
    request = PairRequest(nodes=nodes, core=range(1, 2), neighbours=1)
    config = resolve(RegisterConfig(neighbours=1), pixel_size=pixel_size)
    pairs = register_checked(window, request, config=config, device="cpu").pairs
    positions = nodes.positions()
    field = apply_affine(affine, positions + pairs.fields[0, 0]) - positions
    pixels = Grid(shape, 1.0).positions()
    confidence = sample(pairs.confidence[0], grid=nodes, positions=pixels, kind="bilinear")[0]
    dense = sample_known(field.float(), grid=nodes, positions=pixels)
    return dense, torch.where(torch.isfinite(dense).all(dim=0), confidence, torch.zeros_like(confidence))


def _coarse_affine(fixed: Tensor, moving: Tensor) -> Affine:
    """Return the affine map of the thumbnails; the identity if they match nowhere."""
    config = CoarseConfig()
    factor = 2 ** max(0, math.ceil(math.log2(max(fixed.shape) / _THUMBNAIL_PX)))
    sections = [
        CoarseSection(thumbnail, mask=tissue_mask(thumbnail), config=config)
        for thumbnail in (pool(image, factor) for image in (fixed, moving))
    ]
    pair = estimate_pair(fixed=sections[0], moving=sections[1], pixel=float(factor), start=None)
    return pair.affine if pair.ratio >= config.min_ratio else IDENTITY
