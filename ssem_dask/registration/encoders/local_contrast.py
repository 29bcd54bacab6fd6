"""Local contrast normalisation: intensity relative to the mean and spread of its surroundings.

Law: `a·image + b` with a > 0 gives the same as `image`; with a < 0 it gives the negative of it. Bit depth and slow
stain gradients therefore do not matter. Pixels that are not valid are 0, the local mean.

Mean and spread are taken over the valid pixels of a square of `window` px, on an image pooled by an eighth of it, and
interpolated bilinearly between: they are smooth by construction, and the cost stays that of a few passes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ssem_dask.registration.triton import kernels_run_on

_BLOCKS = 8  # blocks per window side
_LEAST_SPREAD = 0.25  # share of the image's own spread: noise of resin and blank regions is not amplified
_CLIP = 4.0  # local standard deviations: dust and knife marks must not outweigh tissue


def normalise_contrast(
    images: Float[Tensor, "n y x"], *, valid: Bool[Tensor, "n y x"], window: int
) -> Float[Tensor, "n y x"]:
    """Normalise each image by the mean and standard deviation of its surroundings.

    Args:
        images: float32, any unit.
        valid: False where there is no tissue.
        window: side of the square of surroundings, px of the images; at least 8.

    Returns:
        Contrast in [-4, 4], 0 where not valid.
    """
    block = max(1, window // _BLOCKS)
    # The kernels have no gradient, and blocks whose side is a power of two.
    if kernels_run_on(images.device) and not images.requires_grad and block.bit_count() == 1:
        return normalise_contrast_on_gpu(images, valid, block)
    weight = valid.float()
    count = weight.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    # Centre and scale first: the squares of 16-bit intensities do not fit float32's precision.
    centre = (images * weight).sum(dim=(1, 2), keepdim=True) / count
    centred = torch.where(valid, images - centre, torch.zeros_like(images))
    spread = (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt().clamp(min=1e-6)
    centred = centred / spread
    share = _box(_blocks(weight, block))
    mean = _box(_blocks(centred, block)) / share.clamp(min=1e-6)
    square = _box(_blocks(centred.square(), block)) / share.clamp(min=1e-6)
    deviation = (square - mean.square()).clamp(min=_LEAST_SPREAD**2).sqrt()
    shape = (images.shape[-2], images.shape[-1])
    contrast = (centred - _enlarge(mean, block, shape)) / _enlarge(deviation, block, shape)
    return torch.where(valid, contrast.clamp(-_CLIP, _CLIP), torch.zeros_like(contrast))


def normalise_contrast_on_gpu(images: Tensor, valid: Tensor, block: int) -> Tensor:
    """Normalise in two passes over the pixels; everything between happens on blocks."""
    from ssem_dask.registration.triton.contrast_launch import block_moments, normalise_blocks

    count, mean, squares_about_mean = block_moments(images, valid=valid, side=block).double()
    total = count.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    centre = (count * mean).sum(dim=(1, 2), keepdim=True) / total
    offset = mean - centre
    # Steiner: squares about the overall centre are those about the block's mean and the offset of this mean.
    power = squares_about_mean + count * offset.square()
    spread = (power.sum(dim=(1, 2), keepdim=True) / total).sqrt().clamp(min=1e-6)
    sums = torch.stack([count, count * offset / spread, power / spread.square()], dim=1).float() / block**2
    share, mean, square = _box(sums.flatten(0, 1)[:, None]).reshape(sums.shape).unbind(1)
    mean, square = mean / share.clamp(min=1e-6), square / share.clamp(min=1e-6)
    deviation = (square - mean.square()).clamp(min=_LEAST_SPREAD**2).sqrt()
    return normalise_blocks(
        images,
        valid=valid,
        mean=mean,
        deviation=deviation,
        centre=centre.flatten().float(),
        spread=spread.flatten().float(),
        side=block,
        clip=_CLIP,
    )


def _blocks(values: Tensor, block: int) -> Tensor:
    """Average over blocks, `(n, 1, y, x)`; pixels missing from the last blocks count as 0."""
    down, right = (-values.shape[-2]) % block, (-values.shape[-1]) % block
    return avg_pool2d(pad(values[:, None], (0, right, 0, down)), block)


def _box(values: Tensor) -> Tensor:
    """Average over `_BLOCKS + 1` blocks, centred; blocks beyond the border count as 0."""
    return avg_pool2d(values, _BLOCKS + 1, stride=1, padding=_BLOCKS // 2)


def _enlarge(values: Tensor, block: int, shape: tuple[int, int]) -> Tensor:
    size = (values.shape[-2] * block, values.shape[-1] * block)
    large = interpolate(values, size=size, mode="bilinear", align_corners=False)
    return large[:, 0, : shape[0], : shape[1]]
