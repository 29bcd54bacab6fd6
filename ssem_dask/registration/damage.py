"""Damage of sections, detected without labels: structures that one section shows and none of its neighbours does.

Codes of a mask: 0 tissue; 1 empty; 2 damaged (no data term); 3 tear, a fold or a crack (no data term, and no smoothness
across). In a stack of coarse-aligned sections two cues mark a px as unusual, within the few px that coarse alignment
leaves: (a) no neighbour has a similar patch, and (b) it is darker (or brighter) than anything in *all* neighbours.
Single pixels of sound tissue are unusual too, as it changes from section to section; extended structures are not. Both
cues are therefore summed and averaged along short lines in all directions (folds, cracks) and over squares (dust,
stains). Hysteresis thresholding follows strong responses down to weak ones. Elongated pieces are tears.

Laws: a gain and an offset of any section, and the inversion of all of them, change nothing. A section that differs from
its neighbours as a whole is not damaged, since cues are relative to the section's own median.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool
from ssem_dask.types import AnyArray, BoolArray

TISSUE, EMPTY, DAMAGED, TEAR = 0, 1, 2, 3
"""Codes of a mask."""
MASK_PIXEL_NM = 20.0
"""nm per px that the lengths below are meant for; detection works at the mip nearest to it."""
Z_REACH = 3
"""Sections on either side that a section is compared with."""
HALO_PX = 64
"""px around a window that its masks depend on."""

_PATCH_Z_REACH = 2  # sections on either side whose patches are compared: by far the most expensive part
_SEARCH = 2  # px, of the nearest patch
_BORDER = 4  # px along the border of tissue that are not judged
_MAX_SHIFT = 4  # px of 40 nm, error of the coarse alignment
_BLOCK = 4  # px of 40 nm, side of the blocks that are matched to find that error
_SMOOTHED_BLOCKS = 5  # side of the square of blocks over which it is smoothed
_PATCH = 5  # px, side
_SMOOTH = 3  # px, side
_MAX_INTENSITY = 3.0  # normalised intensity; black beyond it is all the same
_MIN_CUE, _MAX_CUE = -2.0, 6.0  # standardised cue: one extreme px must not make a line
_LINE = 21  # px of 40 nm, length
_DIRECTIONS = 16
_SQUARE = 9  # px, side
# Thresholds of the sum of both cues, in units of the distance from its median to its 90th percentile.
_SEED_THRESHOLD, _GROW_THRESHOLD = 2.8, 1.7
_LEAST_AREA = 40  # px of a piece
_LEAST_TEAR_LENGTH = 50.0  # px
_LEAST_TEAR_ELONGATION = 4.0  # length over mean width
_LEAST_STRUCTURE = 0.3  # correlation of adjacent px; below it a section shows only noise
_QUANTILE_SAMPLE = 1 << 16  # px from which quantiles are taken


def detect_damage(
    images: Float[Tensor, "z y x"], *, tissue: Bool[Tensor, "z y x"], core: range
) -> UInt8[Tensor, "core y x"]:
    """Compute masks of the core's sections.

    Args:
        images: coarse-aligned neighbour sections, px of about 20 nm, any intensity unit.
        tissue: False in empty space.
        core: indices of the sections whose masks are wanted.

    Returns:
        Codes as above. Without any neighbour that shows tissue only empty space is marked.
    """
    shows_tissue = [
        bool(mask.float().mean() > 0.01) and _has_structure(image, mask)
        for image, mask in zip(images, tissue, strict=True)
    ]
    codes = (~tissue[core.start : core.stop]).to(torch.uint8) * EMPTY
    normalised = torch.stack([_normalise(image, mask) for image, mask in zip(images, tissue, strict=True)])
    # Px at the border of tissue are mixed with their empty surroundings, as are most px at the frame of an image.
    near_border = pad((~tissue).float(), [_BORDER] * 4, value=1.0)
    near_border = _local_maximum(_local_maximum(near_border))[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
    known = (near_border == 0) & torch.tensor(shows_tissue)[:, None, None]
    shifts: dict[tuple[int, int], Tensor] = {}
    cues = [torch.stack(_cues(normalised, known=known, z=z, shifts=shifts)) for z in core]
    spreads = [_spread(torch.stack([cue[c] for cue in cues]), known[core.start : core.stop]) for c in range(3)]
    for i, z in enumerate(core):
        if not shows_tissue[z]:
            codes[i] = EMPTY
            continue
        judged = known[z] & torch.isfinite(cues[i]).all(dim=0)
        if not bool(judged.any()):
            continue
        mismatch, darkness, brightness = (
            _standardise(cue, judged, spread=spread) for cue, spread in zip(cues[i], spreads, strict=True)
        )
        damaged = np.zeros(judged.shape, dtype=bool)
        # A px is darker or brighter than its neighbours, never both.
        for response in (mismatch + darkness, mismatch + brightness):
            lines, squares = _max_line_mean(response), _box(response[None], _SQUARE)[0]
            pieces = _hysteresis(lines.numpy()) | _hysteresis(squares.numpy())
            # Means extend beyond the damage: near a strong line, lines that merely cross it have high means too.
            near_response = _local_maximum((_box(response[None], _SMOOTH) > _GROW_THRESHOLD).float())[0] > 0
            damaged |= pieces & near_response.numpy()
        codes[i] = torch.where(tissue[z], torch.from_numpy(_classify_pieces(damaged & judged.numpy())), codes[i])
    return codes


def pool_codes(codes: AnyArray, *, factor: int) -> AnyArray:
    """Pool masks `(z, y, x)` by `factor`: each pixel gets the highest code that occurs in it."""
    z, y, x = codes.shape
    padded = np.pad(codes, ((0, 0), (0, -y % factor), (0, -x % factor)))
    blocks = padded.reshape(z, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    return np.asarray(blocks.max(axis=(2, 4)))


def _normalise(image: Tensor, mask: Tensor) -> Tensor:
    """Map the median to 0, the 10th and 90th percentile to -1 and 1: gain, offset and, mostly, gamma cancel."""
    if not bool(mask.any()):
        return torch.zeros_like(image)
    low, middle, high = _quantiles(image[mask], (0.1, 0.5, 0.9))
    offset = image - middle
    least = 1e-6 + 0.05 * (high - low)
    scaled = torch.where(
        offset < 0, offset / (middle - low).clamp(min=least), offset / (high - middle).clamp(min=least)
    )
    return torch.where(mask, scaled.clamp(-_MAX_INTENSITY, _MAX_INTENSITY), torch.zeros_like(scaled))


def _has_structure(image: Tensor, mask: Tensor) -> bool:
    """Check whether adjacent px resemble each other, as in tissue; in the noise of empty resin they do not."""
    both = mask[:, 1:] & mask[:, :-1]
    a, b = image[:, 1:][both].double(), image[:, :-1][both].double()
    if a.numel() < 2:
        return False
    a, b = a - a.mean(), b - b.mean()
    norm = (a.square().sum() * b.square().sum()).sqrt()
    return bool((a * b).sum() > _LEAST_STRUCTURE * norm) and bool(norm > 0)


def _match_blocks(a: Tensor, b: Tensor) -> Tensor:
    """Find smooth displacements `(2, y, x)`, px of the images, with b(p + shift(p)) ≈ a(p), at half scale.

    The error of the coarse alignment is larger than the search of the patches, but it varies slowly.
    """
    small_a, small_b = pool(a, 2), pad(pool(b, 2)[None], [_MAX_SHIFT] * 4, mode="replicate")[0]
    height, width = small_a.shape
    best = torch.full_like(pool(small_a, _BLOCK), torch.inf)
    shift = torch.zeros_like(best).repeat(2, 1, 1)
    for dy in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
        for dx in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
            y, x = dy + _MAX_SHIFT, dx + _MAX_SHIFT
            squares = (small_b[y : y + height, x : x + width] - small_a).square()
            error = _box(pool(squares, _BLOCK)[None], _SMOOTHED_BLOCKS)[0]
            better = error < best
            best = torch.minimum(best, error)
            shift[0].masked_fill_(better, dy)
            shift[1].masked_fill_(better, dx)
    smooth = _box(shift, _SMOOTHED_BLOCKS)
    enlarged = interpolate(smooth[None], scale_factor=2 * _BLOCK, mode="bilinear")[0]
    return 2.0 * enlarged[:, : a.shape[0], : a.shape[1]]


def _cues(
    images: Tensor, *, known: Tensor, z: int, shifts: dict[tuple[int, int], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure how far each px of section z differs from all its neighbours; infinite without any.

    Args:
        images: normalised sections `(z, y, x)`.
        known: px that are judged.
        z: index of the section.
        shifts: cache of the displacements between pairs of sections, which is filled.

    Returns:
        `(y, x)` each: the rms difference of the px's patch from the most similar patch of any near neighbour; how much
        darker and how much brighter the px is than anything nearby in every neighbour.
    """
    section, grid = images[z], Grid((images.shape[1], images.shape[2]), 1.0)
    positions, smooth = grid.positions(), _box(images[z][None], _SMOOTH)[0]
    mismatch, darker, brighter = (torch.full_like(section, torch.inf) for _ in range(3))
    for other in range(max(0, z - Z_REACH), min(len(images), z + Z_REACH + 1)):
        if other == z or not bool(known[other].any()):
            continue
        pair = min(z, other), max(z, other)
        if pair not in shifts:
            shifts[pair] = _match_blocks(images[pair[0]], images[pair[1]])
        shifted = positions + (shifts[pair] if z < other else -shifts[pair])
        warped, inside = sample_image(
            torch.stack([images[other], known[other].float()]), grid=grid, positions=shifted, kind="bilinear"
        )
        # A neighbour counts only where all px within the search are tissue.
        outside = _local_maximum(_local_maximum((~inside | (warped[1] < 0.99)).float()[None]))[0] > 0
        ignored = torch.where(outside, torch.inf, 0.0)
        near = _box(warped[:1], _SMOOTH)
        darker = torch.minimum(darker, -_local_maximum(-near)[0] - smooth + ignored)
        brighter = torch.minimum(brighter, smooth - _local_maximum(near)[0] + ignored)
        if abs(z - other) <= _PATCH_Z_REACH:
            mismatch = torch.minimum(mismatch, _patch_error(section, warped[0]) + ignored)
    return mismatch, darker, brighter


