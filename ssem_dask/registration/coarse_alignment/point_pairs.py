"""Pairs of thumbnails for which a person has given points: the same structures in both sections.

A pair that agrees with the points is kept as it was found. If it does not, only maps near that of the points are
searched, and if none of them is clearly the best, the map of the points itself is the pair. Then the other pairs of the
moving section are compared with it: those that lead elsewhere are no longer trusted, since they are why there are
points.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float64

from ssem_dask.field.affine import Affine, compose_affine, fit_affine, invert_affine
from ssem_dask.field.robust import robust_weights
from ssem_dask.registration.coarse_alignment.pair import CoarsePair
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

POINTS_RATIO = 2.0
"""Ratio of a pair that rests on points alone: that of a good match."""
AGREEMENT = 0.03
"""Distance up to which a pair agrees with points, as a share of the section's side: distortion is as large."""
_CONTRADICTS = 0.1
"""Distance, as a share of the section's side, from which another pair of a section contradicts its points."""
_DEVIATIONS = 4.0
_LEAST_AFFINE = 4
"""Points from which a whole affine map is fitted; fewer, or points on a line, determine a rotation and a shift."""
_SPREAD = 20.0
"""Standard deviations of a point over which they must be spread for that."""
_ITERATIONS = 5

Points = Float64[Float64Array, "n 5"]
"""(y, x) in the fixed section, (y, x) in the moving one, standard deviation; mip-0 px."""


def fit_points(points: Points) -> Affine:
    """Fit the map fixed → moving to points: a shift to one, a rotation and a shift to few, an affine map to many."""
    fixed, moving, sd = points[:, :2], points[:, 2:4], points[:, 4]
    weights = 1.0 / sd**2
    robust = np.ones(len(points))
    affine = _fit(fixed, moving, weights)
    # Of three and more points one may be a mistake; of two nothing says which.
    for _ in range(_ITERATIONS if len(points) > 2 else 0):
        error = np.linalg.norm(_mapped(affine, fixed) - moving, axis=1) / sd
        robust = np.asarray(robust_weights(error, scale=max(float(np.median(error)), 1.0) * 2.4, kind="cauchy"))
        affine = _fit(fixed, moving, weights * robust)
    return affine


def agrees(affine: Affine, points: Points, *, shape_yx: ShapeYX) -> bool:
    """Return whether most of some points are where a map leads."""
    error = np.linalg.norm(_mapped(affine, points[:, :2]) - points[:, 2:4], axis=1)
    allowed = np.maximum(_DEVIATIONS * points[:, 4], AGREEMENT * float(np.mean(shape_yx)))
    return bool(np.median(error / allowed) <= 1.0)


def pair_of_points(
    found: CoarsePair,
    points: Points,
    *,
    search: Callable[[Affine], CoarsePair],
    least: float,
    shape_yx: ShapeYX,
) -> CoarsePair:
    """Return the pair that agrees with points.

    Args:
        found: the pair as it was found without them.
        points: of the pair.
        search: estimates the pair near a start, fixed → moving.
        least: least ratio of a trusted pair.
        shape_yx: section, mip-0 px.
    """
    if found.ratio >= least and agrees(found.affine, points, shape_yx=shape_yx):
        return found
    start = fit_points(points)
    near = search(start)
    if near.ratio >= least and agrees(near.affine, points, shape_yx=shape_yx):
        return near
    return CoarsePair(affine=start, ratio=POINTS_RATIO, similarity=near.similarity)


def rests_on_points(pair: CoarsePair) -> bool:
    """Return whether a pair has its map from points alone, since the images do not agree where they lead."""
    return pair.ratio == POINTS_RATIO


def start_by_points(maps: Mapping[int, Affine], *, fixed: int, moving: int) -> Affine | None:
    """Return a start for a pair of which one section was placed by points with a third one; None if neither was.

    Args:
        maps: of the sections that points move, from the section that they were compared with.
        fixed: fixed section.
        moving: moving section.
    """
    if (fixed in maps) == (moving in maps):
        return None
    # The third section is near, so it is about where the other section of the pair is.
    return maps[moving] if moving in maps else invert_affine(maps[fixed])


def contradicting(
    affines: Float64[Float64Array, "K Z 2 3"],
    ratios: Float64[Float64Array, "K Z"],
    pairs: Mapping[tuple[int, int], Points],
    *,
    least: float,
    shape_yx: ShapeYX,
) -> Bool[BoolArray, "K Z"]:
    """Return the pairs of moving sections that lead elsewhere than the points of these sections.

    Args:
        affines: fixed z → moving z-k, mip-0 px.
        ratios: of the pairs.
        pairs: points by (fixed, moving).
        least: least ratio of a trusted pair.
        shape_yx: section, mip-0 px.
    """
    steps, count = ratios.shape
    trusted = np.isfinite(affines).all(axis=(2, 3)) & (np.nan_to_num(ratios) >= least)
    wrong = np.zeros((steps, count), dtype=bool)

    def between(a: int, b: int) -> Affine | None:
        high, k = max(a, b), abs(a - b)
        if not 1 <= k <= steps or not trusted[k - 1, high]:
            return None
        pair = affines[k - 1, high]
        return np.asarray(pair if a > b else invert_affine(pair))

    for fixed, moving in pairs:
        by_points = between(fixed, moving)
        for other in range(max(0, moving - steps), min(count, moving + steps + 1)):
            if other in (fixed, moving) or (other, moving) in pairs or (moving, other) in pairs:
                continue
            direct, to_other = between(moving, other), between(fixed, other)
            if by_points is None or direct is None or to_other is None:
                continue
            through = compose_affine(outer=to_other, inner=invert_affine(by_points))
            if _distance(direct - through, shape_yx) > _CONTRADICTS * float(np.mean(shape_yx)):
                wrong[abs(moving - other) - 1, max(moving, other)] = True
    return wrong


def _fit(fixed: Float64Array, moving: Float64Array, weights: Float64Array) -> Affine:
    total = weights / weights.sum()
    centres = total @ fixed, total @ moving
    a, b = fixed - centres[0], moving - centres[1]
    spread = np.sqrt(np.linalg.svd(a * np.sqrt(total)[:, None], compute_uv=False))
    typical = 1.0 / np.sqrt(np.median(weights))
    if len(fixed) >= _LEAST_AFFINE and spread[-1] ** 2 > _SPREAD * typical:
        return fit_affine(positions=fixed, targets=moving, weights=weights)
    linear = np.eye(2)
    if len(fixed) > 1 and spread[0] > 0:
        # The rotation of least squares (Kabsch 1976).
        u, _, vt = np.linalg.svd((b * total[:, None]).T @ a)
        linear = u @ np.diag([1.0, float(np.sign(np.linalg.det(u @ vt)))]) @ vt
    return np.column_stack([linear, centres[1] - linear @ centres[0]])


def _mapped(affine: Affine, positions: Float64Array) -> Float64Array:
    return np.asarray(positions @ affine[:, :2].T + affine[:, 2])


def _distance(difference: Float64Array, shape_yx: ShapeYX) -> float:
    """Return the rms of a difference of maps over the section, px."""
    centre = difference[:, :2] @ (np.asarray(shape_yx) / 2) + difference[:, 2]
    spread = np.asarray(shape_yx) ** 2 / 12
    return float(np.sqrt((centre**2).sum() + (difference[:, :2] ** 2 @ spread).sum()))
