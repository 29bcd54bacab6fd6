"""From pair affines to one affine per section, by one robust least squares over all believed pairs.

With A_z the map aligned → source of section z and M_kz the pair affine (fixed z → moving z-k), a perfect alignment has

    A_{z-k} = M_kz ∘ A_z.

In the entries of A this is linear, and each column of A (dy, dx at one point of the section) obeys the same equations,
so the sections come from one sparse linear solve. Pairs over k = 1 … K close loops; a pair that disagrees with its
loops loses its weight and is rejected. Gauge: the middle section is the identity.

Weak ties "this section lies like the one before it" hold together what no believed pair connects: a lone section comes
out half-way between its neighbours, and a severed piece continues where the other ended. All sections that hang on
such ties alone are listed as bridged.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from ssem_dask.field.affine import IDENTITY
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

TIE_WEIGHT = 1e-6
"""Weight of a tie, against 1 of a pair: too weak to bend anything that a pair says."""
ITERATIONS = 30
"""Re-weighted solves; the first half with absolute-value weights, which find the consistent majority from any start."""
REJECT_SCALES = 6.0
"""Robust standard deviations of the loop residuals beyond which a pair is rejected."""
LEAST_STRETCH = 0.8
"""Least principal stretch of a section's map: no section shrinks by as much in the microscope."""
REJECT_SHARE = 0.01
"""Loop residual, as a share of the section's side, below which no pair is rejected."""

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ChainResult:
    """Affines of all sections, and what they rest on."""

    sections: Float64Array
    """`(Z, 2, 3)` float64: aligned → source, full map, mip-0 px."""
    accepted: BoolArray
    """`(K, Z)`: pairs that were used."""
    bridged: list[int]
    """Sections whose place is not tied to the middle section by accepted pairs, but carried on from neighbours; all of
    them where no pair was accepted."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """Equations A[moving] = linear @ A[fixed] + shift, A seen from the centre of the section."""

    fixed: Index
    moving: Index
    linear: Float64Array
    shift: Float64Array


def chain_sections(
    affines: Float64Array, ratios: Float64Array, *, shape_yx: ShapeYX, config: CoarseConfig
) -> ChainResult:
    """Solve for one affine per section.

    Args:
        affines: `(K, Z, 2, 3)`; [k-1, z] pulls section z-k onto z: fixed z → moving z-k, full map, mip-0 px. Entries
            with z < k, and pairs that were not estimated, are ignored; NaN is fine there.
        ratios: `(K, Z)` peak ratios; NaN or 0 where not estimated.
        shape_yx: section, mip-0 px.
        config: least ratio.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if affines.ndim != 4 or affines.shape[2:] != (2, 3) or ratios.shape != affines.shape[:2]:
        raise ValueError(
            f"chain_sections: affines {affines.shape} and ratios {ratios.shape} do not fit; "
            "wanted (K, Z, 2, 3) and (K, Z)."
        )
    steps, count = ratios.shape
    believed = np.isfinite(affines).all(axis=(2, 3)) & (np.nan_to_num(ratios) >= config.min_ratio)
    believed &= np.arange(count)[None, :] >= np.arange(1, steps + 1)[:, None]
    k, z = np.nonzero(believed)
    edges = _centred(affines[k, z], fixed=z, moving=z - k - 1, shape_yx=shape_yx)
    keep = _consistent(edges, count=count, shape_yx=shape_yx)
    accepted = np.zeros_like(believed)
    accepted[k[keep], z[keep]] = True
    edges = _Edges(edges.fixed[keep], edges.moving[keep], edges.linear[keep], edges.shift[keep])
    pieces = _pieces(edges, count=count)
    gauge = _gauge(pieces)
    solution = _robust_solve(edges, pieces=pieces, gauge=gauge, shape_yx=shape_yx)
    centre = np.asarray(shape_yx) / 2
    sections = solution.copy()
    sections[:, :, 2] += centre - solution[:, :, :2] @ centre
    sections = _unshrunk(sections)
    tied = (pieces == pieces[gauge]) & (np.bincount(pieces)[pieces] > 1)
    bridged = [int(s) for s in np.nonzero(~tied)[0]]
    return ChainResult(sections=sections, accepted=accepted, bridged=bridged)


