"""Observations that determine drift: landmarks and far pairs, and their rows in the system of `anchored`.

Each observation is linearised at the present parameters `a` of the sections, and divided by its standard deviation over
the square root of its robust weight.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, diags_array, hstack, vstack

from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters, unit_displacements
from ssem_dask.composition.separation.anchored_system import Rows, section_design
from ssem_dask.composition.separation.sequence import SequenceModel
from ssem_dask.field.affine import IDENTITY, compose_affine, fit_affine, invert_affine
from ssem_dask.field.robust import robust_weights, weights_of_squares
from ssem_dask.types import Float64Array, IndexArray, ShapeYX

OUTLIER = 4.0
"""Standard deviations at which a landmark or a far pair has lost half of its weight."""
FAR_PARAMETERS = (2, 3)
"""Parameters of `affine_log` that far pairs determine: rotation and scale."""
_FRAME_IRLS_ITERATIONS = 10
_LEAST_FAR_PX = 1e-3
"""Least standard deviation of a far pair, px."""
_MAD_OF_SIGMA = 0.6745
"""Median absolute deviation of a Gaussian, in its standard deviations."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Points of sections, and their places in a reference."""

    z: Int[IndexArray, " n"]
    """Section."""
    source: Float[Float64Array, "n 2"]
    """Place in the source section, mip-0 px."""
    reference: Float[Float64Array, "n 2"]
    """Place in the reference, in any unit; an affine map takes it to aligned mip-0 px."""
    spread: Float[Float64Array, " n"]
    """Standard deviation per component, mip-0 px."""


@dataclass(frozen=True, slots=True)
class FarPairs:
    """Maps between sections that are far from each other."""

    z: Int[IndexArray, " n"]
    """Fixed section."""
    step: Int[IndexArray, " n"]
    """k, the moving section is z - k."""
    affines: Float[Float64Array, "n 2 3"]
    """Fixed → moving, source frames, full map, mip-0 px."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Observations of where sections belong that do not come from their neighbours."""

    landmarks: Landmarks | None
    far: FarPairs | None
    use_reference_frame: bool
    """Whether aligned sections take the place of the reference; otherwise they stay about where the sections were."""

    def upright(self, gross: Float[Float64Array, "Z 2 3"]) -> "Anchors":
        """Return the same, seen from sections without their gross maps, upright → source."""
        inverse = np.array([invert_affine(g) for g in gross])
        landmarks, far = self.landmarks, self.far
        if landmarks is not None:
            maps = inverse[landmarks.z]
            source = np.einsum("nij,nj->ni", maps[:, :, :2], landmarks.source) + maps[:, :, 2]
            landmarks = replace(landmarks, source=source)
        if far is not None:
            affines = [
                compose_affine(outer=inverse[z - k], inner=compose_affine(outer=m, inner=gross[z]))
                for z, k, m in zip(far.z, far.step, far.affines, strict=True)
            ]
            far = replace(far, affines=np.array(affines))
        return replace(self, landmarks=landmarks, far=far)


@dataclass(frozen=True, slots=True)
class AnchorState:
    """Estimates that one solve passes on to the next."""

    frame: Float[Float64Array, "2 3"] | None
    """Reference → aligned; None without landmarks."""
    landmark_weights: Float[Float64Array, " landmarks"]
    """Robust weights, 0 to 1."""
    far_weights: Float[Float64Array, " pairs"]
    """Robust weights, 0 to 1."""


def landmark_rows(
    landmarks: Landmarks,
    state: AnchorState,
    current: Float[Float64Array, "Z 6"],
    model: SequenceModel,
    *,
    shape_yx: ShapeYX,
) -> Rows:
    """Return y = A⁻¹(source - A(x)) + J(x) a, with A the linear part of the section's map, x the reference's point."""
    assert state.frame is not None
    x = landmarks.reference @ state.frame[:, :2].T + state.frame[:, 2]
    maps = from_parameters(current, shape_yx=shape_yx)[landmarks.z]
    error = landmarks.source - np.einsum("nij,nj->ni", maps[:, :, :2], x) - maps[:, :, 2]
    unit = unit_displacements(x, shape_yx=shape_yx)
    # Adding what the current parameters predict makes `a` itself the unknown: its prior is the same in all solves.
    values = np.linalg.solve(maps[:, :, :2], error[..., None])[..., 0]
    values += np.einsum("nip,np->ni", unit, current[landmarks.z])
    # x may be displaced by each parameter of its section, and by the place of the reference as a whole.
    section = section_design(model, z=landmarks.z)
    # A weight is a larger variance; 1e-6 keeps it finite.
    spread = np.repeat(landmarks.spread / np.maximum(state.landmark_weights, 1e-6) ** 0.5, 2)
    n = len(x)
    parts = []
    for axis in (0, 1):
        by_section = [diags_array(unit[:, axis, p]) @ section for p in range(6)]
        parts.append(hstack([*by_section, csr_array((n, 6)), csr_array(unit[:, axis])]))
    order = np.arange(2 * n).reshape(2, n).T.ravel()  # dy and dx of a landmark in consecutive rows
    design = csr_array(vstack(parts))[order]
    return Rows(csr_array(diags_array(1.0 / spread) @ design), values.ravel() / spread, spread)


