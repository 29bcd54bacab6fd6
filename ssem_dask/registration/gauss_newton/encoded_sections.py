"""Features of all sections of a window, and where they show tissue."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ssem_dask.field.grid import Grid
from ssem_dask.image.pooling import pool
from ssem_dask.registration.encoders.encoder import Encoder, encode_observed
from ssem_dask.registration.gauss_newton.solver import FeatureLevel
from ssem_dask.registration.registration_method import WindowImages

EROSION = 2
"""Feature px at the border of tissue whose surroundings reach outside."""
_FEATURE_SPACING_PX = 4  # px of the working image per feature px of level 0


def encode_sections(window: WindowImages, *, encoder: Encoder, device: torch.device | str) -> FeatureLevel:
    """Compute the features of every section at 4 px of the working image."""
    factor = max(1, _FEATURE_SPACING_PX // encoder.spacing)
    spacing = encoder.spacing * factor
    encoded, masks = [], []
    # One by one: the network's activations are many times as large as an image.
    for image, tissue in zip(window.images, window.valid, strict=True):
        inside = tissue.to(device)
        values = encode_observed(encoder, torch.nan_to_num(image.to(device))[None], valid=inside[None])
        encoded.append(pool(values, factor)[0])
        share = pool(inside.float(), spacing)
        # Only px wholly in tissue count, and of these not the outermost: the encoder sees what is beside them. 0.99
        # allows for rounding of the mean; one px of 16 outside tissue gives 0.94.
        masks.append(_erode((share > 0.99).float()))
    mask = torch.stack(masks)
    level = torch.stack(encoded) * mask[:, None]
    grid = Grid((mask.shape[1], mask.shape[2]), window.grid.spacing * spacing, window.grid.origin)
    return FeatureLevel(level, mask, grid)


def _erode(mask: Tensor) -> Tensor:
    """Remove the outermost feature px of tissue; the frame of the image counts as tissue."""
    return 1.0 - max_pool2d(1.0 - mask[None, None], 2 * EROSION + 1, stride=1, padding=EROSION)[0, 0]
