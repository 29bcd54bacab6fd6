"""Rigid shift and rotation between two small images by masked, whitened correlation.

Positions here are px of the images, with the pixel centres of C3. Rotating the moving image by θ about its centre c
gives moving(R_θ(p - c) + c); the peak of its correlation with the fixed image at shift s says that
fixed(p) ≈ moving(R_θ(p + s - c) + c).

The score of a candidate is its normalised correlation times the root of the overlap: for images that do not match it
has the same spread at every overlap, so small overlaps win by chance no more often than large ones.

Source: Padfield, IEEE TIP 2012, doi:10.1109/TIP.2011.2181402 (correlation under masks, normalised by the overlap).
"""

import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import grid_sample

from ssem_dask.types import PointYX, ShapeYX

CHANCE = 5.3
"""Standard deviations of the score, over all candidates but the best, that a best candidate may reach by chance: of
240 unrelated pairs of real sections half reached 4.2, one in a hundred 5.6, none 6.6 (docs/accuracy.md)."""


@dataclass(frozen=True, slots=True)
class RigidPeak:
    """The best rotation and shift."""

    angle: float
    """Degrees; positive turns y towards x."""
    shift: PointYX
    """s above, px."""
    ratio: float
    """Score of this peak : the highest score elsewhere, or what chance reaches where that is more."""


@dataclass(frozen=True, slots=True)
class Turned:
    """Spectra of an image at several angles: all that the moving section contributes to a search."""

    angles: Tensor
    """`(n,)` degrees, rising; runs of equal steps."""
    spectra: Tensor
    """`(n, 3, y, x)` complex: of the image, its square and its mask."""
    area: float
    """Pixels in the mask."""


@dataclass(frozen=True, slots=True)
class Still:
    """Conjugate spectra of an image: all that the fixed section contributes to a search."""

    spectra: Tensor
    """`(3, y, x)` complex: of the image, its square and its mask."""
    area: float
    """Pixels in the mask."""


def whiten(image: Tensor, *, mask: Tensor, exponent: float) -> Tensor:
    """Divide the spectrum by its magnitude to the power `exponent` (0: nothing, 1: phase only); 0 off the mask."""
    spectrum = torch.fft.rfft2(image)
    magnitude = spectrum.abs()
    floor = 1e-3 * magnitude.mean() + torch.finfo(image.dtype).tiny
    flat = torch.fft.irfft2(spectrum / (magnitude + floor) ** exponent, s=tuple(image.shape))
    return torch.where(mask, flat, torch.zeros_like(flat))


def still_spectra(image: Tensor, *, mask: Tensor, reach: ShapeYX) -> Still:
    """Prepare `image` `(y, x)`, of mean about 0 and 0 off its mask, for shifts up to `reach` px."""
    spectra = torch.fft.rfft2(_channels(image, mask), s=_padded(image.shape, reach)).conj()
    return Still(spectra=spectra.resolve_conj(), area=float(mask.sum()))


def turned_spectra(image: Tensor, *, mask: Tensor, angles: Tensor, reach: ShapeYX) -> Turned:
    """The same at each of `angles` `(n,)`, degrees."""
    rotated, inside = rotate_about_centre(image, mask=mask, angles=angles)
    spectra = torch.fft.rfft2(_channels(rotated, inside), s=_padded(image.shape, reach))
    return Turned(angles=angles, spectra=spectra, area=float(mask.sum()))


def scores(
    still: Still, turned: Turned, *, shape: ShapeYX, reach: ShapeYX, min_overlap: float
) -> tuple[Tensor, Tensor]:
    """Score of every candidate, and which have enough overlap; both `(n, 2·reach_y + 1, 2·reach_x + 1)`.

    Args:
        still: of the fixed image.
        turned: of the moving one.
        shape: of both images.
        reach: largest shift, px; index (reach + s) holds Σ_p fixed(p) moving(p + s), normalised.
        min_overlap: least share of the smaller mask that must overlap.
    """
    f, m = still.spectra, turned.spectra
    products = torch.stack([f[0] * m[:, 0], f[1] * m[:, 2], f[2] * m[:, 1], f[2] * m[:, 2]])
    # One axis after the other: of the first one's result only the rows of shifts within reach are transformed on.
    rows = _centre(torch.fft.ifft(products, dim=-2), reach[0], dim=-2)
    columns = torch.fft.irfft(rows, n=_padded(shape, reach)[1])
    product, f_energy, m_energy, overlap = _centre(columns, reach[1], dim=-1)
    energy = (f_energy * m_energy).clamp(min=0.0).sqrt()
    least = max(min_overlap * min(still.area, turned.area), 1.0)
    enough = (overlap > least) & (energy > 1e-6 * energy.max())
    score = product / energy.clamp(min=1e-12) * overlap.clamp(min=0.0).sqrt()
    return torch.where(enough, score, torch.zeros_like(score)), enough


