"""Rigid shift and rotation between two small images by masked, whitened correlation.

Positions here are thumbnail px with the pixel centres of C3. Rotating the moving image by θ about its centre c gives
moving(R_θ(p - c) + c); the peak of its correlation with the fixed image at shift s says that
fixed(p) ≈ moving(R_θ(p + s - c) + c).

Source: Padfield, IEEE TIP 2012, doi:10.1109/TIP.2011.2181402 (correlation under masks, normalised by the overlap).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from ssem_dask.types import PointYX, ShapeYX

CONTRAST_CLIP = 3.0
"""Local standard deviations at which contrast saturates, so that dirt does not outvote tissue."""


@dataclass(frozen=True, slots=True)
class RigidPeak:
    """The best rotation and shift."""

    angle: float
    """Degrees; positive turns y towards x."""
    shift: PointYX
    """s above, thumbnail px."""
    ratio: float
    """Score of this peak : the highest score elsewhere. About 1.1 where nothing matches."""


def local_contrast(image: Tensor, *, mask: Tensor, radius: int) -> Tensor:
    """Subtract the local mean and divide by the local standard deviation, both over tissue only.

    Args:
        image: `(y, x)` float32, any unit; ignored where the mask is False.
        mask: `(y, x)` bool, True on tissue.
        radius: half side of the window, px.

    Returns:
        `(y, x)`, clipped to ±3, 0 off the mask.
    """
    weight = mask.to(image.dtype)
    count = _box(weight, radius).clamp(min=1e-6)
    known = torch.where(mask, image, torch.zeros_like(image))
    level = known.sum() / weight.sum().clamp(min=1.0)
    centred = (known - level) * weight  # keeps the variance below free of cancellation in float32
    mean = _box(centred, radius) / count
    variance = (_box(centred**2, radius) / count - mean**2).clamp(min=0.0)
    deviation = variance.sqrt()
    if not bool(mask.any()):
        return torch.zeros_like(image)
    # Flat patches (resin, cell bodies) must not be blown up to the contrast of structure.
    floor = 0.25 * deviation[mask].median() + 1e-6
    contrast = (centred - mean) / torch.maximum(deviation, floor)
    return contrast.clamp(-CONTRAST_CLIP, CONTRAST_CLIP) * weight


def _box(values: Tensor, radius: int) -> Tensor:
    """Mean over a square window `(y, x)`, zero beyond the border; one axis at a time."""
    side = 2 * radius + 1
    rows = avg_pool2d(values[None, None], (side, 1), stride=1, padding=(radius, 0))
    return avg_pool2d(rows, (1, side), stride=1, padding=(0, radius))[0, 0]


def whiten(image: Tensor, *, mask: Tensor, exponent: float) -> Tensor:
    """Divide the spectrum by its magnitude to the power `exponent` (0: nothing, 1: phase only); 0 off the mask."""
    spectrum = torch.fft.rfft2(image)
    magnitude = spectrum.abs()
    floor = 1e-3 * magnitude.mean() + torch.finfo(image.dtype).tiny
    flat = torch.fft.irfft2(spectrum / (magnitude + floor) ** exponent, s=tuple(image.shape))
    return torch.where(mask, flat, torch.zeros_like(flat))


def find_rotation_and_shift(
    *,
    fixed: Tensor,
    moving: Tensor,
    fixed_mask: Tensor,
    moving_mask: Tensor,
    angles: Tensor,
    max_shift: PointYX,
    min_overlap: float,
) -> RigidPeak | None:
    """The rotation and shift under which two images agree best.

    The score of a candidate is its normalised correlation times the root of the overlap: for images that do not
    match it has the same spread at every overlap, so small overlaps win by chance no more often than large ones.

    Args:
        fixed: `(y, x)` float32 with mean about 0, for example `whiten(local_contrast(…))`.
        moving: the same shape.
        fixed_mask: `(y, x)` bool.
        moving_mask: `(y, x)` bool.
        angles: `(n,)` degrees, rising in equal steps.
        max_shift: largest |shift| (y, x) searched, px.
        min_overlap: least share of the smaller mask that must overlap.

    Returns:
        The peak, or None where no candidate has enough overlap.
    """
    reach = (math.ceil(max_shift[0]), math.ceil(max_shift[1]))
    rotated, rotated_mask = rotate_about_centre(moving, mask=moving_mask, angles=angles)
    score = _overlap_correlation(
        fixed, rotated, fixed_mask=fixed_mask, moving_masks=rotated_mask, reach=reach, min_overlap=min_overlap
    )
    if not bool((score > 0).any()):
        return None
    n, h, w = score.shape
    best = int(score.argmax())
    a, i, j = best // (h * w), best // w % h, best % w
    dy, dx = _parabola_2d(score[a], i, j)
    step = float(angles[1] - angles[0]) if n > 1 else 0.0
    angle = float(angles[a]) + step * _angle_offset(score, a, i, j)
    second = _second_peak(score, angles=angles, best=(a, i, j), side=max(fixed.shape))
    peak = float(score[a, i, j])
    return RigidPeak(angle=angle, shift=(i - reach[0] + dy, j - reach[1] + dx), ratio=peak / max(second, 1e-3 * peak))


def rotate_about_centre(image: Tensor, *, mask: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """The images moving(R_θ(p - c) + c) `(n, y, x)` for each angle, and their masks."""
    h, w = image.shape
    radians = torch.deg2rad(angles.double())
    cos, sin = radians.cos(), radians.sin()
    y = torch.arange(h, dtype=torch.float64)[:, None] + 0.5 - h / 2
    x = torch.arange(w, dtype=torch.float64)[None, :] + 0.5 - w / 2
    rows = cos[:, None, None] * y - sin[:, None, None] * x
    columns = sin[:, None, None] * y + cos[:, None, None] * x
    query = torch.stack([columns * (2 / w), rows * (2 / h)], dim=-1).to(image.dtype)  # grid_sample takes (x, y)
    stacked = torch.stack([image, mask.to(image.dtype)])[None].expand(len(angles), -1, -1, -1)
    out = grid_sample(stacked, query, mode="bilinear", padding_mode="zeros", align_corners=False)
    inside = out[:, 1] > 0.75
    return out[:, 0] * inside, inside


def _overlap_correlation(
    fixed: Tensor, moving: Tensor, *, fixed_mask: Tensor, moving_masks: Tensor, reach: ShapeYX, min_overlap: float
) -> Tensor:
    """Scores `(n, 2·reach_y + 1, 2·reach_x + 1)`; index (reach + s) holds Σ_p fixed(p) moving(p + s), normalised."""
    h, w = fixed.shape
    size = (_fast_length(h + reach[0]), _fast_length(w + reach[1]))
    f_mask, m_mask = fixed_mask.to(fixed.dtype), moving_masks.to(fixed.dtype)
    f = torch.fft.rfft2(torch.stack([fixed, fixed**2, f_mask]), s=size).conj()
    m = torch.fft.rfft2(torch.stack([moving, moving**2, m_mask]), s=size)
    products = torch.stack([f[0] * m[0], f[1] * m[2], f[2] * m[1], f[2] * m[2]])
    sums = _centre(torch.fft.irfft2(products, s=size), reach)
    product, f_energy, m_energy, overlap = sums
    least = min_overlap * min(float(f_mask.sum()), float(m_mask.sum(dim=(1, 2)).max()))
    energy = (f_energy * m_energy).clamp(min=0.0).sqrt()
    enough = (overlap > max(least, 1.0)) & (energy > 1e-6 * energy.max())
    correlation = product / energy.clamp(min=1e-12)
    return torch.where(enough, correlation * overlap.clamp(min=0.0).sqrt(), torch.zeros_like(product))


def _centre(values: Tensor, reach: ShapeYX) -> Tensor:
    """Cut shifts -reach … reach out of a circular correlation `(…, y, x)`."""
    ry, rx = reach
    rows = torch.cat([values[..., -ry:, :], values[..., : ry + 1, :]], dim=-2) if ry else values[..., :1, :]
    return torch.cat([rows[..., -rx:], rows[..., : rx + 1]], dim=-1) if rx else rows[..., :1]


def _fast_length(n: int) -> int:
    """The next length with prime factors 2, 3 and 5 only."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _second_peak(score: Tensor, *, angles: Tensor, best: tuple[int, int, int], side: int) -> float:
    """Highest score outside the best peak's neighbourhood in shift and angle.

    The neighbourhood is wide in angle for near shifts, since a wrong angle still matches about one point of the
    section.
    """
    a, i, j = best
    near = max(3.0, side / 16)
    rows = torch.arange(score.shape[1])[:, None] - i
    columns = torch.arange(score.shape[2])[None, :] - j
    turn = torch.deg2rad((angles - angles[a]).abs()) * side / 2
    distance = torch.hypot(rows.float(), columns.float())[None]
    outside = distance > near + turn[:, None, None]
    return float(torch.where(outside, score, torch.zeros_like(score)).max())


def _parabola(before: float, at: float, after: float) -> float:
    """Offset in (-1/2, 1/2) of the top of the parabola through three samples."""
    curvature = before - 2 * at + after
    if curvature >= 0:
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (before - after) / curvature))


def _parabola_2d(surface: Tensor, i: int, j: int) -> tuple[float, float]:
    h, w = surface.shape
    at = float(surface[i, j])
    dy = _parabola(float(surface[i - 1, j]), at, float(surface[i + 1, j])) if 0 < i < h - 1 else 0.0
    dx = _parabola(float(surface[i, j - 1]), at, float(surface[i, j + 1])) if 0 < j < w - 1 else 0.0
    return dy, dx


def _angle_offset(score: Tensor, a: int, i: int, j: int) -> float:
    """Parabolic offset in angle steps; the shift may move by a few px between neighbouring angles."""
    if not 0 < a < score.shape[0] - 1:
        return 0.0
    around = score[a - 1 : a + 2, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].amax(dim=(1, 2))
    return _parabola(float(around[0]), float(around[1]), float(around[2]))
