"""One affine map per section from those between sections, undoing distortion and leaving natural motion alone.

With A_z the map aligned → source of section z and M_kz the pair map (fixed z → moving z-k), what an alignment leaves
between two sections is F = log(A_{z-k}⁻¹ M A_z). With a = log A, to first order F + a_{z-k} - a_z is what lay between
the sections at first: the *total*, of which `separation` takes the white part as a_z. Solved some times over, since log
is not linear; estimating the total and not the increment keeps the prior of a_z the same in all rounds.

Nothing is chained, so nothing accumulates: sections that were aligned already keep the identity. A section without any
pair stays where it is, which is the best guess for independent distortion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssem_dask.composition.separation.affine_log import GROUPS, from_parameters, radius, to_parameters
from ssem_dask.composition.separation.anchored import SlowSolver
from ssem_dask.composition.separation.jumps import Break, find_breaks, placed
from ssem_dask.composition.separation.likelihood import Fit, evidence_of_distortion, fit_variances
from ssem_dask.composition.separation.sequence import SequenceModel, Variances, believed, certainty_of
from ssem_dask.field.affine import IDENTITY
from ssem_dask.types import Float64Array, ShapeYX

LEAST_SECTIONS = 8
"""Fewer neighbour pairs than this, less one, are too few to tell distortion from natural motion by."""
EXPECTED_SLOPE = 0.05
"""Typical natural motion of a whole section, beside its mean tilt, as a share of the thickness: .02 to .1 was seen."""
_TILT_SLOPE = {"shift": 0.3, "rotation": 0.1, "scale": 0.1, "shear": 0.1}
"""Typical mean tilt, as a share of the thickness (rms over the section). It lets tissue run obliquely, but keeps what
random shifts and turns of the sections happen to amount to between the first and the last from passing for it."""
ROUNDS = 5
_SLOW_ROUNDS = 3
"""More of them where slow distortion is pinned: sections may have far to go."""
_SHARE_TURNS = 4
"""Turns after which the share of slow distortion is settled."""
OUTLIER = 3.0
"""Robust standard deviations at which a pair has lost half of its weight."""


@dataclass(frozen=True, slots=True)
class AffineSeparation:
    """Affines of the sections and what they rest on."""

    sections: Float64Array
    """`(Z, 2, 3)`: aligned → source, full map, mip-0 px."""
    motion: Float64Array
    """`(Z, 6)`: natural motion from z to z-1, parameters of `affine_log`, px."""
    fitted: dict[str, Variances]
    """For each group of parameters, px²."""
    evidence: float
    """That sections were displaced one by one, see `evidence_of_distortion`; NaN where it was not asked for."""
    certainty: float
    """See `certainty_of`."""
    weights: Float64Array
    """`(K, Z)`: robust weights, 1 for a pair that fits in."""
    breaks: tuple[Break, ...]
    """Jumps that were undone, see `breaks`."""


def enough_pairs(weights: Float64Array) -> bool:
    """Whether there are enough neighbour pairs to fit the statistics."""
    return bool(np.count_nonzero(weights[0] > 0) >= LEAST_SECTIONS - 1)


def separate_affines(
    affines: Float64Array,
    weights: Float64Array,
    *,
    shape_yx: ShapeYX,
    thickness: float,
    certainty: float | None,
    jumps: bool = True,
    known_jumps: Sequence[int] = (),
    slow: SlowSolver | None = None,
) -> AffineSeparation:
    """Find each section's affine.

    Args:
        affines: M `(K, Z, 2, 3)`; [k-1, z]: fixed z → moving z-k, full map, mip-0 px; NaN where there is none.
        weights: `(K, Z)`: how far each is believed, 0 to 1.
        shape_yx: section, mip-0 px.
        thickness: of a section, mip-0 px.
        certainty: that sections were displaced one by one, 0 to 1, see `believed`; None finds out.
        jumps: whether to look for places where all later sections are displaced alike, and to undo that.
        known_jumps: sections before which there is such a place for certain.
        slow: what pins slow distortion, None for nothing; it is left knowing what was found.

    Raises:
        ValueError: too few pairs, see `enough_pairs`.
    """
    steps, count = weights.shape
    usable = np.isfinite(affines).all(axis=(2, 3)) & (np.arange(count)[None] >= np.arange(1, steps + 1)[:, None])
    weights = np.where(usable, weights, 0.0)
    if not enough_pairs(weights):
        raise ValueError(
            f"separate_affines: {np.count_nonzero(weights[0] > 0)} neighbour pairs; wanted {LEAST_SECTIONS - 1}."
        )
    pairs = np.where(usable[:, :, None, None], affines, IDENTITY)
    a = np.zeros((count, 6))
    motion = np.zeros((count, 6))
    robust = np.ones_like(weights)
    expected = EXPECTED_SLOPE * thickness
    fits: dict[str, Fit] = {}
    evidence = np.nan
    breaks: tuple[Break, ...] = ()
    reach = 10.0 * radius(shape_yx)  # of a jump: as good as any
    for turn in range(ROUNDS if slow is None else ROUNDS + _SLOW_ROUNDS):
        total = _total(pairs, a, shape_yx=shape_yx)

        def fit(model: SequenceModel, name: str, start: Fit | None = None, total: Float64Array = total) -> Fit:
            return fit_variances(
                model,
                total[:, :, dict(GROUPS)[name]],
                start=start.variances if start else None,
                expected=expected,
                tilt=_TILT_SLOPE[name] * thickness,
                distorted=True,
            )

        if turn == 0 and jumps:
            broken = find_breaks(total, weights, jump=reach, fit=fit, known=known_jumps)
            breaks, fits = broken.found, broken.fits
        model = SequenceModel(weights * robust, breaks=[b.z for b in breaks], jump=reach)
        if turn > 0 or not fits:
            fits = {name: fit(model, name, fits.get(name)) for name, _ in GROUPS}
        if certainty is None:  # in the first turn, whose total is what the pairs say themselves
            evidence = sum(
                evidence_of_distortion(
                    model,
                    total[:, :, members],
                    fitted=fits[name],
                    expected=expected,
                    tilt=_TILT_SLOPE[name] * thickness,
                )
                for name, members in GROUPS
            )
            certainty = certainty_of(evidence, pairs=int(np.count_nonzero(weights[0])))
        residual, leaps, current = np.zeros_like(total), np.zeros_like(a), a.copy()
        expecting = {name: believed(fit.variances, certainty=certainty) for name, fit in fits.items()}
        for name, members in GROUPS:
            variances = expecting[name]
            posterior = model.solve(total[:, :, members], variances)
            a[:, members], motion[:, members] = posterior.distortion, posterior.motion
            leaps[:, members] = posterior.erratic
            residual[:, :, members] = posterior.residual
        robust = _robust(_surprise(residual, expecting), weights)
        if slow is not None and turn > 0:  # the first turn finds what there is without
            pinned = slow.solve(
                total, model, variances=expecting, motion=motion, current=current, settle=turn > _SHARE_TURNS
            )
            a, motion, leaps = pinned.sections.copy(), pinned.motion.copy(), pinned.leaps
            robust = _robust(_surprise(pinned.residual, expecting), weights)
        breaks = tuple(replace(b, jump=leaps[b.z]) for b in breaks)
        a += placed(breaks, count=count)
    return AffineSeparation(
        sections=from_parameters(a, shape_yx=shape_yx),
        motion=motion,
        fitted={name: fit.variances for name, fit in fits.items()},
        evidence=evidence,
        certainty=certainty if certainty is not None else np.nan,
        weights=weights * robust,
        breaks=breaks,
    )


def _surprise(residual: Float64Array, variances: dict[str, Variances]) -> Float64Array:
    """Squared residuals of the pairs, in units of their noise, summed over the parameters `(K, Z)`."""
    squares = np.nan_to_num(residual) ** 2
    return np.asarray(sum(squares[:, :, members].sum(axis=2) / variances[name].noise for name, members in GROUPS))


def _robust(surprise: Float64Array, weights: Float64Array) -> Float64Array:
    """Cauchy weights of the pairs by their squared residuals, in their own robust scale."""
    steps = np.arange(1, len(weights) + 1)[:, None]
    relative = surprise / steps**2
    typical = np.median(relative[weights > 0])
    return np.asarray(1.0 / (1.0 + relative / (max(float(typical), 1e-12) * OUTLIER**2)))


def _total(pairs: Float64Array, a: Float64Array, *, shape_yx: ShapeYX) -> Float64Array:
    """T `(K, Z, 6)`: what lies between the sections, distortion included; 0 where z-k does not exist."""
    sections = _matrices(from_parameters(a, shape_yx=shape_yx))
    inverse = np.linalg.inv(sections)
    out = np.zeros((*pairs.shape[:2], 6))
    for k in range(1, len(pairs) + 1):
        left = inverse[:-k] @ _matrices(pairs[k - 1, k:]) @ sections[k:]
        out[k - 1, k:] = to_parameters(left[:, :2], shape_yx=shape_yx) + a[:-k] - a[k:]
    return out


def _matrices(affines: Float64Array) -> Float64Array:
    """`(n, 3, 3)` of `(n, 2, 3)`."""
    last = np.broadcast_to([[0.0, 0.0, 1.0]], (len(affines), 1, 3))
    return np.concatenate([affines, last], axis=1)
