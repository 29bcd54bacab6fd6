"""Slow distortion: what the statistics along z take for biology, pinned by something beside neighbour sections.

To `separation` a distortion that changes slowly along z looks just like motion of the tissue. Two kinds of observations
tell of it:

- *landmarks*: a point of a section, and where it lies in a coarse reference (an X-ray or block-face volume, an atlas);
- *far pairs*: rotation and scale between sections 8 to 32 apart. Tissue as a whole runs obliquely, but it neither turns
  nor swells much, so these two are taken for distortion.

The unknowns of `separation` get one more, g_z: slow distortion, a random walk along z that is 0 in the middle section.
With a = d + g, per parameter of `affine_log`,

    neighbours   T_kz = a_{z-k} - a_z + (m_z + s_z) + … + (m_{z-k+1} + s_{z-k+1}) + e_kz
    landmark     y    = J(x) (a_z + γ) + e,     J(x) the displacements of x by unit parameters
    far pair     f    = a_{z-k} - a_z + e       (rotation and scale alone)

with γ the affine map by which the reference as a whole lies otherwise than the aligned sections: one for all sections,
free. A landmark couples the six parameters, so they are solved for together: one sparse Cholesky-like factor, O(Z).

How fast g walks is fitted: as the share of what passes for motion that is distortion, for each group of parameters, as
what makes landmarks and far pairs most likely. Motion keeps the rest, so that neighbour pairs are as likely as before.
Landmarks and far pairs lose their weight where they contradict all others.

Law: without landmarks and far pairs g = 0 is as good as any, and nothing here is used.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array, diags_array, hstack, vstack

from ssem_dask.composition.separation.affine_log import GROUPS, displacements, from_parameters, to_parameters
from ssem_dask.composition.separation.anchored_system import OWN, Index, Rows, System, section_design, single_design
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.field.affine import IDENTITY, compose_affine, fit_affine, invert_affine
from ssem_dask.types import Float64Array, ShapeYX

OUTLIER = 4.0
"""Standard deviations at which a landmark or a far pair has lost half of its weight."""
FAR_PARAMETERS = (2, 3)
"""Of `affine_log`: rotation and scale."""
SHARES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.9)
"""Of what passes for motion (variance of its walk along z), that may be slow distortion; the first is none."""
_REWEIGHTED = 3
"""Solves of a turn, each with new weights of landmarks and far pairs."""
_LEAST_FAR = 1e-3
"""px: least standard deviation of a far pair."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Points of sections, and where they lie in a reference."""

    z: Index
    """`(n,)`."""
    source: Float64Array
    """`(n, 2)`: in the source section, mip-0 px."""
    reference: Float64Array
    """`(n, 2)`: in the reference, in px of its own or any other unit; an affine map takes it to aligned mip-0 px."""
    spread: Float64Array
    """`(n,)`: standard deviation per component, mip-0 px."""


@dataclass(frozen=True, slots=True)
class FarPairs:
    """Maps between sections that are far from each other."""

    z: Index
    """`(n,)` fixed sections."""
    step: Index
    """`(n,)`: k, the moving section is z - k."""
    affines: Float64Array
    """`(n, 2, 3)`: fixed → moving, source frames, full map, mip-0 px."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known of the sections' places beside their neighbours."""

    landmarks: Landmarks | None
    far: FarPairs | None
    adopt: bool
    """Whether aligned sections are to lie as the reference does; else the reference's own place is left out."""


@dataclass(frozen=True, slots=True)
class SlowSolution:
    """Posterior means, parameters of `affine_log`, px."""

    sections: Float64Array
    """a = d + g `(Z, 6)`."""
    slow: Float64Array
    """g `(Z, 6)`."""
    motion: Float64Array
    """m `(Z, 6)`, its mean included."""
    leaps: Float64Array
    """s `(Z, 6)`."""
    residual: Float64Array
    """`(K, Z, 6)` of the neighbour pairs; NaN where nothing was observed."""