def _unshrunk(sections: Float64Array) -> Float64Array:
    """Replace maps that are the mean of two very different turns, hence shrink a section, by the nearest that is not.

    That happens half-way between two sections that are turned far from each other, at worst by 180°.
    """
    stretch = np.linalg.svd(sections[:, :, :2], compute_uv=False)[:, -1]
    whole = np.flatnonzero(stretch >= LEAST_STRETCH)
    if len(whole) == 0:
        return sections
    nearest = np.abs(np.arange(len(sections))[:, None] - whole[None, :]).argmin(axis=1)
    return np.where((stretch >= LEAST_STRETCH)[:, None, None], sections, sections[whole[nearest]])


def _centred(affines: Float64Array, *, fixed: Index, moving: Index, shape_yx: ShapeYX) -> _Edges:
    """Pair affines for positions relative to the centre of the section, where shift and linear part are independent."""
    centre = np.asarray(shape_yx) / 2
    linear = affines[:, :, :2]
    return _Edges(fixed, moving, linear, affines[:, :, 2] + linear @ centre - centre)


def _pieces(edges: _Edges, *, count: int) -> Index:
    """Label of the connected piece that each section belongs to."""
    graph = coo_array((np.ones(len(edges.fixed)), (edges.fixed, edges.moving)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.intp)


def _gauge(pieces: Index) -> int:
    """The section nearest to the middle that belongs to the largest piece (of equal ones, the nearest)."""
    count = len(pieces)
    middle = count // 2
    sizes = np.bincount(pieces)
    distance = np.abs(np.arange(count) - middle)
    return int(np.lexsort((distance, -sizes[pieces]))[0])


def _consistent(edges: _Edges, *, count: int, shape_yx: ShapeYX) -> BoolArray:
    """Which pairs agree with the loops that they close."""
    if len(edges.fixed) == 0:
        return np.zeros(0, dtype=np.bool_)
    pieces = _pieces(edges, count=count)
    solution = _robust_solve(edges, pieces=pieces, gauge=_gauge(pieces), shape_yx=shape_yx)
    residual = _residuals(edges, solution, shape_yx=shape_yx)
    limit = max(REJECT_SCALES * _scale(residual), REJECT_SHARE * max(shape_yx))
    return np.asarray(residual <= limit)


def _scale(residual: Float64Array) -> float:
    """Robust standard deviation per component of residual lengths (the median length of a 2-D Gaussian is 1.18 σ)."""
    return float(np.median(residual)) / 1.18


def _residuals(edges: _Edges, solution: Float64Array, *, shape_yx: ShapeYX) -> Float64Array:
    """Rms over the section, px, of how far each pair is from being fulfilled."""
    left = solution[edges.moving] - edges.linear @ solution[edges.fixed]
    left[:, :, 2] -= edges.shift
    spread = np.asarray([shape_yx[0] ** 2 / 12, shape_yx[1] ** 2 / 12, 1.0])
    return np.asarray(np.sqrt((left**2 @ spread).sum(axis=1)))


def _robust_solve(edges: _Edges, *, pieces: Index, gauge: int, shape_yx: ShapeYX) -> Float64Array:
    """Re-weighted least squares; `(Z, 2, 3)` about the centre."""
    weights = np.ones(len(edges.fixed))
    solution = _solve(edges, weights, pieces=pieces, gauge=gauge)
    if len(edges.fixed) == 0:
        return solution
    floor = 1e-4 * max(shape_yx)
    for iteration in range(ITERATIONS):
        residual = _residuals(edges, solution, shape_yx=shape_yx)
        scale = max(_scale(residual), floor)
        if 2 * iteration < ITERATIONS:
            weights = scale / np.maximum(residual, 0.1 * scale)
        else:
            weights = 1.0 / (1.0 + (residual / (2.4 * scale)) ** 2) ** 2  # Geman–McClure: outliers vanish
        previous, solution = solution, _solve(edges, np.maximum(weights, 1e-5), pieces=pieces, gauge=gauge)
        if 2 * iteration > ITERATIONS and np.abs(solution - previous)[:, :, 2].max() < 1e-4:
            break
    return solution


def _solve(edges: _Edges, weights: Float64Array, *, pieces: Index, gauge: int) -> Float64Array:
    """Weighted least squares with section `gauge` held at the identity; `(Z, 2, 3)` about the centre."""
    count = len(pieces)
    later = np.nonzero(pieces[1:] != pieces[:-1])[0] + 1
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
    free = np.setdiff1d(np.arange(2 * count), [2 * gauge, 2 * gauge + 1])
    out = np.zeros((2 * count, 3))
    out[2 * gauge : 2 * gauge + 2] = IDENTITY
    if len(free):
        target = target - matrix @ out
        part = csc_array(matrix[:, free])
        out[free] = splu(csc_array(part.T @ part)).solve(part.T @ target)
    return out.reshape(count, 2, 3)
