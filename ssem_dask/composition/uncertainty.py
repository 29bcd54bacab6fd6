"""How far a section may be off from where it belongs, from the same statistics that its field rests on.

The error of a field is e_z = found - true. Its slow part along z is the same for neighbours and nothing tells it from
biology, so the uncertainty is that of the section *against the course of its neighbours*: the posterior standard
deviation σ_z, px per component (root mean square of dy and dx), of

    e_z - (b e_{z-a} + a e_{z+b}) / (a + b),

with z - a and z + b the nearest sections before and after z that any pair speaks for, no farther away than the
farthest pairs reach; of one side alone e_z - e_{z-a}, and e_z itself where there is neither. It is what jumps out when
one leafs through the aligned sections, and what can be checked against a known deformation.

The variance is in closed form, for each group of affine parameters and each band of spatial frequencies, as long as a
pair is worth the same everywhere: the posterior covariance of d along z, near its diagonal (`selected_inverse`).
Summed over the parameters and coefficients it is a variance on the nodes. A section that no pair speaks for may have
any distortion of the usual size, so its variance is that of distortion.

Where the nodes of a section are not worth the same it is an approximation. With s between 0 and 1 the share of what the
section's pairs are worth as a whole that is known about a node, as seen at the resolution of a band (a long wavelength
is known from what surrounds a hole, a short one is not), precisions are interpolated:

    1 / v = s / v(section known) + (1 - s) / v(section not known).

What was fitted but is not believed (`believed`) stays in the sections, so its variance is added.
"""

from dataclasses import dataclass, replace

import numpy as np

from ssem_dask.composition.affine_log import GROUPS, radius
from ssem_dask.composition.relax_solve import plane_weights
from ssem_dask.composition.separation import SequenceModel, Variances, believed
from ssem_dask.composition.spectra import Bands, bands_of, from_spectrum, to_spectrum
from ssem_dask.field.grid import Grid
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

_SIGHT = 0.15
"""Standard deviation, in shortest wavelengths of a band, of the Gaussian by which it sees what is known about a node."""


@dataclass(frozen=True, slots=True)
class SectionVariance:
    """Of one parameter that was fitted, against the course of the neighbours; unit of the parameter squared."""

    known: Float64Array
    """`(Z,)`: with what the section's pairs say."""
    lost: Float64Array
    """`(Z,)`: were nothing known of the section itself."""


def section_variance(weights: Float64Array, *, fitted: Variances, evidence: float) -> SectionVariance:
    """The posterior variance of each section's parameter.

    Args:
        weights: `(K, Z)` of the pairs, as the solve used them.
        fitted: variances that were fitted.
        evidence: of distortion, as the solve was given it.
    """
    reach = min(len(weights), max(weights.shape[1] - 1, 1))
    # Erratic motion is believed in part, lest distortion passes for it; what there may be of it still adds to the error.
    expected = replace(believed(fitted, evidence=evidence), erratic=fitted.erratic)
    covariance = SequenceModel(weights).factor(expected).distortion_covariance(reach=2 * reach)
    unbelieved = max(fitted.distortion - expected.distortion, 0.0)
    covariance[0] += unbelieved
    known, lost = np.empty(weights.shape[1]), np.empty(weights.shape[1])
    for z, course in enumerate(_courses(_spoken_for(weights), reach=reach)):
        own = course + [(z, -1.0)]
        known[z] = _quadratic(covariance, own)
        lost[z] = expected.distortion + unbelieved + _quadratic(covariance, course)
    return SectionVariance(known=np.maximum(known, 0.0), lost=lost)


def affine_variance(
    weights: Float64Array, *, fitted: dict[str, Variances], evidence: float, shape_yx: ShapeYX, grid: Grid
) -> Float64Array:
    """Variance `(Z, y, x)`, px² per component, of the affine part of the sections' fields on the nodes.

    Args:
        weights: `(K, Z)` of the pairs' affine maps, robust.
        fitted: of each group of parameters.
        evidence: of the affine level.
        shape_yx: section, mip-0 px.
        grid: of the nodes.
    """
    by_group = {name: section_variance(weights, fitted=fitted[name], evidence=evidence).known for name, _ in GROUPS}
    # Parameters are rms displacements over the section: those of the linear part grow with the distance from the centre.
    linear = sum(len(members) * by_group[name] for name, members in GROUPS if name != "shift")
    away = grid.positions().double().numpy() - np.asarray(shape_yx)[:, None, None] / 2
    square = (away**2).sum(axis=0) / radius(shape_yx) ** 2
    return np.asarray(by_group["shift"][:, None, None] + np.asarray(linear)[:, None, None] * square / 2)


def elastic_variance(weights: Float64Array, *, fitted: list[Variances], evidence: float) -> Float64Array:
    """Variance `(Z, y, x)`, px² per component, of the elastic part of the sections' fields on the nodes.

    Args:
        weights: `(K, Z, y, x)`, as the last solve used them.
        fitted: of each band.
        evidence: of distortion, affine and elastic.
    """
    plane = plane_weights(weights)
    shape: ShapeYX = (weights.shape[2], weights.shape[3])
    bands = bands_of(shape)
    share = to_spectrum(_shares(weights, plane))
    frequency = np.hypot(np.arange(shape[0])[:, None] / shape[0], np.arange(shape[1])[None, :] / shape[1]) / 2
    out = np.zeros((weights.shape[1], *shape))
    for b, (variances, profile) in enumerate(zip(fitted, _profiles(bands), strict=True)):
        of_section = section_variance(plane, fitted=variances, evidence=evidence)
        sight = _SIGHT * bands.wavelengths[b]
        seen = np.clip(from_spectrum(share * np.exp(-0.5 * (2 * np.pi * frequency * sight) ** 2)), 0.0, 1.0)
        known, lost = of_section.known[:, None, None], of_section.lost[:, None, None]
        either = seen * lost + (1.0 - seen) * known
        out += profile * np.divide(known * lost, either, out=np.zeros_like(either), where=either > 0)
    return out


def _shares(weights: Float64Array, plane: Float64Array) -> Float64Array:
    """`(Z, y, x)`, 0 to 1: the share of what a section's pairs are worth as a whole that is known about each node."""
    steps, count = plane.shape
    node, whole = np.zeros(weights.shape[1:]), np.zeros(count)
    for k in range(1, steps + 1):
        worth = plane[k - 1] / k**2
        local = np.minimum(weights[k - 1], plane[k - 1][:, None, None]) / k**2
        node += local
        whole += worth
        node[:-k] += local[k:]
        whole[:-k] += worth[k:]
    return np.divide(node, whole[:, None, None], out=np.zeros_like(node), where=whole[:, None, None] > 0)


def _profiles(bands: Bands) -> Float64Array:
    """`(bands, y, x)`: variance on the nodes of coefficients with variance 1, without those that hold what is affine."""
    height, width = bands.index.shape
    square_y, square_x = (to_spectrum(np.eye(n)[:, None, :])[:, 0].T ** 2 for n in (height, width))
    i, j = np.indices(bands.index.shape)
    out = [square_y.T @ ((bands.index == b) & (i + j > 1)).astype(np.float64) @ square_x for b in range(bands.count)]
    return np.stack(out)


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


def _quadratic(covariance: Float64Array, combination: list[tuple[int, float]]) -> float:
    """Variance of a weighted sum over sections."""
    return sum(p * q * float(covariance[abs(y - z), min(y, z)]) for y, p in combination for z, q in combination)
