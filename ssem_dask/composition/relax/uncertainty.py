"""How far a section may be off from where it belongs, from the same statistics that its field rests on.

The error of a field is e_z = estimate - truth. Its slow part along z is the same for neighbours, and nothing separates
it from biology. So the uncertainty is that of the section *against the course of its neighbours*: the posterior
standard deviation σ_z, px per component (root mean square of dy and dx), of

    e_z - (b e_{z-a} + a e_{z+b}) / (a + b),

with z - a and z + b the nearest observed sections before and after z, no farther away than the farthest pairs reach. If
there is only one of them, it is that of e_z - e_{z-a}; if there is none, that of e_z itself. It is what one sees jump
when leafing through the aligned sections, and what can be checked against a known deformation.

The variance has a closed form, for each group of affine parameters and each band of spatial frequencies, as long as a
pair has the same weight everywhere: the posterior covariance of d along z, near its diagonal (`banded`).
Summed over the parameters and coefficients it is a variance on the nodes. A section that is not observed may have any
distortion of the usual size, so its variance is that of distortion.

If the nodes of a section differ in weight it is an approximation, in three steps.

- A node with a share s of the weight of its section as a whole has the variance v(s) of a volume in which all pairs
  have this share of their weights.
- A node that no pair observes has the variance of a lost section, v_lost. A band sees that through a small Gaussian
  (what surrounds a hole constrains it, at wavelengths that are long against it), and precisions are interpolated: with
  p the share of observed nodes in it, 1 / v = p / v(s) + (1 - p) / v_lost.
- At a hole through several sections the neighbours are off as well, independently: their additional variance counts
  with the square of their share in the course.

Motion that was fitted but is discounted (`regularised_variances`) stays in the sections, so its variance is added. Not
counted is the error of the affine part of a pair field of which most nodes are unknown.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.composition.relax.node_weights import observed_mask, pair_weights
from ssem_dask.composition.relax.spectra import Bands, to_spectrum
from ssem_dask.composition.separation.affine_log import GROUPS, rms_radius
from ssem_dask.composition.separation.sequence import SequenceModel, Variances, regularised_variances
from ssem_dask.field.device import plane_batches
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, Float64Array, IndexArray, ShapeYX

_SIGHT = 0.03
"""Standard deviation, in a band's shortest wavelengths, of the Gaussian by which the band sees what is observed about a
node. Measured at holes of 2 to 8 nodes: the solve knows less about them than their surroundings would allow."""
_CONTRADICTED = 0.1
"""Share of the weight of a section's pairs that must remain for them to count. One wrong pair leaves 0.6, wrong pairs
with both neighbours 0.26, pairs that are all wrong less than 0.01."""
_SHARES: Float64Array = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
"""Shares of the usual weight for which variances are computed; interpolated between them."""
_TINY = 1e-30
"""Lower bound of denominators: 0/0 becomes 0."""


@dataclass(frozen=True, slots=True)
class SectionVariance:
    """Variance of one parameter against the course of the neighbours; unit of the parameter squared."""

    known: Float[Float64Array, "shares Z"]
    """With the section's pairs, at these shares of their usual weights."""
    lost: Float[Float64Array, " Z"]
    """If nothing were observed of the section itself."""


