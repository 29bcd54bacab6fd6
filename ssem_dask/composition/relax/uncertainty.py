"""How far a section may be off from where it belongs, from the same statistics that its field rests on.

The error of a field is e_z = found - true. Its slow part along z is the same for neighbours and nothing tells it from
biology, so the uncertainty is that of the section *against the course of its neighbours*: the posterior standard
deviation σ_z, px per component (root mean square of dy and dx), of

    e_z - (b e_{z-a} + a e_{z+b}) / (a + b),

with z - a and z + b the nearest sections before and after z that any pair speaks for, no farther away than the
farthest pairs reach; of one side alone e_z - e_{z-a}, and e_z itself where there is neither. It is what jumps out when
one leafs through the aligned sections, and what can be checked against a known deformation.

The variance is in closed form, for each group of affine parameters and each band of spatial frequencies, as long as a
pair is worth the same everywhere: the posterior covariance of d along z, near its diagonal (`banded`).
Summed over the parameters and coefficients it is a variance on the nodes. A section that no pair speaks for may have
any distortion of the usual size, so its variance is that of distortion.

Where the nodes of a section are not worth the same it is an approximation, in three steps.

- A node whose pairs are worth a share s of what the section's are as a whole has the variance v(s) of a volume in which
  all pairs are worth so much less.
- A node that no pair knows has the variance of a lost section, v_lost. A band sees that as through a small Gaussian
  (what surrounds a hole tells of it, as far as wavelengths are long against it), and precisions are interpolated: with
  p the share of known nodes in it, 1 / v = p / v(s) + (1 - p) / v_lost.
- Of a hole through several sections the neighbours are off as well, independently: what their variance is more there
  counts with the square of their share in the course.

What was fitted but is not believed (`believed`) stays in the sections, so its variance is added. Not counted is what
the affine part of a pair field is off by where most of its nodes are unknown.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssem_dask.composition.relax.node_weights import plane_weights
from ssem_dask.composition.relax.spectra import Bands, bands_of, to_spectrum
from ssem_dask.composition.separation.affine_log import GROUPS, radius
from ssem_dask.composition.separation.sequence import SequenceModel, Variances, believed
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

_SIGHT = 0.03
"""Of the Gaussian by which a band sees what is known about a node: standard deviation, in its shortest wavelengths.
Measured at holes of 2 to 8 nodes: the solve knows less of them than their surroundings would allow for."""
_CONTRADICTED = 0.1
"""Share of the worth of a section's pairs that must be left for them to say anything. One wrong pair leaves .6, wrong
pairs with both neighbours .26, pairs that are all wrong less than .01."""
_SHARES: Float64Array = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
"""Shares of the usual worth for which variances are computed; interpolated between them."""
_TINY = 1e-30
"""Keeps quotients of zeros at 0."""


@dataclass(frozen=True, slots=True)
class SectionVariance:
    """Of one parameter that was fitted, against the course of the neighbours; unit of the parameter squared."""

    known: Float64Array
    """`(shares, Z)`: with what the section's pairs say, where they are worth these shares of the usual."""
    lost: Float64Array
    """`(Z,)`: were nothing known of the section itself."""


def section_variance(
    weights: Float64Array, *, fitted: Variances, certainty: float, shares: Float64Array
) -> SectionVariance:
    """The posterior variance of each section's parameter.

    Args:
        weights: `(K, Z)` of the pairs.
        fitted: variances that were fitted.
        certainty: of distortion, as the solve was given it.
        shares: of what the pairs are worth; the last one is 1.
    """
    reach = _reach(weights)
    # The solve believes in erratic motion in part only; all that there may be of it adds to the error.
    expected = replace(believed(fitted, certainty=certainty), erratic=fitted.erratic)
    model, seen = SequenceModel(weights), _spoken_for(weights)
    sections, parts = _combinations(_courses(seen, reach=reach))
    known = np.empty((len(shares), len(seen)))
    for i, share in enumerate(shares):
        factor = model.factor(replace(expected, noise=expected.noise / float(share)))
        covariance = factor.distortion_covariance(reach=2 * reach)
        known[i] = np.maximum(_quadratic(covariance, sections, parts), 0.0)
    lost = fitted.distortion + _quadratic(covariance, sections[:, 1:], parts[:, 1:])  # where pairs are worth the usual
    # A section that is hardly known is hardly moved, so its error is no more than its distortion.
    return SectionVariance(known=np.where(seen, np.minimum(known, np.maximum(known[-1], lost)), lost), lost=lost)