@dataclass(frozen=True, slots=True)
class SlowFound:
    """What pins slow distortion, and what came of it."""

    slow: Float64Array
    """g `(Z, 6)`, parameters of `affine_log`, px."""
    shares: dict[str, float]
    """Of what passes for motion, that is slow distortion, for each group of parameters."""
    frame: Float64Array | None
    """`(2, 3)`: reference → aligned."""
    misses: Float64Array
    """`(n,)`: distance of each landmark from where it is to be, px."""
    doubted: Index
    """Landmarks that contradict the others, and lost more than half of their weight."""
    far: int
    """Number of far pairs."""
    far_doubted: int
    """Those of them that lost more than half of their weight."""


@dataclass(slots=True)
class SlowSolver:
    """The solve of one volume; holds what is found out from turn to turn."""

    beside: Beside
    shape_yx: ShapeYX
    frame: Float64Array | None = None
    """`(2, 3)`: reference → aligned."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of each group, see `SHARES`."""
    landmark_weights: Float64Array = field(default_factory=lambda: np.zeros(0))
    far_weights: Float64Array = field(default_factory=lambda: np.zeros(0))
    far_spread: Float64Array = field(default_factory=lambda: np.zeros(0))
    """`(n, 2)`: standard deviations of rotation and scale, px."""
    misses: Float64Array = field(default_factory=lambda: np.zeros(0))
    slow: Float64Array = field(default_factory=lambda: np.zeros((0, 6)))

    def found(self) -> SlowFound:
        """After the last solve."""
        return SlowFound(
            slow=self.slow,
            shares=self.shares,
            frame=self.frame,
            misses=self.misses,
            doubted=np.flatnonzero(self.landmark_weights < 0.5),
            far=len(self.far_weights),
            far_doubted=int((self.far_weights < 0.5).sum()),
        )

    def solve(
        self,
        total: Float64Array,
        model: SequenceModel,
        *,
        variances: dict[str, Variances],
        motion: Float64Array,
        current: Float64Array,
        settle: bool,
    ) -> SlowSolution:
        """Solve for all parameters at once.

        Args:
            total: T `(K, Z, 6)`, px.
            model: weights of the pairs, and breaks.
            variances: of each group, as the solve shall believe them.
            motion: `(Z, 6)`, as a solve without g found it: g may walk about as much.
            current: a `(Z, 6)`, where T was taken.
            settle: keep the shares that were found before.
        """
        self._begin(current)
        system = System(model, variances, self._walk(variances, motion), total)
        solution = None
        for turn in range(_REWEIGHTED):
            self._observe(system, current)
            if turn == 0 and not (settle and self.shares):
                self.shares = self._fitted(system)
            unknowns, _ = system.solved(self.shares)
            solution = self._read(unknowns, system)
        assert solution is not None
        if self.frame is not None:
            moved = from_parameters(unknowns[-6:], shape_yx=self.shape_yx)
            self.frame = compose_affine(outer=moved, inner=self.frame)
        return solution

    def _begin(self, current: Float64Array) -> None:
        """First guesses."""
        landmarks, far = self.beside.landmarks, self.beside.far
        if landmarks is not None and self.frame is None:
            self.frame = _frame_of(landmarks, current, shape_yx=self.shape_yx)
            self.landmark_weights = np.ones(len(landmarks.z))
        if far is not None and not len(self.far_weights):
            observed = _far_observed(far, current, shape_yx=self.shape_yx)
            self.far_weights = _first_weights(far, observed, current)

    def _observe(self, system: System, current: Float64Array) -> None:
        """Rows of landmarks and far pairs with their present weights."""
        landmarks, far, model = self.beside.landmarks, self.beside.far, system.model
        if landmarks is not None and self.frame is not None:
            weights = self.landmark_weights
            system.landmarks = _landmark_rows(landmarks, self.frame, current, weights, model, shape_yx=self.shape_yx)
        if far is not None:
            observed = _far_observed(far, current, shape_yx=self.shape_yx)
            self.far_spread = _far_spread(far, observed, current)
            system.far = _far_rows(far, observed, self.far_spread, self.far_weights, model)

    def _fitted(self, system: System) -> dict[str, float]:
        """The shares that make everything most likely: one for all, then one group after the other."""
        told = [name for name, _ in GROUPS if self.beside.landmarks is not None or name in ("rotation", "scale")]
        tried = {name: SHARES[0] for name, _ in GROUPS}
        all_alike = [{**tried, **dict.fromkeys(told, share)} for share in SHARES]
        best = max(all_alike, key=lambda shares: system.solved(shares)[1])
        for name in told:
            best = max(({**best, name: share} for share in SHARES), key=lambda shares: system.solved(shares)[1])
        return best

    def _walk(self, variances: dict[str, Variances], motion: Float64Array) -> Float64Array:
        """`(6,)` px per section: what passes for motion, in the long run."""
        out = np.zeros(6)
        for name, members in GROUPS:
            v, r = variances[name], variances[name].correlation
            lasting = float((motion[:, members].mean(axis=0) ** 2).mean())
            out[list(members)] = (v.motion * (1 + r) / (1 - r) + v.erratic + lasting) ** 0.5
        return np.maximum(out, 1e-6)

    def _read(self, unknowns: Float64Array, system: System) -> SlowSolution:
        """What was found; gives landmarks and far pairs the weights that they deserve by it."""
        model, total, count = system.model, system.total, system.model.count
        own, tilt = unknowns[: 6 * count * OWN].reshape(6, count, OWN), unknowns[-12:-6]
        d, m, s, g = (own[:, :, i].T for i in range(OWN))
        if system.landmarks is not None and self.beside.landmarks is not None:
            missed = system.landmarks.missed(unknowns).reshape(-1, 2)
            self.misses = np.linalg.norm(missed, axis=1)
            length = self.misses / self.beside.landmarks.spread / 2**0.5
            # As long as most are off, none of them is an outlier.
            self.landmark_weights = 1.0 / (1.0 + (length / (OUTLIER * max(float(np.median(length)), 1.0))) ** 2)
        if system.far is not None and self.beside.far is not None:
            missed = system.far.missed(unknowns).reshape(-1, 2)
            self.far_weights = 1.0 / (1.0 + ((missed / self.far_spread) ** 2).sum(axis=1) / 2 / OUTLIER**2)
        values = np.stack([model.pick(total[:, :, p]) for p in range(6)], axis=1)
        single, self.slow = single_design(model), g
        expected = np.stack([single @ np.concatenate([own[p].ravel(), tilt[[p]]]) for p in range(6)], axis=1)
        return SlowSolution(d + g, g, m + tilt, s, model.spread(values - expected))