def section_variance(
    weights: Float[Float64Array, "K Z"], *, fitted: Variances, certainty: float, shares: Float[Float64Array, " shares"]
) -> SectionVariance:
    """Return the posterior variance of each section's parameter.

    Args:
        weights: of the pairs.
        fitted: variances that were fitted.
        certainty: P(displaced), as in the solve.
        shares: of the pairs' weights; the last one is 1.
    """
    # Covariances are needed between the two neighbours of a section too, which are up to twice the reach apart.
    reach = _comparison_reach(weights)
    # The solve discounts erratic motion; all that there may be of it adds to the error.
    prior = replace(regularised_variances(fitted, certainty=certainty), erratic=fitted.erratic)
    model, observed = SequenceModel(weights), observed_mask(torch.from_numpy(weights)).numpy()
    sections, parts = _combinations(_courses(observed, reach=reach))
    known = np.empty((len(shares), len(observed)))
    for i, share in enumerate(shares):
        # Pairs of a share s of their weight are pairs of 1/s times the noise.
        factor = model.factor(replace(prior, noise=prior.noise / float(share)))
        covariance = factor.distortion_covariance(reach=2 * reach)
        known[i] = np.maximum(_quadratic_form(covariance, sections, parts), 0.0)
    # `covariance` is now that of the last share, 1.
    lost = fitted.distortion + _quadratic_form(covariance, sections[:, 1:], parts[:, 1:])
    # A section that is hardly observed is hardly moved, so its error is no more than its distortion.
    return SectionVariance(known=np.where(observed, np.minimum(known, np.maximum(known[-1], lost)), lost), lost=lost)


def discount_outliers(
    weights: Float[Tensor, "K Z *n"], *, robust: Float[Tensor, "K Z *n"], outlier: float
) -> Float[Tensor, "K Z *n"]:
    """Return the weights of the pairs for the uncertainty, from their weights in the solve.

    An observation that is off by ρ ≫ `outlier` standard deviations has the Cauchy weight (outlier / ρ)². In the solve
    that is small enough; but its error is no smaller than its deviation, which corresponds to the weight 1 / ρ². With
    r the Cauchy weight, r / (1 + (outlier² - 1) (1 - r)²) is 1 / ρ² for large ρ, and 1 for observations that agree.

    If hardly any weight remains, the pairs of a section contradict each other. Then the solve may have followed one of
    them, but the section must not pass for a known one: its pairs get no weight at all.

    Args:
        weights: of the pairs, 0 where unknown.
        robust: Cauchy weights, 0 to 1.
        outlier: standard deviations at which they are 1/2.
    """
    # In place: these are as large as all pair weights together.
    out = (1.0 - robust).square_().mul_(outlier**2 - 1.0).add_(1.0).reciprocal_().mul_(robust).mul_(weights)
    contradicted = _section_weights(out) < _CONTRADICTED * _section_weights(weights)
    for k in range(1, len(out) + 1):
        out[k - 1].masked_fill_(contradicted, 0.0)
        out[k - 1, k:].masked_fill_(contradicted[:-k], 0.0)
    return out


def _section_weights(weights: Tensor) -> Tensor:
    """Return the weights of all pairs of each section together `(Z, …)`, from `(K, Z, …)`."""
    out = torch.zeros_like(weights[0])
    for k in range(1, len(weights) + 1):
        # Noise grows with the distance k, so the precision falls with its square.
        out.add_(weights[k - 1], alpha=1.0 / k**2)
        out[:-k].add_(weights[k - 1, k:], alpha=1.0 / k**2)
    return out


def affine_parameter_variance(
    weights: Float[Float64Array, "K Z"], *, fitted: dict[str, Variances], certainty: float
) -> Float[Float64Array, "Z 2"]:
    """Return variances, px², of a shift, and of all of the linear part, rms over the section; NaN without a fit.

    Args:
        weights: of the pairs' affine maps, outliers discounted.
        fitted: variances of each group of parameters; empty if there were too few sections.
        certainty: P(displaced), as in the solve.
    """
    out = np.zeros((weights.shape[1], 2)) if fitted else np.full((weights.shape[1], 2), np.nan)
    for name, members in GROUPS if fitted else ():
        known = section_variance(weights, fitted=fitted[name], certainty=certainty, shares=_SHARES[-1:]).known[-1]
        # A shift is the same everywhere; all else grows with the distance to the centre.
        if name == "shift":
            out[:, 0] = known
        else:
            out[:, 1] += len(members) * known
    return out