def sceptical(weights: Tensor, *, robust: Tensor, outlier: float) -> Tensor:
    """What the pairs are worth for the uncertainty `(K, Z, …)`, of what they are worth in the solve.

    An observation that is off by ρ ≫ `outlier` standard deviations has the Cauchy weight (outlier / ρ)². In the solve
    that is small enough; but as an error it is no smaller than what it is off by, which is the weight 1 / ρ². An
    observation that fits in keeps its weight. Where hardly any worth is left the pairs of a section contradict each
    other; it follows one of them, perhaps, and is not to pass for one that is known: they count as nothing.

    Args:
        weights: `(K, Z, …)` of the pairs, 0 where unknown.
        robust: Cauchy weights, 0 to 1, of the same shape.
        outlier: standard deviations at which they are 1/2.
    """
    out = (1.0 - robust).square_().mul_(outlier**2 - 1.0).add_(1.0).reciprocal_().mul_(robust).mul_(weights)
    contradicted = _of_sections(out) < _CONTRADICTED * _of_sections(weights)
    for k in range(1, len(out) + 1):
        out[k - 1].masked_fill_(contradicted, 0.0)
        out[k - 1, k:].masked_fill_(contradicted[:-k], 0.0)
    return out


def _of_sections(weights: Tensor) -> Tensor:
    """What all pairs of each section are worth together `(Z, …)`, of `(K, Z, …)`."""
    out = torch.zeros_like(weights[0])
    for k in range(1, len(weights) + 1):
        out.add_(weights[k - 1], alpha=1.0 / k**2)
        out[:-k].add_(weights[k - 1, k:], alpha=1.0 / k**2)
    return out


def affine_parameter_variance(weights: Float64Array, *, fitted: dict[str, Variances], certainty: float) -> Float64Array:
    """Variances `(Z, 2)`, px²: of a shift, and of all of the linear part, rms over the section; NaN without a fit.

    Args:
        weights: `(K, Z)` of the pairs' affine maps, robust and sceptical.
        fitted: of each group of parameters; empty where there were too few sections.
        certainty: of distortion, as the solve was given it.
    """
    out = np.zeros((weights.shape[1], 2)) if fitted else np.full((weights.shape[1], 2), np.nan)
    for name, members in GROUPS if fitted else ():
        known = section_variance(weights, fitted=fitted[name], certainty=certainty, shares=_SHARES[-1:]).known[-1]
        if name == "shift":
            out[:, 0] = known
        else:
            out[:, 1] += len(members) * known
    return out


def affine_variance(
    variance: Float64Array, *, shape_yx: ShapeYX, grid: Grid, device: torch.device | str = "cpu"
) -> Tensor:
    """Variance `(Z, y, x)` float32, px² per component, of the affine part of the sections' fields on the nodes.

    Args:
        variance: `(Z, 2)` of `affine_parameter_variance`.
        shape_yx: section, mip-0 px.
        grid: of the nodes.
        device: where it is wanted.
    """
    # Parameters are rms displacements over the section; those of the linear part grow with the distance to its centre.
    centre = torch.tensor([n / 2 for n in shape_yx], dtype=torch.float64, device=device)[:, None, None]
    square = (grid.positions(device).double() - centre).square().sum(dim=0) / radius(shape_yx) ** 2
    of_section = torch.from_numpy(variance).float().to(device)[:, :, None, None]
    return torch.addcmul(of_section[:, 0], of_section[:, 1], (square / 2).float())


def elastic_variance(weights: Tensor, *, fitted: list[Variances], certainty: float) -> Tensor:
    """Variance `(Z, y, x)`, px² per component, of the elastic part of the sections' fields on the nodes.

    What is per section is computed on the CPU, what is per node where the weights are, some sections at a time.

    Args:
        weights: `(K, Z, y, x)`, as the last solve used them, but sceptical of outliers.
        fitted: of each band; empty where there were too few sections, then all is NaN.
        certainty: of distortion, as the solve was given it.
    """
    if not fitted:
        return torch.full_like(weights[0], torch.nan)
    plane = plane_weights(weights)
    shape: ShapeYX = (weights.shape[2], weights.shape[3])
    bands = bands_of(shape)
    share, present = _shares(weights, plane)
    of_sections = [section_variance(plane, fitted=v, certainty=certainty, shares=_SHARES) for v in fitted]
    tables, losses = np.stack([v.known for v in of_sections]), np.stack([v.lost for v in of_sections])
    known_of, lost_of, profiles = (torch.from_numpy(a).to(share) for a in (tables, losses, _profiles(bands)))
    sights = [
        tuple(torch.from_numpy(_blur(n, sigma=_SIGHT * wavelength)).to(share) for n in shape)
        for wavelength in bands.wavelengths
    ]
    out, more = torch.zeros_like(share), torch.zeros_like(share)
    for z in plane_batches(torch.arange(len(share), device=share.device), like=share):
        between = _between_shares(share[z])
        there = present[z].to(share)
        for b, (along_y, along_x) in enumerate(sights):
            seen = (along_y @ there @ along_x.mT).clamp_(0.0, 1.0)
            known = (known_of[b, :, z].mT[:, None] @ between).reshape(there.shape)
            lost = lost_of[b, z, None, None]
            variance = known * (lost / torch.lerp(known, lost, seen).clamp_(min=_TINY))
            out[z] += profiles[b] * variance
            more[z] += profiles[b] * (variance - known_of[b, -1, z, None, None]).clamp_(min=0.0)
    for section, course in enumerate(_courses(_spoken_for(plane), reach=_reach(plane))):
        for other, part in course:
            out[section].add_(more[other], alpha=part**2)
    return out


