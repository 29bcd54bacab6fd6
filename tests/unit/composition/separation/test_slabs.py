"""Slabs: each is separated as if it were alone, then moved as a whole to where the faces fit."""

import numpy as np
import pytest

from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.section_fields import correct_affines
from ssem_dask.composition.relax.slab_levels import JoinedLevels, correct_slabs
from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters
from ssem_dask.composition.separation.slabs import SlabJump, shrunk_jump, slab_frames, slab_ranges
from ssem_dask.field.affine import IDENTITY, compose_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.types import Float64Array

GRID = Grid((16, 16), 32.0)
SHAPE = (512, 512)
MOTION, COUNT, BORDER = 1.0, 40, 20


def natural_motion(seed: int, count: int) -> Float64Array:
    """Places of the tissue in each section, parameters, px: smooth along z."""
    rng = np.random.default_rng(seed)
    steps = np.zeros((count, 6))
    for z in range(1, count):
        steps[z] = 0.9 * steps[z - 1] + rng.normal(size=6) * MOTION * (1 - 0.9**2) ** 0.5
    return steps


def pairs_of(sections: Float64Array, motion: Float64Array, *, steps: int = 3) -> Float64Array:
    """M `(K, Z, 2, 3)` of sections that were placed at `sections`, tissue moving by `motion` from z to z-1."""
    count = len(sections)
    out = np.full((steps, count, 2, 3), np.nan)
    for k in range(1, steps + 1):
        for z in range(k, count):
            tissue = IDENTITY
            for i in range(z, z - k, -1):
                tissue = compose_affine(outer=from_parameters(motion[i], shape_yx=SHAPE), inner=tissue)
            inner = compose_affine(outer=tissue, inner=invert_affine(sections[z]))
            out[k - 1, z] = compose_affine(outer=sections[z - k], inner=inner)
    return out


def still() -> Float64Array:
    return np.broadcast_to(IDENTITY, (COUNT, 2, 3)).copy()


def level(pairs: Float64Array, *, borders: tuple[int, ...] = (BORDER,)) -> JoinedLevels:
    known = np.isfinite(pairs).all(axis=(2, 3)).astype(float)
    return correct_slabs(
        pairs,
        known,
        borders=borders,
        coarse=np.broadcast_to(IDENTITY, (pairs.shape[1], 2, 3)),
        grid=GRID,
        thickness=8.0,
        config=RelaxConfig(),
        anchors=None,
    )


JUMP = np.array([30.0, -20.0, 12.0, 6.0, -4.0, 2.0])


def made(seed: int, *, jump: Float64Array = JUMP, distorted: bool = True) -> tuple[Float64Array, Float64Array]:
    """Sections, the second slab displaced as a whole and distorted section by section; natural motion."""
    rng = np.random.default_rng(seed + 100)
    sections = still()
    for z in range(BORDER, COUNT):
        own = rng.normal(size=6) * 5.0 if distorted else np.zeros(6)
        own = from_parameters(own, shape_yx=SHAPE)
        sections[z] = compose_affine(outer=from_parameters(jump, shape_yx=SHAPE), inner=own)
    return sections, natural_motion(seed, COUNT)


def test_an_undeformed_slab_is_what_it_is_by_itself_whatever_the_next_one_is_like() -> None:
    pairs = pairs_of(*made(1))
    found = level(pairs)
    alone = correct_affines(
        pairs[:, :BORDER],
        np.isfinite(pairs[:, :BORDER]).all(axis=(2, 3)).astype(float),
        coarse=np.broadcast_to(IDENTITY, (BORDER, 2, 3)),
        grid=GRID,
        thickness=8.0,
        config=RelaxConfig(),
        anchors=None,
    )
    np.testing.assert_array_equal(found.levels[0].correction, alone.correction)
    np.testing.assert_allclose(found.correction[:BORDER], alone.correction, atol=1e-9)
    assert found.levels[0].certainty < 0.1 < 0.9 < found.levels[1].certainty
    assert np.abs(to_parameters(found.correction[:BORDER], shape_yx=SHAPE)).max() < 0.5
    # With statistics of both together, the distortion of one is what the other is expected to have.
    together = level(pairs, borders=())
    assert np.abs(to_parameters(together.correction[:BORDER], shape_yx=SHAPE)).max() > 1.0


