"""One affine per section from the affines of pairs, by one robust least-squares solve over all trusted pairs.

With A_z the map aligned → source of section z and M_kz the pair affine (fixed z → moving z-k), a perfect alignment has

    A_{z-k} = M_kz ∘ A_z.

In the entries of A this is linear, and each column of A (dy, dx at one point of the section) obeys the same equations,
so the sections come from one sparse linear solve. Pairs over k = 1 … K close loops; a pair that disagrees with its
loops loses its weight (iteratively re-weighted least squares, IRLS) and is rejected. Gauge: the middle section is the
identity.

Weak ties, "the affine equals that of the section before", connect sections that no trusted pair connects: an isolated
section comes out half-way between its neighbours, and a separate component continues where the other ended. All
sections that depend on ties alone are listed as bridged.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.robust import robust_weights
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

TIE_WEIGHT = 1e-6
"""Weight of a tie; that of a pair is 1. Too weak to change anything that a pair determines."""
ITERATIONS = 30
"""Re-weighted solves. The first half has L1 weights, which find the consistent majority from any start; the second half
has Geman-McClure weights, which remove outliers altogether."""
REJECT_DEVIATIONS = 6.0
"""Robust standard deviations of the loop residuals beyond which a pair is rejected."""
LEAST_STRETCH = 0.8
"""Least plausible principal stretch of a section's map: sections do not shrink that much in the microscope."""
REJECT_SHARE = 0.01
"""Loop residual, as a share of the section's side, below which no pair is rejected."""

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SectionAffines:
    """Affines of all sections, and the pairs that determine them."""

    sections: Float64[Float64Array, "Z 2 3"]
    """aligned → source, full map, mip-0 px."""
    accepted: Bool[BoolArray, "K Z"]
    """Pairs that were used."""
    bridged: list[int]
    """Sections that no accepted pairs connect to the middle section, so that they follow their neighbours; all sections
    if no pair was accepted."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """Equations A[moving] = linear @ A[fixed] + shift, A seen from the centre of the section."""

    fixed: Index
    moving: Index
    linear: Float64Array
    shift: Float64Array


def solve_sections(
    affines: Float64[Float64Array, "K Z 2 3"],
    ratios: Float64[Float64Array, "K Z"],
    *,
    shape_yx: ShapeYX,
    config: CoarseConfig,
) -> SectionAffines:
    """Solve for one affine per section.

    Args:
        affines: [k-1, z] pulls section z-k onto z: fixed z → moving z-k, full map, mip-0 px. Entries with z < k, and
            pairs that were not estimated, are ignored and may be NaN.
        ratios: peak ratios; NaN or 0 if not estimated.
        shape_yx: shape of a section, mip-0 px.
        config: settings with the least ratio of a trusted pair.
    """
    steps, count = ratios.shape
    trusted = np.isfinite(affines).all(axis=(2, 3)) & (np.nan_to_num(ratios) >= config.min_ratio)
    trusted &= np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
    k, z = np.nonzero(trusted)
    edges = _centre(affines[k, z], fixed=z, moving=z - k - 1, shape_yx=shape_yx)
    keep = _consistent(edges, count=count, shape_yx=shape_yx)
    accepted = np.zeros_like(trusted)
    accepted[k[keep], z[keep]] = True
    edges = _Edges(edges.fixed[keep], edges.moving[keep], edges.linear[keep], edges.shift[keep])
    components = _components(edges, count=count)
    gauge = _gauge_section(components)
    solution = _robust_solve(edges, components=components, gauge=gauge, shape_yx=shape_yx)
    centre = np.asarray(shape_yx) / 2
    sections = solution.copy()
    sections[:, :, 2] += centre - solution[:, :, :2] @ centre
    sections = _replace_shrunk(sections)
    tied = (components == components[gauge]) & (np.bincount(components)[components] > 1)
    bridged = [int(s) for s in np.nonzero(~tied)[0]]
    return SectionAffines(sections=sections, accepted=accepted, bridged=bridged)


def _replace_shrunk(sections: Float64[Float64Array, "Z 2 3"]) -> Float64[Float64Array, "Z 2 3"]:
    """Replace maps that shrink a section by the nearest one that does not.

    They are means of two very different rotations, half-way between sections rotated against each other, at worst by
    180°.
    """
    stretch = np.linalg.svd(sections[:, :, :2], compute_uv=False)[:, -1]
    plausible = np.flatnonzero(stretch >= LEAST_STRETCH)
    if len(plausible) == 0:
        return sections
    nearest = np.abs(np.arange(len(sections))[:, None] - plausible[None, :]).argmin(axis=1)
    return np.where((stretch >= LEAST_STRETCH)[:, None, None], sections, sections[plausible[nearest]])


def _centre(affines: Float64Array, *, fixed: Index, moving: Index, shape_yx: ShapeYX) -> _Edges:
    """Refer pair affines to the centre of the section, where shift and linear part are independent."""
    centre = np.asarray(shape_yx) / 2
    linear = affines[:, :, :2]
    return _Edges(fixed, moving, linear, affines[:, :, 2] + linear @ centre - centre)


def _components(edges: _Edges, *, count: int) -> Index:
    """Label the connected component of each section."""
    graph = coo_array((np.ones(len(edges.fixed)), (edges.fixed, edges.moving)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.intp)


def _gauge_section(components: Index) -> int:
    """Choose the section of the largest component that is nearest to the middle; of equal components, the nearest."""
    count = len(components)
    middle = count // 2
    sizes = np.bincount(components)
    distance = np.abs(np.arange(count) - middle)
    return int(np.lexsort((distance, -sizes[components]))[0])


def _consistent(edges: _Edges, *, count: int, shape_yx: ShapeYX) -> BoolArray:
    """Check which pairs agree with the loops that they close."""
    if len(edges.fixed) == 0:
        return np.zeros(0, dtype=np.bool_)
    components = _components(edges, count=count)
    solution = _robust_solve(edges, components=components, gauge=_gauge_section(components), shape_yx=shape_yx)
    residual = _residuals(edges, solution, shape_yx=shape_yx)
    limit = max(REJECT_DEVIATIONS * _robust_deviation(residual), REJECT_SHARE * max(shape_yx))
    return np.asarray(residual <= limit)


def _robust_deviation(residual: Float64Array) -> float:
    """Estimate the standard deviation per component (the median length of a 2-D Gaussian vector is 1.18 σ)."""
    return float(np.median(residual)) / 1.18


def _residuals(edges: _Edges, solution: Float64Array, *, shape_yx: ShapeYX) -> Float64Array:
    """Compute each pair's residual displacement, px, rms over the section."""
    difference = solution[edges.moving] - edges.linear @ solution[edges.fixed]
    difference[:, :, 2] -= edges.shift
    # Mean squares of y, x and 1 over a section about its centre.
    spread = np.asarray([shape_yx[0] ** 2 / 12, shape_yx[1] ** 2 / 12, 1.0])
    return np.asarray(np.sqrt((difference**2 @ spread).sum(axis=1)))


