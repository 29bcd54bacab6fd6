"""Damage of sections, found without labels: what a section shows and none of its neighbours does.

Codes of a mask: 0 tissue; 1 empty; 2 damaged (no data term); 3 tear, a fold or a crack (no data term, and no smoothness
across). In a stack of coarse-aligned sections a place is out of the ordinary where, within the few px that coarse
alignment leaves, (a) no neighbour has a patch like it, and (b) it is darker (or brighter) than anything in *all* of its
neighbours. Single pixels of sound tissue do that too, as it changes from section to section; a stretch of it does not.
So both cues are summed and averaged along short lines in all directions (folds, cracks) and over discs (dust, stains),
and what stands out strongly is followed to where it stands out no more. Elongated pieces are tears.

Laws: a gain and an offset of any section, and the inversion of all of them, change nothing; a section that differs from
its neighbours as a whole is not damaged, since cues count relative to the section's own median.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool
from ssem_dask.types import AnyArray, BoolArray

TISSUE, EMPTY, DAMAGED, TEAR = 0, 1, 2, 3
"""Codes of a mask."""
PIXEL = 20.0
"""nm per px that the lengths below are meant for; detection works at the mip nearest to it."""
REACH = 3
"""Sections to either side that a section is compared with."""
HALO = 64
"""px around a window that its masks depend on."""

_MATCHED = 2  # sections to either side whose patches are compared: by far the dearest part
_SEARCH = 2  # px
_RIM = 4  # px along the border of tissue that are not judged
_RANGE = 4  # px of 40 nm: what coarse alignment may leave …
_BLOCK, _BLOCKS = 4, 5  # … found by squares of so many blocks of so many px of 40 nm
_PATCH = 5  # px
_SMOOTH = 3  # px
_CLIP = 3.0  # of a normalised intensity: beyond, black is black
_LOWEST, _HIGHEST = -2.0, 6.0  # of a cue: one striking px shall not make a line
_LINE, _DIRECTIONS = 21, 16  # px of 40 nm
_DISC = 9  # px
_SEED, _GROW = 2.8, 1.7  # of both cues' sum, in units of the distance from its median to its 90th percentile
_LEAST_AREA = 40  # px of a piece
_LEAST_TEAR, _ELONGATED = 50.0, 4.0  # px, and length : mean width
_STRUCTURE = 0.3  # correlation of adjacent px below which a section shows noise only
_SAMPLE = 1 << 16  # px from which quantiles are taken


def find_damage(images: Tensor, *, tissue: Tensor, core: range) -> Tensor:
    """Masks of the core's sections.

    Args:
        images: `(z, y, x)` float32, coarse-aligned neighbour sections, px of about 20 nm, any intensity unit.
        tissue: `(z, y, x)` bool, False in empty space.
        core: indices of the sections whose masks are wanted.

    Returns:
        uint8 `(len(core), y, x)`, codes as above. Without any neighbour that shows tissue nothing but empty space is
        told.
    """
    shows = [
        bool(seen.float().mean() > 0.01) and _structured(image, seen)
        for image, seen in zip(images, tissue, strict=True)
    ]
    codes = (~tissue[core.start : core.stop]).to(torch.uint8) * EMPTY
    normalised = torch.stack([_normalised(image, seen) for image, seen in zip(images, tissue, strict=True)])
    # At the border of tissue a px is half of what lies beyond; and nearly everything at the frame of an image is.
    beyond = pad((~tissue).float(), [_RIM] * 4, value=1.0)
    beyond = _highest(_highest(beyond))[:, _RIM:-_RIM, _RIM:-_RIM]
    known = (beyond == 0) & torch.tensor(shows)[:, None, None]
    shifts: dict[tuple[int, int], Tensor] = {}
    cues = [torch.stack(_cues(normalised, known=known, z=z, shifts=shifts)) for z in core]
    scales = [_spread(torch.stack([cue[c] for cue in cues]), known[core.start : core.stop]) for c in range(3)]
    for i, z in enumerate(core):
        if not shows[z]:
            codes[i] = EMPTY
            continue
        seen = known[z] & torch.isfinite(cues[i]).all(dim=0)
        if not bool(seen.any()):
            continue
        unlike, dark, bright = (
            _standardised(cue, seen, spread=spread) for cue, spread in zip(cues[i], scales, strict=True)
        )
        found = np.zeros(seen.shape, dtype=bool)
        for sum_ in (unlike + dark, unlike + bright):
            pieces = _hysteresis(_line_means(sum_).numpy()) | _hysteresis(_box(sum_[None], _DISC)[0].numpy())
            # Means reach beyond what they are of: near a strong line, lines that merely cross it stand out too.
            striking = _highest((_box(sum_[None], _SMOOTH) > _GROW).float())[0] > 0
            found |= pieces & striking.numpy()
        codes[i] = torch.where(tissue[z], torch.from_numpy(_coded(found & seen.numpy())), codes[i])
    return codes


def reduced(codes: AnyArray, *, factor: int) -> AnyArray:
    """Masks `(z, y, x)` with pixels `factor` times as large: the highest code that occurs in each."""
    z, y, x = codes.shape
    padded = np.pad(codes, ((0, 0), (0, -y % factor), (0, -x % factor)))
    blocks = padded.reshape(z, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    return np.asarray(blocks.max(axis=(2, 4)))


def _normalised(image: Tensor, seen: Tensor) -> Tensor:
    """0 at the median, -1 and 1 at the 10th and 90th percentile: so gain, offset and, mostly, gamma cancel."""
    if not bool(seen.any()):
        return torch.zeros_like(image)
    low, middle, high = _quantiles(image[seen], (0.1, 0.5, 0.9))
    offset = image - middle
    least = 1e-6 + 0.05 * (high - low)
    scaled = torch.where(
        offset < 0, offset / (middle - low).clamp(min=least), offset / (high - middle).clamp(min=least)
    )
    return torch.where(seen, scaled.clamp(-_CLIP, _CLIP), torch.zeros_like(scaled))


def _structured(image: Tensor, seen: Tensor) -> bool:
    """Whether adjacent px resemble each other, as in tissue; not in the noise of empty resin."""
    both = seen[:, 1:] & seen[:, :-1]
    a, b = image[:, 1:][both].double(), image[:, :-1][both].double()
    if a.numel() < 2:
        return False
    a, b = a - a.mean(), b - b.mean()
    norm = (a.square().sum() * b.square().sum()).sqrt()
    return bool((a * b).sum() > _STRUCTURE * norm) and bool(norm > 0)


def _shift(a: Tensor, b: Tensor) -> Tensor:
    """Smooth displacements `(2, y, x)`, px of the images, with b(p + shift(p)) ≈ a(p): block matching at half scale.

    Coarse alignment leaves more than the patches' own search reaches, but it varies slowly.
    """
    small_a, small_b = pool(a, 2), pad(pool(b, 2)[None], [_RANGE] * 4, mode="replicate")[0]
    height, width = small_a.shape
    best = torch.full_like(pool(small_a, _BLOCK), torch.inf)
    found = torch.zeros_like(best).repeat(2, 1, 1)
    for dy in range(-_RANGE, _RANGE + 1):
        for dx in range(-_RANGE, _RANGE + 1):
            y, x = dy + _RANGE, dx + _RANGE
            error = _box(pool((small_b[y : y + height, x : x + width] - small_a).square(), _BLOCK)[None], _BLOCKS)[0]
            better = error < best
            best = torch.minimum(best, error)
            found[0].masked_fill_(better, dy)
            found[1].masked_fill_(better, dx)
    smooth = _box(found, _BLOCKS)
    enlarged = interpolate(smooth[None], scale_factor=2 * _BLOCK, mode="bilinear")[0]
    return 2.0 * enlarged[:, : a.shape[0], : a.shape[1]]


def _cues(
    images: Tensor, *, known: Tensor, z: int, shifts: dict[tuple[int, int], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """What sets each px of section z apart from all its neighbours, `(y, x)` each; infinite where there are none.

    Returns:
        The rms difference of the patch about it from the most similar one of any near neighbour, and how much darker
        and how much brighter it is than anything nearby in every neighbour.
    """
    own, grid = images[z], Grid((images.shape[1], images.shape[2]), 1.0)
    positions, smooth = grid.positions(), _box(images[z][None], _SMOOTH)[0]
    mismatch, darker, brighter = (torch.full_like(own, torch.inf) for _ in range(3))
    for other in range(max(0, z - REACH), min(len(images), z + REACH + 1)):
        if other == z or not bool(known[other].any()):
            continue
        pair = min(z, other), max(z, other)
        if pair not in shifts:
            shifts[pair] = _shift(images[pair[0]], images[pair[1]])
        where = positions + (shifts[pair] if z < other else -shifts[pair])
        warped, inside = sample_image(
            torch.stack([images[other], known[other].float()]), grid=grid, positions=where, kind="bilinear"
        )
        # A neighbour says something only where all that is looked at there is tissue.
        beyond = _highest(_highest((~inside | (warped[1] < 0.99)).float()[None]))[0] > 0
        unseen = torch.where(beyond, torch.inf, 0.0)
        near = _box(warped[:1], _SMOOTH)
        darker = torch.minimum(darker, -_highest(-near)[0] - smooth + unseen)
        brighter = torch.minimum(brighter, smooth - _highest(near)[0] + unseen)
        if abs(z - other) <= _MATCHED:
            mismatch = torch.minimum(mismatch, _patch_error(own, warped[0]) + unseen)
    return mismatch, darker, brighter


def _patch_error(a: Tensor, b: Tensor) -> Tensor:
    """rms difference of the patch about each px of `a` from the nearest patch of `b` within the search."""
    height, width = a.shape
    padded = pad(b[None], [_SEARCH] * 4, mode="replicate")[0]
    best = torch.full_like(a, torch.inf)
    for dy in range(2 * _SEARCH + 1):
        for dx in range(2 * _SEARCH + 1):
            error = _box((padded[dy : dy + height, dx : dx + width] - a).square()[None], _PATCH)[0]
            torch.minimum(best, error, out=best)
    return best.sqrt()


def _highest(values: Tensor) -> Tensor:
    """The highest value within the search about each px of `(n, y, x)`."""
    rows = max_pool2d(values, (2 * _SEARCH + 1, 1), stride=1, padding=(_SEARCH, 0))
    highest: Tensor = max_pool2d(rows, (1, 2 * _SEARCH + 1), stride=1, padding=(0, _SEARCH))
    return highest


def _spread(cue: Tensor, known: Tensor) -> Tensor:
    """Distance from the median to the 90th percentile over the stack."""
    values = cue[known & torch.isfinite(cue)]
    if not values.numel():
        return cue.new_tensor(1.0)
    middle, high = _quantiles(values, (0.5, 0.9))
    spread: Tensor = (high - middle).clamp(min=1e-6)
    return spread


def _standardised(cue: Tensor, seen: Tensor, *, spread: Tensor) -> Tensor:
    """Relative to the section's own median, in units of its own spread or the stack's, whichever is larger."""
    middle, high = _quantiles(cue[seen], (0.5, 0.9))
    scaled = (cue - middle) / torch.maximum(high - middle, spread)
    return torch.where(seen, scaled.clamp(_LOWEST, _HIGHEST), torch.zeros_like(scaled))


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> Tensor:
    step = max(1, values.numel() // _SAMPLE)
    return torch.quantile(values[::step], values.new_tensor(shares))


def _line_means(values: Tensor) -> Tensor:
    """The largest mean over a line through each px `(y, x)`, of all directions; made at half scale."""
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
    """`(directions, side, side)`, each of sum 1; px of half scale."""
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
    """Pieces above `_GROW` that reach `_SEED`, and are not small."""
    labels, count = ndimage.label(values > _GROW, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(values.shape, dtype=bool)
    index = np.arange(1, count + 1)
    kept = (ndimage.maximum(values, labels, index) > _SEED) & (np.bincount(labels.ravel())[1:] >= _LEAST_AREA)
    return np.asarray(np.concatenate([[False], kept])[labels])


def _coded(found: BoolArray) -> AnyArray:
    """Codes of the pieces of a mask: long and narrow ones are tears."""
    labels, _ = ndimage.label(found, structure=np.ones((3, 3)))
    codes = np.zeros(found.shape, dtype=np.uint8)
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        piece = labels[box] == i
        length = math.hypot(*piece.shape)
        tear = length >= _LEAST_TEAR and length**2 >= _ELONGATED * np.count_nonzero(piece)
        codes[box][piece] = TEAR if tear else DAMAGED
    return codes


def _box(values: Tensor, side: int) -> Tensor:
    """Mean over squares about each px of `(n, y, x)`; at the border, over the part that lies inside."""
    rows = avg_pool2d(values[:, None], (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)
    means: Tensor = avg_pool2d(rows, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
    return means[:, 0]
