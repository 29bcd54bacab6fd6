"""Logarithms of affine maps: six numbers per map, in px, that add up when small maps are composed.

A map is seen from the centre of the section. Each of the six numbers is an rms displacement over the section, in px:
shift y, shift x, rotation, scale and two shears. The four linear ones are orthogonal as displacements of the section's
points, whatever its aspect. So in a long strip rotation and scale are what happens along it, and the shears what
happens across it, where few px say little: an error there is small in px, and stays out of rotation and scale.
Laws: `from_parameters(to_parameters(A)) == A`; the parameters of the inverse map are the negative ones.

Source: Arsigny, Commowick, Ayache & Pennec, J. Mathematical Imaging and Vision 33, 2009, doi:10.1007/s10851-008-0135-9.
"""

import numpy as np
from jaxtyping import Bool, Float

from ssem_dask.types import BoolArray, Float64Array, ShapeYX

GROUPS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("shift", (0, 1)),
    ("rotation", (2,)),
    ("scale", (3,)),
    ("shear", (4, 5)),
)
"""Parameters that share their statistics."""
_LARGEST_ROTATION = np.deg2rad(165.0)
"""Rotation up to which the logarithm is computed: towards 180° it loses its digits."""


def rms_radius(shape_yx: ShapeYX) -> float:
    """Return ρ, the rms distance of a section's points from its centre, px."""
    return float(np.hypot(*shape_yx) / 12**0.5)


def _generators(shape_yx: ShapeYX) -> Float[Float64Array, "4 2 2"]:
    """Return rotation, scale, and two shears, each of rms displacement 1 over the section and orthogonal to the others.

    In a square section these are the shears along the axes and along the diagonals.
    """
    y, x = (float(n) / 12**0.5 for n in shape_yx)
    rotation, scale = [[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    axes, diagonals = [[x / y, 0.0], [0.0, -y / x]], [[0.0, y / x], [x / y, 0.0]]
    return np.array([rotation, scale, axes, diagonals], dtype=np.float64) / np.float64(np.hypot(y, x))


def has_parameters(affines: Float[Float64Array, "*n 2 3"]) -> Bool[BoolArray, "*n"]:
    """Return which maps are known, no reflections, and rotations well below 180°: others have no real logarithm."""
    linear = affines[..., :2]
    determinant = linear[..., 0, 0] * linear[..., 1, 1] - linear[..., 0, 1] * linear[..., 1, 0]
    trace = linear[..., 0, 0] + linear[..., 1, 1]
    # The trace is 2 √det cos φ for a rotation by φ with any scale.
    return np.asarray(
        np.isfinite(affines).all(axis=(-1, -2))
        & (determinant > 0)
        & (trace > 2 * np.cos(_LARGEST_ROTATION) * np.sqrt(np.maximum(determinant, 0)))
    )


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
    # The generators are orthonormal as displacements, so a product with each of them gives its share.
    spread = np.asarray(shape_yx) ** 2 / 12
    linear_part = np.einsum("...ij,pij,j->...p", logs[..., :2, :2], _generators(shape_yx), spread)
    out = np.concatenate([logs[..., :2, 2] * rho, linear_part], axis=-1)
    out[~known] = np.nan
    return np.asarray(out)


def from_parameters(parameters: Float[Float64Array, "*n 6"], *, shape_yx: ShapeYX) -> Float[Float64Array, "*n 2 3"]:
    """Return the affine maps of parameters, px."""
    centre, rho = np.asarray(shape_yx) / 2, rms_radius(shape_yx)
    logs = np.zeros((*parameters.shape[:-1], 3, 3))
    logs[..., :2, 2] = parameters[..., :2] / rho
    logs[..., :2, :2] = np.einsum("...p,pij->...ij", parameters[..., 2:], _generators(shape_yx))
    matrices = _exp(logs)
    linear = matrices[..., :2, :2]
    shift = matrices[..., :2, 2] * rho + centre - linear @ centre
    return np.concatenate([linear, shift[..., None]], axis=-1)


def unit_displacements(points: Float[Float64Array, "n 2"], *, shape_yx: ShapeYX) -> Float[Float64Array, "n 2 6"]:
    """Return J: the displacements of points, mip-0 px, per px of each parameter, to first order."""
    local = points - np.asarray(shape_yx) / 2
    shift = np.broadcast_to(np.eye(2), (len(points), 2, 2))
    return np.concatenate([shift, np.einsum("pij,nj->nip", _generators(shape_yx), local)], axis=2)


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