def _robust_solve(edges: _Edges, *, components: Index, gauge: int, shape_yx: ShapeYX) -> Float64Array:
    """Solve by IRLS; `(Z, 2, 3)` about the centre."""
    weights = np.ones(len(edges.fixed))
    solution = _solve(edges, weights, components=components, gauge=gauge)
    if len(edges.fixed) == 0:
        return solution
    floor = 1e-4 * max(shape_yx)
    for iteration in range(ITERATIONS):
        residual = _residuals(edges, solution, shape_yx=shape_yx)
        scale = max(_robust_deviation(residual), floor)
        if 2 * iteration < ITERATIONS:
            weights = scale / np.maximum(residual, 0.1 * scale)  # L1: convex, so any start will do
        else:
            weights = robust_weights(residual, scale=2.4 * scale, kind="geman_mcclure")  # outliers vanish
        previous, solution = solution, _solve(edges, np.maximum(weights, 1e-5), components=components, gauge=gauge)
        if 2 * iteration > ITERATIONS and np.abs(solution - previous)[:, :, 2].max() < 1e-4:
            break
    return solution


def _solve(edges: _Edges, weights: Float64Array, *, components: Index, gauge: int) -> Float64Array:
    """Solve weighted least squares with section `gauge` fixed to the identity; `(Z, 2, 3)` about the centre."""
    count = len(components)
    # Ties between adjacent sections of different components keep the system regular.
    later = np.nonzero(components[1:] != components[:-1])[0] + 1
    fixed = np.concatenate([edges.fixed, later])
    moving = np.concatenate([edges.moving, later - 1])
    linear = np.concatenate([edges.linear, np.broadcast_to(np.eye(2), (len(later), 2, 2))])
    shift = np.concatenate([edges.shift, np.zeros((len(later), 2))])
    root = np.sqrt(np.concatenate([weights, np.full(len(later), TIE_WEIGHT)]))
    n = len(fixed)
    row = np.arange(2 * n).reshape(n, 2)
    rows = np.concatenate([row.ravel(), np.repeat(row, 2, axis=1).ravel()])
    columns = np.concatenate(
        [(2 * moving[:, None] + [0, 1]).ravel(), np.tile(2 * fixed[:, None] + [0, 1], (1, 2)).ravel()]
    )
    values = np.concatenate([np.repeat(root, 2), (-linear * root[:, None, None]).ravel()])
    matrix = csc_array(coo_array((values, (rows, columns)), shape=(2 * n, 2 * count)))
    target = np.zeros((2 * n, 3))
    target[:, 2] = (shift * root[:, None]).ravel()
    # Columns of the gauge section move to the right side.
    free = np.setdiff1d(np.arange(2 * count), [2 * gauge, 2 * gauge + 1])
    out = np.zeros((2 * count, 3))
    out[2 * gauge : 2 * gauge + 2] = IDENTITY
    if len(free):
        target = target - matrix @ out
        part = csc_array(matrix[:, free])
        out[free] = splu(csc_array(part.T @ part)).solve(part.T @ target)
    return out.reshape(count, 2, 3)