def best_peak(
    score: Tensor, enough: Tensor, *, angles: Tensor, reach: ShapeYX, side: int, allowed: Tensor | None
) -> RigidPeak | None:
    """The best candidate, between the sampled ones, and how far it stands out.

    Args:
        score: as from `scores`.
        enough: as from `scores`.
        angles: `(n,)` degrees.
        reach: largest shift, px.
        side: longer side of the images, px.
        allowed: bool, the shape of `score`: where the best candidate may lie; all count as what it is compared with.

    Returns:
        None where no allowed candidate is better than chance's mean.
    """
    open_to_it = score if allowed is None else torch.where(allowed, score, torch.zeros_like(score))
    _, h, w = score.shape
    best = int(open_to_it.argmax())
    a, i, j = best // (h * w), best // w % h, best % w
    peak = float(open_to_it[a, i, j])
    if peak <= 0:
        return None
    rest = score[_far(a, i, j, angles=angles, shape=(h, w), side=side) & enough]
    second, noise = (float(rest.max()), float(rest.std())) if rest.numel() > 1 else (0.0, 0.0)
    dy, dx = _parabola_2d(score[a], i, j)
    return RigidPeak(
        angle=float(angles[a]) + _angle_offset(score, a, i, j, angles=angles),
        shift=(i - reach[0] + dy, j - reach[1] + dx),
        ratio=peak / max(second, CHANCE * noise, 1e-3 * peak),
    )


def rotate_about_centre(image: Tensor, *, mask: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """The images moving(R_θ(p - c) + c) `(n, y, x)` for each angle, and their masks."""
    h, w = image.shape
    radians = torch.deg2rad(angles.double())
    cos, sin = radians.cos(), radians.sin()
    y = torch.arange(h, dtype=torch.float64, device=image.device)[:, None] + 0.5 - h / 2
    x = torch.arange(w, dtype=torch.float64, device=image.device)[None, :] + 0.5 - w / 2
    rows = cos[:, None, None] * y - sin[:, None, None] * x
    columns = sin[:, None, None] * y + cos[:, None, None] * x
    query = torch.stack([columns * (2 / w), rows * (2 / h)], dim=-1).to(image.dtype)  # grid_sample takes (x, y)
    stacked = torch.stack([image, mask.to(image.dtype)])[None].expand(len(angles), -1, -1, -1)
    out = grid_sample(stacked, query, mode="bilinear", padding_mode="zeros", align_corners=False)
    inside = out[:, 1] > 0.75
    return out[:, 0] * inside, inside


def _channels(image: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([image, image**2, mask.to(image.dtype)], dim=-3)


def _padded(shape: ShapeYX | torch.Size, reach: ShapeYX) -> ShapeYX:
    """Size of the transforms: what is cut out of the circular correlation is free of wrapping."""
    return next_fast_len(shape[0] + reach[0], real=True), next_fast_len(shape[1] + reach[1], real=True)


def _centre(values: Tensor, reach: int, *, dim: int) -> Tensor:
    """Cut shifts -reach … reach out of a circular correlation, along an axis."""
    first = values.narrow(dim, 0, reach + 1)
    return torch.cat([values.narrow(dim, values.shape[dim] - reach, reach), first], dim=dim)


def _far(a: int, i: int, j: int, *, angles: Tensor, shape: ShapeYX, side: int) -> Tensor:
    """Which candidates lie outside the neighbourhood of one, in shift and angle.

    The neighbourhood is wide in angle for near shifts, since a wrong angle still matches about one point of the
    section.
    """
    near = max(3.0, side / 16)
    rows = torch.arange(shape[0], device=angles.device)[:, None] - i
    columns = torch.arange(shape[1], device=angles.device)[None, :] - j
    turn = torch.deg2rad((angles - angles[a]).abs()) * side / 2
    return torch.hypot(rows.float(), columns.float())[None] > near + turn[:, None, None]


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


def _angle_offset(score: Tensor, a: int, i: int, j: int, *, angles: Tensor) -> float:
    """Parabolic offset in degrees; the shift may move by a few px between neighbouring angles."""
    if not 0 < a < len(angles) - 1:
        return 0.0
    step, after = float(angles[a] - angles[a - 1]), float(angles[a + 1] - angles[a])
    if not math.isclose(step, after, rel_tol=1e-3):
        return 0.0  # between the upright angles and those turned by 180°
    around = score[a - 1 : a + 2, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].amax(dim=(1, 2))
    return step * _parabola(float(around[0]), float(around[1]), float(around[2]))
