"""Logarithms of affine maps: six numbers per map, in px, that add up when small maps are composed.

A map is seen from the centre of the section, in units of the section's rms radius ρ. So each of the six numbers is an
rms displacement over the section, in px: shift y, shift x, rotation, scale and two shears.
Laws: `from_parameters(to_parameters(A)) == A`; the parameters of the inverse map are the negative ones.

Source: Arsigny, Commowick, Ayache & Pennec, J. Mathematical Imaging and Vision 33, 2009, doi:10.1007/s10851-008-0135-9.
"""

import numpy as np
from jaxtyping import Float

from ssem_dask.types import Float64Array, ShapeYX

GROUPS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("shift", (0, 1)),
    ("rotation", (2,)),
    ("scale", (3,)),
    ("shear", (4, 5)),
)
"""Parameters that share their statistics."""

# Generators: rotation, scale, shear along the axes, shear along the diagonals; each of rms displacement 1.
_BASIS = np.array(
    [[[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]]
)


def rms_radius(shape_yx: ShapeYX) -> float:
    """Return ρ, the rms distance of a section's points from its centre, px."""
    return float(np.hypot(*shape_yx) / 12**0.5)


def to_parameters(affines: Float[Float64Array, "*n 2 3"], *, shape_yx: ShapeYX) -> Float[Float64Array, "*n 6"]:
    """Return the parameters, px, of affine maps; NaN stays NaN."""
    centre, rho = np.asarray(shape_yx) / 2, rms_radius(shape_yx)
    known = np.isfinite(affines).all(axis=(-1, -2))
    # Unknown maps pass through the logarithm as the identity, since a NaN would spoil the whole batch.
    matrices = np.broadcast_to(np.eye(3), (*affines.shape[:-2], 3, 3)).copy()
    linear = affines[known][:, :, :2]
    local = np.zeros((len(linear), 3, 3))
    local[:, 2, 2] = 1.0
    local[:, :2, :2] = linear
    local[:, :2, 2] = (affines[known][:, :, 2] + linear @ centre - centre) / rho
    matrices[known] = local
    logs = _log(matrices)
    # The generators are orthogonal, each of squared Frobenius norm 2.
    generators = np.einsum("...ij,pij->...p", logs[..., :2, :2], _BASIS) / 2
    out = np.concatenate([logs[..., :2, 2], generators], axis=-1) * rho
    out[~known] = np.nan
    return np.asarray(out)


def from_parameters(parameters: Float[Float64Array, "*n 6"], *, shape_yx: ShapeYX) -> Float[Float64Array, "*n 2 3"]:
    """Return the affine maps of parameters, px."""
    centre, rho = np.asarray(shape_yx) / 2, rms_radius(shape_yx)
    logs = np.zeros((*parameters.shape[:-1], 3, 3))
    logs[..., :2, 2] = parameters[..., :2] / rho
    logs[..., :2, :2] = np.einsum("...p,pij->...ij", parameters[..., 2:] / rho, _BASIS)
    matrices = _exp(logs)
    linear = matrices[..., :2, :2]
    shift = matrices[..., :2, 2] * rho + centre - linear @ centre
    return np.concatenate([linear, shift[..., None]], axis=-1)


def unit_displacements(points: Float[Float64Array, "n 2"], *, shape_yx: ShapeYX) -> Float[Float64Array, "n 2 6"]:
    """Return J: the displacements of points, mip-0 px, per px of each parameter, to first order."""
    local = (points - np.asarray(shape_yx) / 2) / rms_radius(shape_yx)
    shift = np.broadcast_to(np.eye(2), (len(points), 2, 2))
    return np.concatenate([shift, np.einsum("pij,nj->nip", _BASIS, local)], axis=2)


def _exp(logs: Float64Array) -> Float64Array:
    """Return the matrix exponential, by scaling and squaring; for norms up to about 10."""
    small = logs / 64.0
    out = np.broadcast_to(np.eye(3), logs.shape).copy()
    term = out.copy()
    # Taylor's series to order 9 is exact in double precision for norms up to 10/64.
    for order in range(1, 10):
        term = term @ small / order
        out = out + term
    for _ in range(6):
        out = out @ out
    return out


def _log(matrices: Float64Array) -> Float64Array:
    """Return the matrix logarithm, by inverse scaling and squaring; for rotations below 180° and no reflection."""
    root = matrices
    for _ in range(4):
        root = _square_root(root)
    eye = np.eye(3)
    # log((1 + q)/(1 - q)) = 2 (q + q³/3 + …) converges faster than the series of log(1 + q).
    q = np.linalg.solve(root + eye, root - eye)
    out, power = np.zeros_like(q), q
    for order in (1, 3, 5, 7, 9):
        out = out + 2.0 * power / order
        power = power @ q @ q
    return 16.0 * out


def _square_root(matrices: Float64Array) -> Float64Array:
    """Return the principal square root (Denman & Beavers 1976, doi:10.1016/0096-3003(76)90020-5)."""
    y, z = matrices, np.broadcast_to(np.eye(3), matrices.shape)
    # Newton's iteration converges quadratically; 8 steps reach double precision for rotations below 180°.
    for _ in range(8):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y