def affine_variance(
    variance: Float[Float64Array, "Z 2"], *, shape_yx: ShapeYX, grid: Grid, device: torch.device | str = "cpu"
) -> Float[Tensor, "Z y x"]:
    """Return the float32 variance, px² per component, of the affine part of the sections' fields on the nodes.

    Args:
        variance: as of `affine_parameter_variance`.
        shape_yx: section, mip-0 px.
        grid: of the nodes.
        device: of the result.
    """
    # Parameters are rms displacements over the section; those of the linear part grow with the distance to its centre.
    centre = torch.tensor([n / 2 for n in shape_yx], dtype=torch.float64, device=device)[:, None, None]
    square = (grid.positions(device).double() - centre).square().sum(dim=0) / rms_radius(shape_yx) ** 2
    by_section = torch.from_numpy(variance).float().to(device)[:, :, None, None]
    return torch.addcmul(by_section[:, 0], by_section[:, 1], (square / 2).float())


def elastic_variance(
    weights: Float[Tensor, "K Z y x"], *, variances: list[Variances], certainty: float
) -> Float[Tensor, "Z y x"]:
    """Return the variance, px² per component, of the elastic part of the sections' fields on the nodes.

    Values per section are computed on the CPU. Values per node are computed on the device of the weights, some sections
    at a time.

    Args:
        weights: as the last solve used them, outliers discounted.
        variances: fitted ones of each band; empty if there were too few sections, then all is NaN.
        certainty: P(displaced), as in the solve.
    """
    if not variances:
        return torch.full_like(weights[0], torch.nan)
    by_pair = pair_weights(weights)
    shape: ShapeYX = (weights.shape[2], weights.shape[3])
    bands = Bands.of(shape)
    share, observed = _node_shares(weights, by_pair)
    by_section = [section_variance(by_pair, fitted=v, certainty=certainty, shares=_SHARES) for v in variances]
    tables, losses = np.stack([v.known for v in by_section]), np.stack([v.lost for v in by_section])
    known_tables, lost_table, profiles = (torch.from_numpy(a).to(share) for a in (tables, losses, _profiles(bands)))
    blurs = [
        tuple(torch.from_numpy(_blur_matrix(n, sigma=_SIGHT * wavelength)).to(share) for n in shape)
        for wavelength in bands.wavelengths
    ]
    out, additional = torch.zeros_like(share), torch.zeros_like(share)
    for z in plane_batches(torch.arange(len(share), device=share.device), like=share):
        interpolation = _interpolation_weights(share[z])
        presence = observed[z].to(share)
        for b, (along_y, along_x) in enumerate(blurs):
            # p: the share of observed nodes, as far as the band can resolve it.
            observed_share = (along_y @ presence @ along_x.mT).clamp_(0.0, 1.0)
            known = (known_tables[b, :, z].mT[:, None] @ interpolation).reshape(presence.shape)
            lost = lost_table[b, z, None, None]
            # 1 / v = p / v(s) + (1 - p) / v_lost, written so that float32 keeps small variances.
            variance = known * (lost / torch.lerp(known, lost, observed_share).clamp_(min=_TINY))
            out[z] += profiles[b] * variance
            additional[z] += profiles[b] * (variance - known_tables[b, -1, z, None, None]).clamp_(min=0.0)
    # Errors of the neighbours at the same place are independent of the section's own.
    observed_sections = observed_mask(torch.from_numpy(by_pair)).numpy()
    for section, course in enumerate(_courses(observed_sections, reach=_comparison_reach(by_pair))):
        for other, part in course:
            out[section].add_(additional[other], alpha=part**2)
    return out


def _node_shares(weights: Tensor, by_pair: Float64Array) -> tuple[Tensor, Tensor]:
    """Return each node's share of its section's weight `(Z, y, x)`, and whether the node is observed.

    The share is clamped to the range of `_SHARES`, and 1 where nothing is observed: there presence decides.
    """
    usual = torch.from_numpy(by_pair).to(weights)
    # A node better than its pair counts as the pair, as in the solve.
    node = _section_weights(torch.minimum(weights, usual[:, :, None, None]))
    whole = _section_weights(usual)[:, None, None]
    observed = node > 0  # then the section's pairs have weight as well
    share = (node / whole.clamp(min=_TINY)).clamp_(float(_SHARES[0]), 1.0)
    return share.masked_fill_(~observed, 1.0), observed


