"""Drift: distortion that changes slowly along z, determined by anchors: observations other than neighbour pairs.

To `sequence` such a distortion looks just like motion of the tissue. Two kinds of anchors separate them:

- *landmarks*: a point of a section, and its place in a coarse reference (an X-ray or block-face volume, an atlas);
- *far pairs*: rotation and scale between sections 8 to 32 apart. Tissue as a whole runs obliquely, but it neither turns
  nor swells much, so these two are taken for distortion.

The unknowns of `sequence` get one more, the drift g_z: a random walk along z that is 0 in the middle section. With
a = d + g, per parameter of `affine_log`,

    neighbours   T_kz = a_{z-k} - a_z + (m_z + s_z) + … + (m_{z-k+1} + s_{z-k+1}) + e_kz
    landmark     y    = J(x) (a_z + γ) + e,     J(x) the displacements of x by unit parameters
    far pair     f    = a_{z-k} - a_z + e       (rotation and scale alone)

with γ the affine map between the reference as a whole and the aligned sections: one for all sections, free. A landmark
couples the six parameters, so they are solved for together: one sparse Cholesky-like factor, O(Z).

How far g walks is fitted, for each group of parameters: as the share of what passes for motion that makes landmarks and
far pairs most likely. Motion keeps the rest, so that neighbour pairs are as likely as before. Landmarks and far pairs
that contradict all others are down-weighted (IRLS).

Law: without landmarks and far pairs g = 0 is as good as any other, and nothing here is used.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ssem_dask.composition.separation.affine_log import GROUPS, from_parameters
from ssem_dask.composition.separation.anchor_observations import (
    OUTLIER,
    Anchors,
    AnchorState,
    far_pair_rows,
    far_pair_spread,
    first_far_weights,
    fit_frame,
    landmark_rows,
    observe_far_pairs,
)
from ssem_dask.composition.separation.anchored_system import UNKNOWNS_WITH_DRIFT, AnchoredSystem, Rows, pair_design
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.field.affine import compose_affine
from ssem_dask.field.robust import robust_weights, weights_of_squares
from ssem_dask.types import Float64Array, IndexArray, ShapeYX

SHARES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.9)
"""Shares of the walk along z (variance) of what passes for motion that are tried for drift; the first is none."""
_IRLS_ITERATIONS = 3
"""Solves per call, each with new weights of landmarks and far pairs."""


@dataclass(frozen=True, slots=True)
class AnchoredSolution:
    """Posterior means, parameters of `affine_log`, px."""

    sections: Float[Float64Array, "Z 6"]
    """a = d + g."""
    drift: Float[Float64Array, "Z 6"]
    """g."""
    motion: Float[Float64Array, "Z 6"]
    """m, its mean included."""
    erratic: Float[Float64Array, "Z 6"]
    """s."""
    residual: Float[Float64Array, "K Z 6"]
    """Residuals of the neighbour pairs; NaN if nothing was observed."""
    shares: dict[str, float]
    """Share of what passes for motion that is drift, for each group of parameters."""
    landmark_errors: Float[Float64Array, " n"]
    """Distance of each landmark from where it should be, px."""
    state: AnchorState


@dataclass(frozen=True, slots=True)
class DriftResult:
    """The drift that was undone, and how well the anchors agree with it."""

    drift: Float[Float64Array, "Z 6"]
    """g, parameters of `affine_log`, px."""
    shares: dict[str, float]
    """Share of what passes for motion that is drift, for each group of parameters."""
    frame: Float[Float64Array, "2 3"] | None
    """Reference → aligned."""
    landmark_errors: Float[Float64Array, " n"]
    """Distance of each landmark from where it should be, px."""
    landmark_outliers: Int[IndexArray, " m"]
    """Landmarks that contradict the others, and lost more than half of their weight."""
    far_pairs: int
    """Number of far pairs."""
    far_outliers: int
    """Number of far pairs that lost more than half of their weight."""

    @classmethod
    def of(cls, solution: AnchoredSolution) -> "DriftResult":
        """Collect what is reported about a solution."""
        state = solution.state
        return cls(
            drift=solution.drift,
            shares=solution.shares,
            frame=state.frame,
            landmark_errors=solution.landmark_errors,
            landmark_outliers=np.flatnonzero(state.landmark_weights < 0.5),
            far_pairs=len(state.far_weights),
            far_outliers=int((state.far_weights < 0.5).sum()),
        )


@dataclass(frozen=True, slots=True)
class _AnchorRows:
    """Rows of landmarks and far pairs with their present weights."""

    landmarks: Rows | None
    far: Rows | None
    far_spread: Float64Array
    """`(n, 2)`: standard deviations of rotation and scale, px, of full weight."""

    @property
    def rows(self) -> list[Rows]:
        return [rows for rows in (self.landmarks, self.far) if rows is not None]


@dataclass(frozen=True, slots=True)
class AnchoredSolver:
    """The solve of one volume."""

    anchors: Anchors
    shape_yx: ShapeYX
    """Section, mip-0 px."""

    def solve(
        self,
        displacements: Float[Float64Array, "K Z 6"],
        model: SequenceModel,
        *,
        variances: dict[str, Variances],
        motion: Float[Float64Array, "Z 6"],
        current: Float[Float64Array, "Z 6"],
        state: AnchorState | None,
        shares: dict[str, float] | None,
    ) -> AnchoredSolution:
        """Solve for all parameters at once.

        Args:
            displacements: T, px.
            model: weights of the pairs, and jumps.
            variances: prior variances of each group.
            motion: m as a solve without drift found it; the drift may walk about as much.
            current: a at which T was linearised.
            state: as the solve before left it; None starts from scratch.
            shares: of drift, for each group; None fits them.
        """
        if state is None:
            state = self._first_state(current)
        system = AnchoredSystem.of(displacements, model, variances=variances, walk=_long_run_walk(variances, motion))
        anchors = self._anchor_rows(model, current, state)
        if shares is None:
            shares = self._fit_shares(system, anchors.rows)
        unknowns, _ = system.solve(anchors.rows, shares=shares)
        state, landmark_errors = self._reweighted(unknowns, anchors, state)
        # IRLS: weigh landmarks and far pairs by their residuals, and solve again.
        for _ in range(1, _IRLS_ITERATIONS):
            anchors = self._anchor_rows(model, current, state)
            unknowns, _ = system.solve(anchors.rows, shares=shares)
            state, landmark_errors = self._reweighted(unknowns, anchors, state)
        if state.frame is not None:
            # γ moves the reference as a whole: the next solve is linearised there.
            reference_shift = from_parameters(unknowns[-6:], shape_yx=self.shape_yx)
            frame = compose_affine(outer=reference_shift, inner=state.frame)
            state = AnchorState(frame, state.landmark_weights, state.far_weights)
        sections, mean_motion = unknowns[: 6 * model.count * UNKNOWNS_WITH_DRIFT], unknowns[-12:-6]
        d, m, s, g = (part.T for part in np.moveaxis(sections.reshape(6, model.count, UNKNOWNS_WITH_DRIFT), 2, 0))
        return AnchoredSolution(
            sections=d + g,
            drift=g,
            motion=m + mean_motion,
            erratic=s,
            residual=_neighbour_residuals(displacements, model, sections, mean_motion),
            shares=shares,
            landmark_errors=landmark_errors,
            state=state,
        )

    def _first_state(self, current: Float64Array) -> AnchorState:
        """Return first guesses of the reference's place and of the weights."""
        landmarks, far = self.anchors.landmarks, self.anchors.far
        frame, landmark_weights, far_weights = None, np.zeros(0), np.zeros(0)
        if landmarks is not None:
            frame = fit_frame(landmarks, current, shape_yx=self.shape_yx)
            landmark_weights = np.ones(len(landmarks.z))
        if far is not None:
            observed = observe_far_pairs(far, current, shape_yx=self.shape_yx)
            far_weights = first_far_weights(far, observed=observed, current=current)
        return AnchorState(frame, landmark_weights, far_weights)

    def _anchor_rows(self, model: SequenceModel, current: Float64Array, state: AnchorState) -> _AnchorRows:
        """Return the rows of landmarks and far pairs with their present weights."""
        landmarks, far = self.anchors.landmarks, self.anchors.far
        rows, far_rows, far_spread = None, None, np.zeros((0, 2))
        if landmarks is not None and state.frame is not None:
            rows = landmark_rows(landmarks, state, current, model, shape_yx=self.shape_yx)
        if far is not None:
            observed = observe_far_pairs(far, current, shape_yx=self.shape_yx)
            far_spread = far_pair_spread(far, observed=observed, current=current)
            far_rows = far_pair_rows(far, observed, spread=far_spread, weights=state.far_weights, model=model)
        return _AnchorRows(rows, far_rows, far_spread)

    def _fit_shares(self, system: AnchoredSystem, anchors: list[Rows]) -> dict[str, float]:
        """Return the shares of maximum likelihood: one for all groups, then one group after the other."""
        # Without landmarks only rotation and scale are observed; the other groups cannot have drift.
        observed = [name for name, _ in GROUPS if self.anchors.landmarks is not None or name in ("rotation", "scale")]
        none = {name: SHARES[0] for name, _ in GROUPS}
        alike = [{**none, **dict.fromkeys(observed, share)} for share in SHARES]
        best = max(alike, key=lambda shares: system.solve(anchors, shares=shares)[1])
        for name in observed:
            candidates = ({**best, name: share} for share in SHARES)
            best = max(candidates, key=lambda shares: system.solve(anchors, shares=shares)[1])
        return best

    def _reweighted(
        self, unknowns: Float64Array, anchors: _AnchorRows, state: AnchorState
    ) -> tuple[AnchorState, Float64Array]:
        """Return the state with new Cauchy weights, and the errors of the landmarks, px."""
        landmark_weights, far_weights = state.landmark_weights, state.far_weights
        landmark_errors = np.zeros(0)
        if anchors.landmarks is not None and self.anchors.landmarks is not None:
            residual = anchors.landmarks.residuals(unknowns).reshape(-1, 2)
            landmark_errors = np.linalg.norm(residual, axis=1)
            relative = landmark_errors / self.anchors.landmarks.spread / 2**0.5
            # As long as most are off, none of them is an outlier: the stated spread is too small, or the solve is
            # still far from its end.
            scale = OUTLIER * max(float(np.median(relative)), 1.0)
            landmark_weights = robust_weights(relative, scale=scale, kind="cauchy")
        if anchors.far is not None:
            residual = anchors.far.residuals(unknowns).reshape(-1, 2)
            squares = ((residual / anchors.far_spread) ** 2).sum(axis=1) / 2 / OUTLIER**2
            far_weights = weights_of_squares(squares, kind="cauchy")
        return AnchorState(state.frame, landmark_weights, far_weights), landmark_errors


def _long_run_walk(variances: dict[str, Variances], motion: Float64Array) -> Float64Array:
    """Return how far what passes for motion walks in the long run, `(6,)` px per section."""
    out = np.zeros(6)
    for name, members in GROUPS:
        v, r = variances[name], variances[name].correlation
        mean_square = float((motion[:, members].mean(axis=0) ** 2).mean())
        # The sum of n values of an AR(1) sequence has the variance n σ² (1 + r) / (1 - r) for large n.
        out[list(members)] = (v.motion * (1 + r) / (1 - r) + v.erratic + mean_square) ** 0.5
    return np.maximum(out, 1e-6)


def _neighbour_residuals(
    displacements: Float64Array, model: SequenceModel, sections: Float64Array, mean_motion: Float64Array
) -> Float64Array:
    """Return the residuals `(K, Z, 6)` of the neighbour pairs."""
    single, by_parameter = pair_design(model), sections.reshape(6, -1)
    values = np.stack([model.gather(displacements[:, :, p]) for p in range(6)], axis=1)
    expected = [single @ np.concatenate([by_parameter[p], mean_motion[[p]]]) for p in range(6)]
    return model.scatter(values - np.stack(expected, axis=1))
