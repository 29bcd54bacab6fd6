"""The linear system of `anchored`: its unknowns, their prior, and rows of observations.

For each of the six parameters of `affine_log` and each section there are distortion d, natural motion m, erratic motion
s and drift g. Then follow the mean motion of each parameter, and six parameters γ of the reference as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse import block_diag, coo_array, csc_array, csr_array, diags_array, hstack, vstack
from scipy.sparse.linalg import splu

from ssem_dask.composition.separation.affine_log import GROUPS
from ssem_dask.composition.separation.jumps import longest_piece
from ssem_dask.composition.separation.sequence import UNKNOWNS_PER_SECTION, SequenceModel, Variances
from ssem_dask.types import Float64Array, IndexArray

UNKNOWNS_WITH_DRIFT = UNKNOWNS_PER_SECTION + 1
"""Unknowns of a section and a parameter: d, m, s, g."""
_DRIFT = 3
"""Place of g among them."""
_GAUGE_PX = 1e-3
"""Standard deviation of g in the middle section, px: fixes what neighbours, landmarks and far pairs leave free."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations, each divided by its standard deviation: values = design @ unknowns + white noise of variance 1."""

    design: csr_array
    values: Float64Array
    spread: Float64Array
    """Standard deviations that they were divided by."""

    def residuals(self, unknowns: Float64Array) -> Float64Array:
        """Return the residuals, px."""
        return np.asarray((self.values - self.design @ unknowns) * self.spread)