def _landmark_rows(
    landmarks: Landmarks,
    frame: Float64Array,
    current: Float64Array,
    weights: Float64Array,
    model: SequenceModel,
    *,
    shape_yx: ShapeYX,
) -> Rows:
    """y = A⁻¹(source - A(x)) + J(x) a, with A the linear part of the section's map and x the reference's point."""
    x = landmarks.reference @ frame[:, :2].T + frame[:, 2]
    maps = from_parameters(current, shape_yx=shape_yx)[landmarks.z]
    missed = landmarks.source - np.einsum("nij,nj->ni", maps[:, :, :2], x) - maps[:, :, 2]
    unit = displacements(x, shape_yx=shape_yx)
    values = np.linalg.solve(maps[:, :, :2], missed[..., None])[..., 0]
    values += np.einsum("nip,np->ni", unit, current[landmarks.z])
    # x may be displaced by each parameter of its section, and by the reference's own place.
    held = section_design(model, z=landmarks.z)
    spread = np.repeat(landmarks.spread / np.maximum(weights, 1e-6) ** 0.5, 2)
    n = len(x)
    parts = []
    for axis in (0, 1):
        own = [diags_array(unit[:, axis, p]) @ held for p in range(6)]
        parts.append(hstack([*own, csr_array((n, 6)), csr_array(unit[:, axis])]))
    order = np.arange(2 * n).reshape(2, n).T.ravel()  # (dy, dx) of each landmark beside each other
    design = csr_array(vstack(parts))[order]
    return Rows(csr_array(diags_array(1.0 / spread) @ design), values.ravel() / spread, spread)


