"""Rigid shift and rotation between two small images, by masked and whitened cross-correlation.

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
from jaxtyping import Bool, Complex, Float
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import grid_sample

from ssem_dask.types import PointYX, ShapeYX

CHANCE_DEVIATIONS = 5.3
"""Score that a best candidate may reach by chance, in standard deviations of the score over all other candidates: of
240 unrelated pairs of real sections half reached 4.2, one in a hundred 5.6, none 6.6 (docs/accuracy.md)."""


@dataclass(frozen=True, slots=True)
class RigidPeak:
    """The best rotation and shift."""

    angle: float
    """Degrees; positive turns y towards x."""
    shift: PointYX
    """Shift s as above, px."""
    ratio: float
    """Score of this peak over the highest score elsewhere, or over what chance reaches if that is more."""


@dataclass(frozen=True, slots=True)
class MovingSpectra:
    """Spectra of an image at several angles: all that the moving section contributes to a search."""

    angles: Float[Tensor, "n"]
    """Degrees, rising; runs of equal steps."""
    spectra: Complex[Tensor, "n 3 y x"]
    """Spectra of the image, its square and its mask."""
    area: float
    """Pixels in the mask."""


@dataclass(frozen=True, slots=True)
class FixedSpectra:
    """Conjugate spectra of an image: all that the fixed section contributes to a search."""

    spectra: Complex[Tensor, "3 y x"]
    """Spectra of the image, its square and its mask."""
    area: float
    """Pixels in the mask."""


def whiten(image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"], exponent: float) -> Float[Tensor, "y x"]:
    """Divide the spectrum by its magnitude to the power `exponent` (0: nothing, 1: phase only); 0 off the mask."""
    spectrum = torch.fft.rfft2(image)
    magnitude = spectrum.abs()
    floor = 1e-3 * magnitude.mean() + torch.finfo(image.dtype).tiny
    flat = torch.fft.irfft2(spectrum / (magnitude + floor) ** exponent, s=tuple(image.shape))
    return torch.where(mask, flat, torch.zeros_like(flat))


def fixed_spectra(image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"], max_shift: ShapeYX) -> FixedSpectra:
    """Transform the fixed image, of mean about 0 and 0 off its mask, for shifts up to `max_shift` px."""
    spectra = torch.fft.rfft2(_channels(image, mask), s=_padded_shape(image.shape, max_shift)).conj()
    return FixedSpectra(spectra=spectra.resolve_conj(), area=float(mask.sum()))


def moving_spectra(
    image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"], angles: Float[Tensor, "n"], max_shift: ShapeYX
) -> MovingSpectra:
    """Transform the moving image rotated by each of `angles`, degrees, for shifts up to `max_shift` px."""
    rotated, inside = rotate_about_centre(image, mask=mask, angles=angles)
    spectra = spectra_of(rotated, inside, max_shift=max_shift)
    return MovingSpectra(angles=angles, spectra=spectra, area=float(mask.sum()))


def spectra_of(
    images: Float[Tensor, "n y x"], masks: Bool[Tensor, "n y x"], *, max_shift: ShapeYX
) -> Complex[Tensor, "n 3 v u"]:
    """Transform moving images, 0 off their masks, for shifts up to `max_shift` px."""
    shape = (images.shape[-2], images.shape[-1])
    spectra: Tensor = torch.fft.rfft2(_channels(images, masks), s=_padded_shape(shape, max_shift))
    return spectra


def score_candidates(
    fixed: FixedSpectra, moving: MovingSpectra, *, shape: ShapeYX, max_shift: ShapeYX, min_overlap: float
) -> tuple[Float[Tensor, "n shifts_y shifts_x"], Bool[Tensor, "n shifts_y shifts_x"]]:
    """Score every rotation and shift.

    Args:
        fixed: spectra of the fixed image.
        moving: spectra of the moving image.
        shape: (y, x) of both images.
        max_shift: largest shift, px; index (max_shift + s) holds Σ_p fixed(p) moving(p + s), normalised.
        min_overlap: least share of the smaller mask that must overlap.

    Returns:
        The scores of all angles and of the 2·max_shift + 1 shifts of each axis, and which have enough overlap.
    """
    f, m = fixed.spectra, moving.spectra
    products = torch.stack([f[0] * m[:, 0], f[1] * m[:, 2], f[2] * m[:, 1], f[2] * m[:, 2]])
    # One axis after the other: only rows of shifts up to the largest one are transformed along the second axis.
    rows = _crop_shifts(torch.fft.ifft(products, dim=-2), max_shift[0], dim=-2)
    columns = torch.fft.irfft(rows, n=_padded_shape(shape, max_shift)[1])
    product, f_energy, m_energy, overlap = _crop_shifts(columns, max_shift[1], dim=-1)
    energy = (f_energy * m_energy).clamp(min=0.0).sqrt()
    least = max(min_overlap * min(fixed.area, moving.area), 1.0)
    enough = (overlap > least) & (energy > 1e-6 * energy.max())
    score = product / energy.clamp(min=1e-12) * overlap.clamp(min=0.0).sqrt()
    return torch.where(enough, score, torch.zeros_like(score)), enough


def find_best_peak(
    score: Float[Tensor, "n shifts_y shifts_x"],
    enough: Bool[Tensor, "n shifts_y shifts_x"],
    *,
    angles: Float[Tensor, "n"],
    max_shift: ShapeYX,
    side: int,
    allowed: Bool[Tensor, "n shifts_y shifts_x"] | None,
) -> RigidPeak | None:
    """Find the best candidate, interpolated between the sampled ones, and its lead over the others.

    Args:
        score: scores from `score_candidates`.
        enough: candidates with enough overlap, from `score_candidates`.
        angles: degrees.
        max_shift: largest shift, px.
        side: longer side of the images, px.
        allowed: candidates that may be the best one; it is compared with all. None: any.

    Returns:
        The peak; None if no allowed candidate has a positive score.
    """
    allowed_score = score if allowed is None else torch.where(allowed, score, torch.zeros_like(score))
    _, h, w = score.shape
    best = int(allowed_score.argmax())
    a, i, j = best // (h * w), best // w % h, best % w
    peak = float(allowed_score[a, i, j])
    if peak <= 0:
        return None
    others = score[_far_from(a, i, j, angles=angles, shape=(h, w), side=side) & enough]
    second, noise = (float(others.max()), float(others.std())) if others.numel() > 1 else (0.0, 0.0)
    dy, dx = _parabola_2d(score[a], i, j)
    return RigidPeak(
        angle=float(angles[a]) + _angle_offset(score, a, i, j, angles=angles),
        shift=(i - max_shift[0] + dy, j - max_shift[1] + dx),
        ratio=peak / max(second, CHANCE_DEVIATIONS * noise, 1e-3 * peak),
    )


def rotate_about_centre(
    image: Float[Tensor, "y x"], *, mask: Bool[Tensor, "y x"], angles: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n y x"], Bool[Tensor, "n y x"]]:
    """Compute the images moving(R_θ(p - c) + c) for each angle, and their masks."""
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
    """Stack image, square and mask: their products give correlation, energies and overlap (Padfield 2012)."""
    return torch.stack([image, image**2, mask.to(image.dtype)], dim=-3)


def _padded_shape(shape: ShapeYX | torch.Size, max_shift: ShapeYX) -> ShapeYX:
    """Compute the size of the transforms: the shifts that are cut out of the circular correlation do not wrap."""
    return next_fast_len(shape[0] + max_shift[0], real=True), next_fast_len(shape[1] + max_shift[1], real=True)


def _crop_shifts(values: Tensor, max_shift: int, *, dim: int) -> Tensor:
    """Cut shifts -max_shift … max_shift out of a circular correlation, along an axis."""
    first = values.narrow(dim, 0, max_shift + 1)
    return torch.cat([values.narrow(dim, values.shape[dim] - max_shift, max_shift), first], dim=dim)


def _far_from(a: int, i: int, j: int, *, angles: Tensor, shape: ShapeYX, side: int) -> Tensor:
    """Select the candidates outside the neighbourhood of one, in shift and angle.

    The neighbourhood is wide in angle for near shifts, since a wrong angle still matches about one point of the
    section.
    """
    near = max(3.0, side / 16)
    rows = torch.arange(shape[0], device=angles.device)[:, None] - i
    columns = torch.arange(shape[1], device=angles.device)[None, :] - j
    at_edge = torch.deg2rad((angles - angles[a]).abs()) * side / 2  # px by which the rotation moves the image's edge
    return torch.hypot(rows.float(), columns.float())[None] > near + at_edge[:, None, None]


def _parabola(previous: float, middle: float, following: float) -> float:
    """Compute the offset, in (-1/2, 1/2), of the top of the parabola through three samples."""
    curvature = previous - 2 * middle + following
    if curvature >= 0:
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (previous - following) / curvature))


def _parabola_2d(surface: Tensor, i: int, j: int) -> tuple[float, float]:
    h, w = surface.shape
    at = float(surface[i, j])
    dy = _parabola(float(surface[i - 1, j]), at, float(surface[i + 1, j])) if 0 < i < h - 1 else 0.0
    dx = _parabola(float(surface[i, j - 1]), at, float(surface[i, j + 1])) if 0 < j < w - 1 else 0.0
    return dy, dx


def _angle_offset(score: Tensor, a: int, i: int, j: int, *, angles: Tensor) -> float:
    """Interpolate the angle, degrees; the best shift may move by a few px between neighbouring angles."""
    if not 0 < a < len(angles) - 1:
        return 0.0
    step, after = float(angles[a] - angles[a - 1]), float(angles[a + 1] - angles[a])
    if not math.isclose(step, after, rel_tol=1e-3):
        return 0.0
    around = score[a - 1 : a + 2, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].amax(dim=(1, 2))
    return step * _parabola(float(around[0]), float(around[1]), float(around[2]))