@pytest.mark.parametrize("seed", [0, 2])
def test_the_displacement_of_a_slab_is_found_and_undone(seed: int) -> None:
    sections, motion = made(seed, distorted=False)
    found = level(pairs_of(sections, motion))
    (jump,) = found.borders
    assert np.linalg.norm(jump.step + JUMP) < 0.1 * np.linalg.norm(JUMP)
    corners = np.array([[0.0, 0.0], [0.0, 512.0], [512.0, 0.0], [512.0, 512.0]])
    for z in range(COUNT):  # where a point of the tissue is shown
        left = compose_affine(outer=invert_affine(sections[z]), inner=found.correction[z])
        shown = np.array([left[:, :2] @ corner + left[:, 2] for corner in corners])
        assert np.abs(shown - corners).max() < (0.5 if z < BORDER else 12.0)
    assert np.isnan(found.natural[BORDER]).all()
    assert np.isfinite(np.delete(found.natural, [0, BORDER], axis=0)).all()


def test_what_natural_motion_could_have_done_moves_no_slab() -> None:
    moved = []
    for seed in range(3):
        (jump,) = level(pairs_of(still(), natural_motion(seed, COUNT))).borders
        moved.append(np.linalg.norm(jump.step))
    assert max(moved) < 1.0


def test_slabs_that_are_alike_share_their_statistics_but_no_section() -> None:
    sections, motion = made(1)
    pairs = pairs_of(sections, motion)
    # Three slabs: one that is distorted between two that are not.
    longer = pairs_of(np.concatenate([sections, still()[:BORDER]]), np.concatenate([motion, natural_motion(5, BORDER)]))
    found = level(longer, borders=(BORDER, COUNT))
    first, second, third = found.levels
    assert [first.certainty < 0.1, second.certainty > 0.9, third.certainty < 0.1] == [True] * 3
    assert (first.variances, first.certainty) == (third.variances, third.certainty)
    # The distorted slab has no equal, so it has what it has by itself.
    assert second.variances == level(pairs).levels[1].variances


def test_a_jump_is_undone_only_as_far_as_natural_motion_makes_none_like_it() -> None:
    natural = np.random.default_rng(3).normal(size=(40, 6))
    natural[::10] *= 4.0  # tissue that ends between two sections
    for size, left in ((1.0, 0.0), (4.0, 0.0), (40.0, 0.99)):
        step = size * natural[0] / np.linalg.norm(natural[0]) * 2.5
        jump = shrunk_jump(SlabJump(20, step, 3), natural)
        assert np.linalg.norm(jump.step) >= left * np.linalg.norm(step)
        assert left or not jump.step.any()
    jump = SlabJump(20, natural[1], 3)
    assert shrunk_jump(jump, np.zeros((0, 6))) == jump


def test_the_longest_slab_stays() -> None:
    slabs = slab_ranges([20, 40, 60], count=70)
    shift = np.array([10.0, 0, 0, 0, 0, 0])
    jumps = [SlabJump(20, shift, 3), SlabJump(40, -shift, 3), SlabJump(60, 0 * shift, 3)]
    frames = slab_frames(jumps, slabs=slabs, shape_yx=SHAPE)
    moved = np.linalg.norm(to_parameters(frames, shape_yx=SHAPE), axis=1)
    np.testing.assert_allclose(moved, [0, 10, 0, 0], atol=1e-9)
    frames = slab_frames(
        [SlabJump(4, shift, 3), SlabJump(30, np.full(6, np.nan), 0)],
        slabs=slab_ranges([4, 30], count=50),
        shape_yx=SHAPE,
    )
    moved = np.linalg.norm(to_parameters(frames, shape_yx=SHAPE), axis=1)
    np.testing.assert_allclose(moved, [10, 0, 0], atol=1e-9)  # nothing is known across the second border


def test_a_slab_with_too_few_sections_for_statistics_is_moved_as_it_is() -> None:
    sections, motion = made(3, distorted=False)
    found = level(pairs_of(sections, motion)[:, : BORDER + 5])
    assert not found.levels[1].variances
    assert found.longest is found.levels[0]
    steps = [
        compose_affine(outer=invert_affine(found.correction[BORDER]), inner=found.correction[z])
        for z in range(BORDER, BORDER + 5)
    ]
    np.testing.assert_allclose(steps, np.broadcast_to(IDENTITY, (5, 2, 3)), atol=1e-9)
    assert np.linalg.norm(found.borders[0].step + JUMP) < 0.1 * np.linalg.norm(JUMP)