@dataclass(frozen=True, slots=True)
class AnchoredSystem:
    """Prior and neighbour pairs; unknowns: per parameter and section d, m, s, g; then 6 mean motions; then γ."""

    model: SequenceModel
    variances: dict[str, Variances]
    walk: Float[Float64Array, "6"]
    """Standard deviation of what passes for motion in the long run, px per section."""
    neighbours: Rows

    @classmethod
    def of(
        cls,
        displacements: Float[Float64Array, "K Z 6"],
        model: SequenceModel,
        *,
        variances: dict[str, Variances],
        walk: Float[Float64Array, "6"],
    ) -> "AnchoredSystem":
        """Build the rows of the neighbour pairs."""
        return cls(model, variances, walk, _neighbour_rows(displacements, model, variances))

    def solve(self, anchors: Sequence[Rows], *, shares: dict[str, float]) -> tuple[Float64Array, float]:
        """Return the posterior means, and the log likelihood of all observations up to a constant.

        Args:
            anchors: rows of landmarks and far pairs.
            shares: of each group's walk along z that is drift, see `anchored.SHARES`.
        """
        observations = [self.neighbours, *anchors]
        scale, prior = self._prior(shares)
        # Unknowns in units of their prior standard deviations: a vanishing one does no harm.
        design = csr_array(vstack([rows.design for rows in observations]) @ diags_array(scale))
        values = np.concatenate([rows.values for rows in observations])
        precision = csc_array(design.T @ design + prior)
        right = design.T @ values
        # Mean motions and γ touch every row, so they would fill the factor: their Schur complement is solved densely.
        inner = precision.shape[0] - 12
        factor = splu(
            csc_array(precision[:inner, :inner]),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        border = precision[:inner, inner:].toarray()
        eliminated = factor.solve(border)
        corner = precision[inner:, inner:].toarray() - border.T @ eliminated
        last = np.linalg.solve(corner, right[inner:] - eliminated.T @ right[:inner])
        first = factor.solve(right[:inner]) - eliminated @ last
        unknowns = np.concatenate([first, last])
        logdet = float(np.log(np.abs(factor.U.diagonal())).sum() + np.linalg.slogdet(corner)[1])
        misfit = float(values @ values - right @ unknowns)
        return unknowns * scale, -0.5 * (logdet + misfit)

    def _prior(self, shares: dict[str, float]) -> tuple[Float64Array, csc_array]:
        """Return prior standard deviations of the unknowns or of their steps, and the precision in these units."""
        count, model = self.model.count, self.model
        scales, blocks = [], []
        tilts = np.zeros(6)
        for name, members in GROUPS:
            v = self.variances[name]
            r, share = v.correlation, shares[name]
            for p in members:
                scale = np.empty((count, UNKNOWNS_WITH_DRIFT))
                # Drift takes its share from the motion, so that neighbour pairs are as likely as without it.
                scale[:, 0], scale[:, 1] = max(v.distortion, 1e-12) ** 0.5, max((1 - share) * v.motion, 1e-12) ** 0.5
                scale[:, 2], scale[:, _DRIFT] = max((1 - share) * v.erratic, 1e-12) ** 0.5, share**0.5 * self.walk[p]
                scale[list(model.jumps), 2] = model.jump_sd
                tilts[p] = v.tilt
                blocks.append(_chain_precision(count, r=r, gauge=(scale[0, _DRIFT] / _GAUGE_PX) ** 2))
                scales.append(scale.ravel())
        borders = np.concatenate([tilts, np.full(6, model.jump_sd)])
        whole = block_diag([*blocks, diags_array(np.ones(12))], format="csc")
        return np.concatenate([*scales, borders]), csc_array(whole)


def _chain_precision(count: int, *, r: float, gauge: float) -> csc_array:
    """Return the prior precision of d, m, s, g of all sections for one parameter, each in units of its scale."""
    first = np.arange(count) * UNKNOWNS_WITH_DRIFT
    rows: list[tuple[IndexArray, IndexArray, Float64Array]] = [(first + i, first + i, np.ones(count)) for i in (0, 2)]
    # m is an AR(1) sequence, g a random walk: both have tridiagonal precisions.
    motion = np.full(count, (1 + r**2) / (1 - r**2))
    motion[0] = motion[-1] = 1 / (1 - r**2) if count > 1 else 1.0
    walk = np.full(count, 2.0)
    walk[0] = walk[-1] = 1.0
    # The walk has no origin of its own: g of the middle section is held at 0.
    walk[count // 2] += gauge
    rows += [(first + 1, first + 1, motion), (first + _DRIFT, first + _DRIFT, walk)]
    for member, link in ((1, -r / (1 - r**2)), (_DRIFT, -1.0)):
        before, after = first[:-1] + member, first[1:] + member
        rows += [(before, after, np.full(count - 1, link)), (after, before, np.full(count - 1, link))]
    i, j, values = (np.concatenate(part) for part in zip(*rows, strict=True))
    return csc_array(coo_array((values, (i, j)), shape=(count * UNKNOWNS_WITH_DRIFT, count * UNKNOWNS_WITH_DRIFT)))


def _neighbour_rows(displacements: Float64Array, model: SequenceModel, variances: dict[str, Variances]) -> Rows:
    """Return the rows of the neighbour pairs, parameter by parameter."""
    designs, values, spreads = [], [], []
    single = pair_design(model)
    for name, members in GROUPS:
        for p in members:
            spread = (variances[name].noise / model.precision) ** 0.5
            designs.append(diags_array(1.0 / spread) @ single)
            values.append(model.gather(displacements[:, :, p]) / spread)
            spreads.append(spread)
    sections = block_diag([d[:, :-1] for d in designs], format="csr")
    tilts = block_diag([d[:, [-1]] for d in designs], format="csr")
    # The place of the reference (γ) does not enter what is between two sections.
    reference = csr_array((sections.shape[0], 6))
    return Rows(csr_array(hstack([sections, tilts, reference])), np.concatenate(values), np.concatenate(spreads))


def pair_design(model: SequenceModel) -> csr_array:
    """Return H of one parameter: d, m, s as in `SequenceModel`, and g beside each d."""
    plain = coo_array(model.design)
    row, column = plain.coords
    section, member = column // UNKNOWNS_PER_SECTION, column % UNKNOWNS_PER_SECTION
    is_mean = column == UNKNOWNS_PER_SECTION * model.count
    new_column = np.where(is_mean, UNKNOWNS_WITH_DRIFT * model.count, UNKNOWNS_WITH_DRIFT * section + member)
    # Neighbour pairs see d + g, so g repeats the entries of d.
    is_distortion = (member == 0) & ~is_mean
    rows = np.concatenate([row, row[is_distortion]])
    columns = np.concatenate([new_column, new_column[is_distortion] + _DRIFT])
    values = np.concatenate([plain.data, plain.data[is_distortion]])
    shape = (plain.shape[0], UNKNOWNS_WITH_DRIFT * model.count + 1)
    return csr_array(coo_array((values, (rows, columns)), shape=shape))


def section_design(model: SequenceModel, *, z: IndexArray) -> csr_array:
    """Return a of sections `z` `(n,)` in the unknowns of one parameter: d + g, and the jumps before the section."""
    n, row = len(z), np.arange(len(z))
    rows, columns = [row, row], [UNKNOWNS_WITH_DRIFT * z, UNKNOWNS_WITH_DRIFT * z + _DRIFT]
    values = [np.ones(n), np.ones(n)]
    # Jumps displace the pieces against the longest one, which stays (`jumps.jump_offsets`).
    origin = longest_piece(model.jumps, count=model.count)
    for jump in model.jumps:
        rows.append(row)
        columns.append(np.full(n, UNKNOWNS_WITH_DRIFT * jump + 2))
        values.append(np.where(origin >= jump, 1.0, 0.0) - np.where(z >= jump, 1.0, 0.0))
    i, j, v = (np.concatenate(part) for part in (rows, columns, values))
    return csr_array(coo_array((v, (i, j)), shape=(n, UNKNOWNS_WITH_DRIFT * model.count)))
