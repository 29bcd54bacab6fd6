"""The linear system that `slow` solves: its unknowns, their prior, and rows of observations.

For each of the six parameters of `affine_log` and each section there are distortion d, natural motion m, erratic motion
s and slow distortion g; then the mean motion of each parameter, and six for the place of the reference as a whole.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, coo_array, csc_array, csr_array, diags_array, hstack, vstack
from scipy.sparse.linalg import splu

from ssem_dask.composition.separation.affine_log import GROUPS
from ssem_dask.composition.separation.jumps import longest_piece
from ssem_dask.composition.separation.sequence import UNKNOWNS, SequenceModel, Variances
from ssem_dask.types import Float64Array

Index = NDArray[np.intp]

OWN = UNKNOWNS + 1
"""Unknowns of a section and a parameter: d, m, s, g."""
_ANCHOR = 1e-3
"""px: of g in the middle section."""


@dataclass(slots=True)
class Rows:
    """Observations, each divided by its standard deviation: values = design @ unknowns + white noise of variance 1."""

    design: csr_array
    values: Float64Array
    spread: Float64Array
    """Standard deviations that they were divided by."""

    def missed(self, unknowns: Float64Array) -> Float64Array:
        """Residuals, px."""
        return np.asarray((self.values - self.design @ unknowns) * self.spread)


@dataclass
class System:
    """All rows; unknowns: for each parameter, for each section d, m, s, g; then 6 tilts; then γ."""

    model: SequenceModel
    variances: dict[str, Variances]
    walk: Float64Array
    """`(6,)` px per section: what passes for motion."""
    total: Float64Array
    landmarks: Rows | None = None
    far: Rows | None = None

    def __post_init__(self) -> None:
        self.neighbours = _neighbour_rows(self.total, self.model, self.variances)

    def solved(self, shares: dict[str, float]) -> tuple[Float64Array, float]:
        """Posterior means, and the log likelihood of all observations up to a constant."""
        given = [rows for rows in (self.neighbours, self.landmarks, self.far) if rows is not None]
        scale, prior = self._prior(shares)
        design = csr_array(vstack([rows.design for rows in given]) @ diags_array(scale))
        values = np.concatenate([rows.values for rows in given])
        precision = csc_array(design.T @ design + prior)
        right = design.T @ values
        inner = precision.shape[0] - 12  # tilts and γ touch everything, so they are eliminated by hand
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
        found = np.concatenate([first, last])
        logdet = float(np.log(np.abs(factor.U.diagonal())).sum() + np.linalg.slogdet(corner)[1])
        misfit = float(values @ values - right @ found)
        return found * scale, -0.5 * (logdet + misfit)

    def _prior(self, shares: dict[str, float]) -> tuple[Float64Array, csc_array]:
        """Prior standard deviations of the unknowns, or of their steps, and their prior precision in these units."""
        count, model = self.model.count, self.model
        scales, blocks = [], []
        tilts = np.zeros(6)
        for name, members in GROUPS:
            v = self.variances[name]
            r, share = v.correlation, shares[name]
            for p in members:
                scale = np.empty((count, OWN))
                scale[:, 0], scale[:, 1] = max(v.distortion, 1e-12) ** 0.5, max((1 - share) * v.motion, 1e-12) ** 0.5
                scale[:, 2], scale[:, 3] = max((1 - share) * v.erratic, 1e-12) ** 0.5, share**0.5 * self.walk[p]
                scale[list(model.breaks), 2] = model.jump
                tilts[p] = v.tilt
                blocks.append(_chain_precision(count, r=r, anchor=(scale[0, 3] / _ANCHOR) ** 2))
                scales.append(scale.ravel())
        borders = np.concatenate([tilts, np.full(6, model.jump)])
        whole = block_diag([*blocks, diags_array(np.ones(12))], format="csc")
        return np.concatenate([*scales, borders]), csc_array(whole)


def _chain_precision(count: int, *, r: float, anchor: float) -> csc_array:
    """Prior precision of d, m, s, g of all sections for one parameter, each in units of its standard deviation."""
    first = np.arange(count) * OWN
    rows: list[tuple[Index, Index, Float64Array]] = [(first + i, first + i, np.ones(count)) for i in (0, 2)]
    motion = np.full(count, (1 + r**2) / (1 - r**2))
    motion[0] = motion[-1] = 1 / (1 - r**2) if count > 1 else 1.0
    walk = np.full(count, 2.0)
    walk[0] = walk[-1] = 1.0
    walk[count // 2] += anchor
    rows += [(first + 1, first + 1, motion), (first + 3, first + 3, walk)]
    for member, link in ((1, -r / (1 - r**2)), (3, -1.0)):
        before, after = first[:-1] + member, first[1:] + member
        rows += [(before, after, np.full(count - 1, link)), (after, before, np.full(count - 1, link))]
    i, j, values = (np.concatenate(part) for part in zip(*rows, strict=True))
    return csc_array(coo_array((values, (i, j)), shape=(count * OWN, count * OWN)))


def _neighbour_rows(total: Float64Array, model: SequenceModel, variances: dict[str, Variances]) -> Rows:
    designs, values, spreads = [], [], []
    single = single_design(model)
    for name, members in GROUPS:
        for p in members:
            spread = (variances[name].noise / model.precision) ** 0.5
            designs.append(diags_array(1.0 / spread) @ single)
            values.append(model.pick(total[:, :, p]) / spread)
            spreads.append(spread)
    own = block_diag([d[:, :-1] for d in designs], format="csr")
    tilts = block_diag([d[:, [-1]] for d in designs], format="csr")
    place = csr_array((own.shape[0], 6))
    return Rows(csr_array(hstack([own, tilts, place])), np.concatenate(values), np.concatenate(spreads))


def single_design(model: SequenceModel) -> csr_array:
    """H of one parameter: d, m, s as in `SequenceModel`, and g beside each d."""
    plain = coo_array(model.design)
    row, column = plain.coords
    section, member = column // UNKNOWNS, column % UNKNOWNS
    last = column == UNKNOWNS * model.count
    moved = np.where(last, OWN * model.count, OWN * section + member)
    distorted = (member == 0) & ~last
    rows = np.concatenate([row, row[distorted]])
    columns = np.concatenate([moved, moved[distorted] + 3])
    values = np.concatenate([plain.data, plain.data[distorted]])
    return csr_array(coo_array((values, (rows, columns)), shape=(plain.shape[0], OWN * model.count + 1)))


def section_design(model: SequenceModel, *, z: Index) -> csr_array:
    """a of sections `z` `(n,)` in the unknowns of one parameter: d + g, and the jumps that lie before the section."""
    n, row = len(z), np.arange(len(z))
    rows, columns, values = [row, row], [OWN * z, OWN * z + 3], [np.ones(n), np.ones(n)]
    origin = longest_piece(model.breaks, count=model.count)
    for b in model.breaks:
        rows.append(row)
        columns.append(np.full(n, OWN * b + 2))
        values.append(np.where(origin >= b, 1.0, 0.0) - np.where(z >= b, 1.0, 0.0))
    i, j, v = (np.concatenate(part) for part in (rows, columns, values))
    return csr_array(coo_array((v, (i, j)), shape=(n, OWN * model.count)))