def far_pair_rows(
    far: FarPairs,
    observed: Float[Float64Array, "n 2"],
    *,
    spread: Float[Float64Array, "n 2"],
    weights: Float[Float64Array, " n"],
    model: SequenceModel,
) -> Rows:
    """Return the rows of rotation and scale of each far pair."""
    n = len(observed)
    spreads = (spread / np.maximum(weights, 1e-6)[:, None] ** 0.5).ravel()
    step = section_design(model, z=far.z - far.step) - section_design(model, z=far.z)
    nothing = csr_array(step.shape)
    parts = [
        hstack([step if p == parameter else nothing for p in range(6)] + [csr_array((n, 12))])
        for parameter in FAR_PARAMETERS
    ]
    design = csr_array(vstack(parts))[np.arange(2 * n).reshape(2, n).T.ravel()]
    return Rows(csr_array(diags_array(1.0 / spreads) @ design), observed.ravel() / spreads, spreads)


def fit_frame(
    landmarks: Landmarks, current: Float[Float64Array, "Z 6"], *, shape_yx: ShapeYX
) -> Float[Float64Array, "2 3"]:
    """Return the affine map reference → aligned that most landmarks follow, with the sections where they are now."""
    maps = from_parameters(current, shape_yx=shape_yx)
    aligned = np.array([invert_affine(maps[z]) @ [*p, 1.0] for z, p in zip(landmarks.z, landmarks.source, strict=True)])
    extents = np.linalg.svd(landmarks.reference - landmarks.reference.mean(axis=0), compute_uv=False)
    # Few landmarks, or landmarks on a line, do not determine an affine map: then a shift alone.
    if len(aligned) < 3 or extents[-1] < 1e-3 * max(extents[0], 1e-9):
        shift = np.median(aligned - landmarks.reference, axis=0)
        return np.column_stack([IDENTITY[:, :2], shift])
    weights = np.ones(len(aligned))
    for _ in range(_FRAME_IRLS_ITERATIONS):
        frame = fit_affine(positions=landmarks.reference, targets=aligned, weights=weights)
        error = np.linalg.norm(landmarks.reference @ frame[:, :2].T + frame[:, 2] - aligned, axis=1)
        weights = robust_weights(error, scale=max(2.0 * float(np.median(error)), 1e-3), kind="cauchy")
    return frame


def observe_far_pairs(
    far: FarPairs, current: Float[Float64Array, "Z 6"], *, shape_yx: ShapeYX
) -> Float[Float64Array, "n 2"]:
    """Return f: rotation and scale between the aligned sections, plus their present correction."""
    maps = from_parameters(current, shape_yx=shape_yx)
    between = np.array(
        [
            compose_affine(outer=invert_affine(maps[z - k]), inner=compose_affine(outer=m, inner=maps[z]))
            for z, k, m in zip(far.z, far.step, far.affines, strict=True)
        ]
    )
    observed = to_parameters(between, shape_yx=shape_yx) + current[far.z - far.step] - current[far.z]
    return np.asarray(observed[:, FAR_PARAMETERS])


def far_pair_spread(
    far: FarPairs, *, observed: Float[Float64Array, "n 2"], current: Float[Float64Array, "Z 6"]
) -> Float[Float64Array, "n 2"]:
    """Return standard deviations, from differences of far pairs of consecutive sections.

    What is slow cancels in these differences, found or not. Residuals would not do: drift that is not found yet would
    pass for noise, and never be found. Times √k, since pairs that bridge the same tissue err alike.
    """
    corrected = (current[far.z - far.step] - current[far.z])[:, FAR_PARAMETERS]
    rest, out = observed - corrected, np.empty_like(observed)
    for k in np.unique(far.step):
        chosen = np.flatnonzero(far.step == k)
        steps = np.diff(rest[chosen][np.argsort(far.z[chosen])], axis=0)
        size = np.median(np.abs(steps), axis=0) if len(steps) else np.ones(2)
        # A difference of two has √2 times the standard deviation of one.
        out[chosen] = np.maximum(size / _MAD_OF_SIGMA / 2**0.5, _LEAST_FAR_PX) * float(k) ** 0.5
    return out


def first_far_weights(
    far: FarPairs, *, observed: Float[Float64Array, "n 2"], current: Float[Float64Array, "Z 6"]
) -> Float[Float64Array, " n"]:
    """Return Geman-McClure weights by how far a pair is off from the median of those of the same distance.

    Without them gross errors would spoil the first solve.
    """
    rest, out = observed - (current[far.z - far.step] - current[far.z])[:, FAR_PARAMETERS], np.ones(len(observed))
    for k in np.unique(far.step):
        chosen = far.step == k
        deviation = np.abs(rest[chosen] - np.median(rest[chosen], axis=0))
        scale = np.maximum(np.median(deviation, axis=0) / _MAD_OF_SIGMA, _LEAST_FAR_PX)
        squares = ((deviation / scale) ** 2).sum(axis=1) / 2 / OUTLIER**2
        out[chosen] = weights_of_squares(squares, kind="geman_mcclure")
    return out