def _shares(weights: Tensor, plane: Float64Array) -> tuple[Tensor, Tensor]:
    """The share `(Z, y, x)` of what a section's pairs are worth as a whole that is known about each node, and whether
    any is.

    At least the least of `_SHARES`, at most 1, and 1 where nothing is known: there presence decides.
    """
    usual = torch.from_numpy(plane).to(weights)
    node = _of_sections(torch.minimum(weights, usual[:, :, None, None]))
    whole = _of_sections(usual)[:, None, None]
    present = node > 0  # then the section's pairs are worth something as well
    share = (node / whole.clamp(min=_TINY)).clamp_(float(_SHARES[0]), 1.0)
    return share.masked_fill_(~present, 1.0), present


def _between_shares(share: Tensor) -> Tensor:
    """Weights `(n, shares, y·x)` that interpolate between values at `_SHARES`, linearly in the logarithm.

    Of shares `(n, y, x)` from the least to 1. A product with these serves all bands.
    """
    place, knots = share.flatten(1).log(), np.log(_SHARES)
    out = place.new_empty(len(place), len(knots), place.shape[1])
    for i, knot in enumerate(knots):
        rising = (place - knots[i - 1]) / (knot - knots[i - 1]) if i > 0 else None
        falling = (knots[i + 1] - place) / (knots[i + 1] - knot) if i + 1 < len(knots) else None
        sides = [side for side in (rising, falling) if side is not None]
        out[:, i] = (sides[0] if len(sides) == 1 else torch.minimum(*sides)).clamp_(0.0, 1.0)
    return out


def _blur(n: int, *, sigma: float) -> Float64Array:
    """The matrix `(n, n)` that damps the waves of n nodes as a Gaussian of `sigma` nodes does.

    On nodes and not on coefficients, since a Gaussian of two frequencies is a product of two of one; and because a
    hole may be worth a ten-thousandth of what surrounds it, which float32 keeps where no large terms cancel.
    """
    waves = to_spectrum(np.eye(n)[:, None, :])[:, 0]
    return np.asarray(waves @ (np.exp(-0.5 * (np.pi * np.arange(n) / n * sigma) ** 2)[:, None] * waves.T))


def _profiles(bands: Bands) -> Float64Array:
    """`(bands, y, x)`: variance on the nodes of coefficients of variance 1, without those that hold the affine part."""
    height, width = bands.index.shape
    square_y, square_x = (to_spectrum(np.eye(n)[:, None, :])[:, 0].T ** 2 for n in (height, width))
    i, j = np.indices(bands.index.shape)
    out = [square_y.T @ ((bands.index == b) & (i + j > 1)).astype(np.float64) @ square_x for b in range(bands.count)]
    return np.stack(out)


def _reach(weights: Float64Array) -> int:
    """How far away in z the neighbours may be that a section is compared with."""
    return int(min(len(weights), max(weights.shape[1] - 1, 1)))


def _spoken_for(weights: Float64Array) -> BoolArray:
    """`(Z,)`: sections that any pair with weight belongs to."""
    out: BoolArray = np.asarray((weights > 0).any(axis=0))
    for k in range(1, len(weights) + 1):
        out[:-k] |= weights[k - 1, k:] > 0
    return out


def _courses(seen: BoolArray, *, reach: int) -> list[list[tuple[int, float]]]:
    """For each section the sections that it is compared with, and their shares, which sum to 1 or there is none."""
    out = []
    for z in range(len(seen)):
        before = next((k for k in range(1, min(reach, z) + 1) if seen[z - k]), None)
        after = next((k for k in range(1, min(reach, len(seen) - 1 - z) + 1) if seen[z + k]), None)
        if before and after:
            out.append([(z - before, after / (before + after)), (z + after, before / (before + after))])
        else:
            out.append([(z - before, 1.0)] if before else [(z + after, 1.0)] if after else [])
    return out


def _combinations(courses: list[list[tuple[int, float]]]) -> tuple[NDArray[np.intp], Float64Array]:
    """Each section against its course: three sections `(Z, 3)`, itself first, and what each counts; 0 for none."""
    sections = np.tile(np.arange(len(courses))[:, None], 3)
    parts = np.zeros(sections.shape)
    parts[:, 0] = -1.0
    for z, course in enumerate(courses):
        for place, (other, part) in enumerate(course, start=1):
            sections[z, place], parts[z, place] = other, part
    return sections, parts


def _quadratic(covariance: Float64Array, sections: NDArray[np.intp], parts: Float64Array) -> Float64Array:
    """Variances of weighted sums over sections `(Z, n)`."""
    one, other = sections[:, :, None], sections[:, None, :]
    between = covariance[np.abs(one - other), np.minimum(one, other)]
    return np.asarray((parts[:, :, None] * parts[:, None, :] * between).sum(axis=(1, 2)))
