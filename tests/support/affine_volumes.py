"""Volumes whose sections differ by affine maps alone: distortion, jumps, slow distortion and motion are known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters
from ssem_dask.composition.separation.affine_separation import AffineSeparation, separate_affines
from ssem_dask.composition.separation.anchor_observations import Anchors, FarPairs, Landmarks
from ssem_dask.field.affine import rotation_about
from ssem_dask.types import Float64Array

SHAPE = (400, 500)
THICKNESS = 8.0


@dataclass(frozen=True, slots=True)
class AffineVolume:
    """Pair maps, and what they were made from."""

    pairs: Float64Array
    """`(3, Z, 2, 3)`: fixed z → moving z-k, source frames; NaN where there is none."""
    placed: Float64Array
    """`(Z, 6)`: what each section should be undone of, parameters of `affine_log`, px."""

    @property
    def maps(self) -> Float64Array:
        """`(Z, 3, 3)`: aligned → source."""
        return homogeneous(from_parameters(self.placed, shape_yx=SHAPE))

    def separated(
        self, *, undo_jumps: bool = True, known_jumps: tuple[int, ...] = (), anchors: Anchors | None = None
    ) -> AffineSeparation:
        """Compose the volume."""
        known = np.asarray(np.isfinite(self.pairs).all(axis=(2, 3)), dtype=np.float64)
        return separate_affines(
            self.pairs,
            known,
            shape_yx=SHAPE,
            thickness=THICKNESS,
            certainty=1.0,
            undo_jumps=undo_jumps,
            known_jumps=known_jumps,
            anchors=anchors,
        )

    def errors(self, found: AffineSeparation) -> Float64Array:
        """`(Z, 6)`, px, up to what all sections have in common."""
        left = to_parameters(found.sections, shape_yx=SHAPE) - self.placed
        return np.asarray(left - left.mean(axis=0))


def affine_volume(
    seed: int, *, count: int, jumps: Mapping[int, list[float]] | None = None, slow: Float64Array | None = None
) -> AffineVolume:
    """Random sections: 5 px of shift, 3 px of rotation, 1 px of the rest; motion of 0.5 and 0.15 px, AR(1) along z.

    Args:
        seed: of everything that is random.
        count: of sections.
        jumps: z → parameters, px, by which all sections from z on are displaced.
        slow: `(count, 6)`, px, of slow distortion.
    """
    rng = np.random.default_rng(seed)
    placed = rng.normal(size=(count, 6)) * [5, 5, 3, 1, 1, 1]
    motion = rng.normal(size=(count, 6))
    for z in range(1, count):
        motion[z] = 0.9 * motion[z - 1] + (1 - 0.9**2) ** 0.5 * motion[z]
    motion *= [0.5, 0.5, 0.15, 0.15, 0.15, 0.15]
    for z, jump in (jumps or {}).items():
        placed[z:] += jump
    if slow is not None:
        placed += slow
    maps, moved = (homogeneous(from_parameters(p, shape_yx=SHAPE)) for p in (placed, motion))
    pairs = np.full((3, count, 2, 3), np.nan)
    for z in range(count):
        through = np.eye(3)
        for k in range(1, min(z, 3) + 1):
            through = moved[z - k + 1] @ through
            noise = from_parameters(rng.normal(size=6) * 0.2 * k * np.array([1, 1, 0.5, 0.5, 0.5, 0.5]), shape_yx=SHAPE)
            pairs[k - 1, z] = (maps[z - k] @ through @ homogeneous(noise) @ np.linalg.inv(maps[z]))[:2]
    return AffineVolume(pairs, placed)


def slow_drift(count: int) -> Float64Array:
    """Slow distortion `(count, 6)`, px: 60 px of shift along y, 36 along x, 20 px (rms) of turning, 15 of swelling."""
    t = np.linspace(0, 1, count)
    return np.column_stack([60 * t**2, -40 * np.sin(2 * t), 20 * t, 15 * t, 0 * t, 0 * t])


def homogeneous(affines: Float64Array) -> Float64Array:
    """`(…, 3, 3)` of `(…, 2, 3)`."""
    last = np.broadcast_to([[0.0, 0.0, 1.0]], (*affines.shape[:-2], 1, 3))
    return np.concatenate([affines, last], axis=-2)


FRAME = homogeneous(rotation_about(degrees=30, centre=(0, 0), shift=(100, 50), scale=0.2))
"""Aligned → reference: turned, shifted, and with pixels five times as large."""


COUNT = 40


def landmarks(
    made: AffineVolume, rng: np.random.Generator, *, count: int = COUNT, every: int = 8, wrong: int = 0
) -> Landmarks:
    """Four landmarks in every eighth section, 2 px off; the first ones by 60."""
    z = np.repeat(np.arange(2, count, every), 4)
    true = rng.random((len(z), 2)) * SHAPE
    source = np.einsum("nij,nj->ni", made.maps[z, :2, :2], true) + made.maps[z, :2, 2] + rng.normal(size=true.shape) * 2
    source[3 : 3 + 5 * wrong : 5] += 60
    return Landmarks(z, source, true @ FRAME[:2, :2].T + FRAME[:2, 2], np.full(len(z), 2.0))


def far_pairs(made: AffineVolume, rng: np.random.Generator, *, count: int = COUNT) -> FarPairs:
    """Pairs 8, 16 and 32 apart, without weight for shift and shear."""
    z = np.concatenate([np.arange(k, count) for k in (8, 16, 32)])
    k = np.concatenate([np.full(count - k, k) for k in (8, 16, 32)])
    noise = homogeneous(from_parameters(rng.normal(size=(len(z), 6)) * [9, 9, 1, 1, 5, 5], shape_yx=SHAPE))
    return FarPairs(z, k, (made.maps[z - k] @ noise @ np.linalg.inv(made.maps[z]))[:, :2])


def wander(errors: Float64Array) -> Float64Array:
    """Largest error along z of shift (y, x), rotation and scale, px."""
    return np.asarray(np.abs(errors).max(axis=0))[:4]