def _far_rows(
    far: FarPairs, observed: Float64Array, spread: Float64Array, weights: Float64Array, model: SequenceModel
) -> Rows:
    """Of each far pair rotation and scale."""
    n = len(observed)
    spreads = (spread / np.maximum(weights, 1e-6)[:, None] ** 0.5).ravel()
    step = [section_design(model, z=far.z - far.step) - section_design(model, z=far.z) for p in FAR_PARAMETERS]
    nothing = csr_array(step[0].shape)
    rotation, scale = FAR_PARAMETERS
    parts = [
        hstack([step[member] if p == parameter else nothing for p in range(6)] + [csr_array((n, 12))])
        for member, parameter in enumerate((rotation, scale))
    ]
    design = csr_array(vstack(parts))[np.arange(2 * n).reshape(2, n).T.ravel()]
    return Rows(csr_array(diags_array(1.0 / spreads) @ design), observed.ravel() / spreads, spreads)


def _frame_of(landmarks: Landmarks, current: Float64Array, *, shape_yx: ShapeYX) -> Float64Array:
    """The affine map reference → aligned that most landmarks follow, with the sections where they lie so far."""
    maps = from_parameters(current, shape_yx=shape_yx)
    seen = np.array([invert_affine(maps[z]) @ [*p, 1.0] for z, p in zip(landmarks.z, landmarks.source, strict=True)])
    spread = np.linalg.svd(landmarks.reference - landmarks.reference.mean(axis=0), compute_uv=False)
    if len(seen) < 3 or spread[-1] < 1e-3 * max(spread[0], 1e-9):  # fewer than three directions: a shift alone
        shift = np.median(seen - landmarks.reference, axis=0)
        return np.column_stack([IDENTITY[:, :2], shift])
    weights = np.ones(len(seen))
    for _ in range(10):
        found = fit_affine(positions=landmarks.reference, targets=seen, weights=weights)
        miss = np.linalg.norm(landmarks.reference @ found[:, :2].T + found[:, 2] - seen, axis=1)
        weights = 1.0 / (1.0 + (miss / max(2.0 * float(np.median(miss)), 1e-3)) ** 2)
    return found


def _far_observed(far: FarPairs, current: Float64Array, *, shape_yx: ShapeYX) -> Float64Array:
    """f `(n, 2)`: rotation and scale between the undistorted sections, and what is held of their distortion."""
    maps = from_parameters(current, shape_yx=shape_yx)
    left = np.array(
        [
            compose_affine(outer=invert_affine(maps[z - k]), inner=compose_affine(outer=m, inner=maps[z]))
            for z, k, m in zip(far.z, far.step, far.affines, strict=True)
        ]
    )
    seen = to_parameters(left, shape_yx=shape_yx) + current[far.z - far.step] - current[far.z]
    return np.asarray(seen[:, FAR_PARAMETERS])


def _far_spread(far: FarPairs, observed: Float64Array, current: Float64Array) -> Float64Array:
    """From the differences of pairs of consecutive sections, in which what is slow cancels, found or not.

    Residuals would not do: what is not found yet would pass for noise, and never be found. ×√k, since pairs that bridge
    the same tissue err alike.
    """
    held = (current[far.z - far.step] - current[far.z])[:, FAR_PARAMETERS]
    rest, out = observed - held, np.empty_like(observed)
    for k in np.unique(far.step):
        inside = np.flatnonzero(far.step == k)
        steps = np.diff(rest[inside][np.argsort(far.z[inside])], axis=0)
        size = np.median(np.abs(steps), axis=0) if len(steps) else np.ones(2)
        out[inside] = np.maximum(size / 0.6745 / 2**0.5, _LEAST_FAR) * float(k) ** 0.5
    return out


def _first_weights(far: FarPairs, observed: Float64Array, current: Float64Array) -> Float64Array:
    """By how far a pair is off from most of the same distance; without this, gross errors spoil the first solve."""
    rest, out = observed - (current[far.z - far.step] - current[far.z])[:, FAR_PARAMETERS], np.ones(len(observed))
    for k in np.unique(far.step):
        inside = far.step == k
        off = np.abs(rest[inside] - np.median(rest[inside], axis=0))
        usual = np.maximum(np.median(off, axis=0) / 0.6745, _LEAST_FAR)
        out[inside] = 1.0 / (1.0 + ((off / usual) ** 2).sum(axis=1) / 2 / OUTLIER**2) ** 2
    return out