def _interpolation_weights(share: Tensor) -> Tensor:
    """Return weights `(n, shares, y·x)` that interpolate between values at `_SHARES`, linearly in the logarithm.

    One product with them serves a band; they are the same for all bands.

    Args:
        share: `(n, y, x)`, from the least to 1.
    """
    position, knots = share.flatten(1).log(), np.log(_SHARES)
    out = position.new_empty(len(position), len(knots), position.shape[1])
    # Hat functions: rising from the knot before, falling to the knot after.
    for i, knot in enumerate(knots):
        rising = (position - knots[i - 1]) / (knot - knots[i - 1]) if i > 0 else None
        falling = (knots[i + 1] - position) / (knots[i + 1] - knot) if i + 1 < len(knots) else None
        sides = [side for side in (rising, falling) if side is not None]
        out[:, i] = (sides[0] if len(sides) == 1 else torch.minimum(*sides)).clamp_(0.0, 1.0)
    return out


def _blur_matrix(n: int, *, sigma: float) -> Float64Array:
    """Return the matrix `(n, n)` that damps the cosines of n nodes as a Gaussian of `sigma` nodes does.

    It acts on nodes and not on coefficients, since a Gaussian of two frequencies is a product of two of one; and
    because a hole may have a ten-thousandth of the weight around it, which float32 keeps if no large terms cancel.
    """
    cosines = to_spectrum(np.eye(n)[:, None, :])[:, 0]
    return np.asarray(cosines @ (np.exp(-0.5 * (np.pi * np.arange(n) / n * sigma) ** 2)[:, None] * cosines.T))


def _profiles(bands: Bands) -> Float64Array:
    """Return the variance on the nodes `(bands, y, x)` of elastic coefficients of variance 1."""
    height, width = bands.index.shape
    # The squared cosines of a band, summed; a product over the two axes for each coefficient.
    square_y, square_x = (to_spectrum(np.eye(n)[:, None, :])[:, 0].T ** 2 for n in (height, width))
    return np.stack([square_y.T @ bands.elastic(band).astype(np.float64) @ square_x for band in range(bands.count)])


def _comparison_reach(weights: Float64Array) -> int:
    """Return how far away in z the neighbours may be that a section is compared with."""
    return int(min(len(weights), max(weights.shape[1] - 1, 1)))


def _courses(observed: BoolArray, *, reach: int) -> list[list[tuple[int, float]]]:
    """Return for each section the sections that it is compared with, and their shares; none, or they sum to 1."""
    out = []
    for z in range(len(observed)):
        # Linear interpolation between the nearest observed sections, or repetition of the only one.
        before = next((k for k in range(1, min(reach, z) + 1) if observed[z - k]), None)
        after = next((k for k in range(1, min(reach, len(observed) - 1 - z) + 1) if observed[z + k]), None)
        if before and after:
            out.append([(z - before, after / (before + after)), (z + after, before / (before + after))])
        else:
            out.append([(z - before, 1.0)] if before else [(z + after, 1.0)] if after else [])
    return out


def _combinations(courses: list[list[tuple[int, float]]]) -> tuple[IndexArray, Float64Array]:
    """Return three sections `(Z, 3)`, each section itself first, and their coefficients against its course."""
    sections = np.tile(np.arange(len(courses))[:, None], 3)
    parts = np.zeros(sections.shape)
    parts[:, 0] = -1.0
    for z, course in enumerate(courses):
        for place, (other, part) in enumerate(course, start=1):
            sections[z, place], parts[z, place] = other, part
    return sections, parts


def _quadratic_form(covariance: Float64Array, sections: IndexArray, parts: Float64Array) -> Float64Array:
    """Return the variances `(Z,)` of weighted sums over sections `(Z, n)`, from a banded covariance."""
    one, other = sections[:, :, None], sections[:, None, :]
    between = covariance[np.abs(one - other), np.minimum(one, other)]
    return np.asarray((parts[:, :, None] * parts[:, None, :] * between).sum(axis=(1, 2)))