def _patch_error(a: Tensor, b: Tensor) -> Tensor:
    """Compute the rms difference of each px's patch of `a` from the most similar patch of `b` within the search."""
    height, width = a.shape
    padded = pad(b[None], [_SEARCH] * 4, mode="replicate")[0]
    best = torch.full_like(a, torch.inf)
    for dy in range(2 * _SEARCH + 1):
        for dx in range(2 * _SEARCH + 1):
            error = _box((padded[dy : dy + height, dx : dx + width] - a).square()[None], _PATCH)[0]
            torch.minimum(best, error, out=best)
    return best.sqrt()


def _local_maximum(values: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
    """Take the maximum within the search about each px."""
    rows = max_pool2d(values, (2 * _SEARCH + 1, 1), stride=1, padding=(_SEARCH, 0))
    maximum: Tensor = max_pool2d(rows, (1, 2 * _SEARCH + 1), stride=1, padding=(0, _SEARCH))
    return maximum


def _spread(cue: Tensor, known: Tensor) -> Tensor:
    """Measure the distance from the median to the 90th percentile over the stack."""
    values = cue[known & torch.isfinite(cue)]
    if not values.numel():
        return cue.new_tensor(1.0)
    middle, high = _quantiles(values, (0.5, 0.9))
    spread: Tensor = (high - middle).clamp(min=1e-6)
    return spread


def _standardise(cue: Tensor, judged: Tensor, *, spread: Tensor) -> Tensor:
    """Subtract the section's own median, and divide by its own spread or the stack's, whichever is larger."""
    middle, high = _quantiles(cue[judged], (0.5, 0.9))
    scaled = (cue - middle) / torch.maximum(high - middle, spread)
    return torch.where(judged, scaled.clamp(_MIN_CUE, _MAX_CUE), torch.zeros_like(scaled))


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> Tensor:
    step = max(1, values.numel() // _QUANTILE_SAMPLE)
    return torch.quantile(values[::step], values.new_tensor(shares))


def _max_line_mean(values: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """Take the largest mean over lines of all directions through each px; computed at half scale."""
    small = pool(values, 2)
    kernels = _line_kernels()
    reach = kernels.shape[-1] // 2
    padded = pad(small[None], [reach] * 4, mode="replicate")[0]
    spectrum = torch.fft.rfft2(padded)
    best = torch.full_like(small, -torch.inf)
    for kernel in kernels:
        out = torch.fft.irfft2(spectrum * torch.fft.rfft2(kernel, s=padded.shape), s=padded.shape)
        best = torch.maximum(best, out[2 * reach :, 2 * reach :])
    return interpolate(best[None, None], scale_factor=2, mode="bilinear")[0, 0, : values.shape[0], : values.shape[1]]


@lru_cache(maxsize=1)
def _line_kernels() -> Tensor:
    """Make one kernel per direction, `(directions, side, side)`, each of sum 1; px of half scale."""
    reach = _LINE // 2 + 1
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    kernels = []
    for i in range(_DIRECTIONS):
        angle = math.pi * i / _DIRECTIONS
        across, along = y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)
        kernel = (1.0 - across.abs()).clamp(0, 1) * (0.5 + _LINE / 2 - along.abs()).clamp(0, 1)
        kernels.append(kernel / kernel.sum())
    return torch.stack(kernels)


def _hysteresis(values: AnyArray) -> BoolArray:
    """Select pieces above the lower threshold that exceed the upper one somewhere and are not small."""
    labels, count = ndimage.label(values > _GROW_THRESHOLD, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(values.shape, dtype=bool)
    index = np.arange(1, count + 1)
    kept = (ndimage.maximum(values, labels, index) > _SEED_THRESHOLD) & (np.bincount(labels.ravel())[1:] >= _LEAST_AREA)
    return np.asarray(np.concatenate([[False], kept])[labels])


def _classify_pieces(damaged: BoolArray) -> AnyArray:
    """Give each piece of a mask its code: long and narrow ones are tears."""
    labels, _ = ndimage.label(damaged, structure=np.ones((3, 3)))
    codes = np.zeros(damaged.shape, dtype=np.uint8)
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        piece = labels[box] == i
        length = math.hypot(*piece.shape)
        tear = length >= _LEAST_TEAR_LENGTH and length**2 >= _LEAST_TEAR_ELONGATION * np.count_nonzero(piece)
        codes[box][piece] = TEAR if tear else DAMAGED
    return codes


def _box(values: Tensor, side: int) -> Tensor:
    """Average `(n, y, x)` over squares about each px; at the border, over the part inside."""
    rows = avg_pool2d(values[:, None], (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)
    means: Tensor = avg_pool2d(rows, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
    return means[:, 0]
