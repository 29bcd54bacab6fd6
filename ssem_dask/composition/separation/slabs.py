"""Slabs: pieces of the stack that are separated each by itself, and joined across their borders.

A slab is a thick section, cut off the block as one, whose own sections were imaged one after the other. What happened
to one slab says nothing about the next: statistics, natural motion and its correlation begin again at a border. So each
slab is separated as if there were no other. What remains across a border is the *jump*: how the later slab as a whole
is displaced against the one before. Its prior is broad: it is what the pairs across the border say, less the natural
motion that the two faces would have had anyway. Natural motion alone makes such steps too. How large they are is seen
inside the slabs, where the same is computed for every section. Some are far beyond what their variance suggests, so a
jump is shrunk by what one in twenty of them reaches, to nothing if it is no larger: slabs that nothing has displaced
stay where they are. Only the affine part is undone, alike in all sections of a slab: the slabs are moved, and nothing
bends.

The longest slab, of equal ones the first, stays where it is.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from ssem_dask.composition.separation.affine_log import from_parameters, has_parameters, to_parameters
from ssem_dask.field.affine import IDENTITY, compose_affine, invert_affine
from ssem_dask.field.robust import weights_of_squares
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

_OUTLIER = 3.0
"""Median deviations at which a pair across a border has lost half of its weight."""
_IRLS_ITERATIONS = 5
_LEAST_SPREAD_PX = 0.1
_USUAL_SHARE = 0.95
"""Share of the steps inside slabs that a jump has to exceed to be one."""
_MARGIN = 2
"""Sections at the ends of a slab whose steps are not seen from both sides."""


@dataclass(frozen=True, slots=True)
class SlabJump:
    """How the sections from z on are displaced against those before, as a whole."""

    z: int
    step: Float[Float64Array, "6"]
    """From z to z-1, parameters of `affine_log`, px; NaN if no pair joins the slabs."""
    pairs: int
    """Number of pairs across the border."""


def slab_ranges(borders: Sequence[int], *, count: int) -> list[range]:
    """Return the sections of each slab, one of all sections if there are no borders."""
    edges = [0, *(z for z in borders if 0 < z < count), count]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def crossing_pairs(borders: Sequence[int], *, steps: int, count: int) -> Bool[BoolArray, "K Z"]:
    """Return which pairs, fixed z → moving z-k, lead from one slab to another."""
    out = np.zeros((steps, count), dtype=np.bool_)
    for border in (z for z in borders if 0 < z < count):
        for k in range(1, steps + 1):
            out[k - 1, border : border + k] = True
    return out


def jump_across(
    border: int,
    *,
    sections: Float[Float64Array, "Z 2 3"],
    pairs: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    motion: Float[Float64Array, "Z 6"],
    shape_yx: ShapeYX,
) -> SlabJump:
    """Return the jump between two slabs that were separated each by itself.

    Args:
        border: first section of the later slab.
        sections: aligned → source, of each slab by itself.
        pairs: fixed z → moving z-k, between the sections themselves; NaN if there is none.
        weights: of the pairs.
        motion: natural motion from z to z-1 within slabs, px; NaN where it is not known.
        shape_yx: section, mip-0 px.
    """
    steps, count = weights.shape
    known = np.nan_to_num(motion)
    # Between the faces the tissue moves as it does beside them.
    beside = [motion[z] for z in (border - 1, border + 1) if 0 < z < count and np.isfinite(motion[z]).all()]
    between = np.mean(beside, axis=0) if beside else np.zeros(6)
    seen, weight = [], []
    for k in range(1, steps + 1):
        for z in range(border, min(border + k, count)):
            if z < k or not weights[k - 1, z] > 0:
                continue
            inner = compose_affine(outer=pairs[k - 1, z], inner=sections[z])
            left = compose_affine(outer=invert_affine(sections[z - k]), inner=inner)
            if not has_parameters(left):
                continue
            within = known[z - k + 1 : z + 1].sum(axis=0) - known[border]
            seen.append(to_parameters(left, shape_yx=shape_yx) - within - between)
            weight.append(weights[k - 1, z] / k**2)
    if not seen:
        return SlabJump(border, np.full(6, np.nan), 0)
    return SlabJump(border, _robust_mean(np.array(seen), np.array(weight)), len(seen))


def natural_steps(
    slabs: Sequence[range],
    *,
    sections: Float[Float64Array, "Z 2 3"],
    pairs: Float[Float64Array, "K Z 2 3"],
    weights: Float[Float64Array, "K Z"],
    motion: Float[Float64Array, "Z 6"],
    shape_yx: ShapeYX,
) -> Float[Float64Array, "n 6"]:
    """Return what `jump_across` finds inside slabs, where nothing is displaced, px; other arguments as there.

    Args:
        slabs: those with statistics.
    """
    steps, count = weights.shape
    edges = [edge for slab in slabs for edge in (slab.start, slab.stop)]
    inside = np.where(crossing_pairs(edges, steps=steps, count=count), 0.0, weights)
    found = [
        jump_across(z, sections=sections, pairs=pairs, weights=inside, motion=motion, shape_yx=shape_yx).step
        for slab in slabs
        for z in slab[_MARGIN : len(slab) - _MARGIN]
    ]
    return np.array([step for step in found if np.isfinite(step).all()]).reshape(-1, 6)


def shrunk_jump(jump: SlabJump, natural: Float[Float64Array, "n 6"]) -> SlabJump:
    """Return a jump that is smaller, or 0, if natural motion makes such steps.

    Args:
        jump: across a border.
        natural: steps inside slabs, see `natural_steps`; without any, nothing is known, and the jump stays.
    """
    if not len(natural):
        return jump
    variance = np.maximum((natural**2).mean(axis=0), _LEAST_SPREAD_PX**2)
    usual = float(np.quantile((natural**2 / variance).sum(axis=1), _USUAL_SHARE))
    surprise = float((jump.step**2 / variance).sum())
    return replace(jump, step=jump.step * max(0.0, 1.0 - (usual / max(surprise, 1e-9)) ** 2))


def slab_frames(
    jumps: Sequence[SlabJump], *, slabs: Sequence[range], shape_yx: ShapeYX
) -> Float[Float64Array, "slabs 2 3"]:
    """Return the map from the common aligned frame to that of each slab; the identity for the one that stays.

    Args:
        jumps: across the borders, one fewer than slabs.
        slabs: sections of each.
        shape_yx: section, mip-0 px.
    """
    frames = [IDENTITY]
    for jump in jumps:
        back = from_parameters(-np.nan_to_num(jump.step), shape_yx=shape_yx)
        frames.append(compose_affine(outer=back, inner=frames[-1]))
    stays = frames[int(np.argmax([len(slab) for slab in slabs]))]
    return np.array([compose_affine(outer=frame, inner=invert_affine(stays)) for frame in frames])


def _robust_mean(values: Float64Array, weights: Float64Array) -> Float64Array:
    """Return the mean of rows `(n, 6)`; rows that contradict the others have little weight."""
    mean = np.asarray(np.median(values, axis=0))
    for _ in range(_IRLS_ITERATIONS):
        length = np.linalg.norm(values - mean, axis=1)
        scale = max(float(np.median(length)), _LEAST_SPREAD_PX)
        used = weights * weights_of_squares((length / (scale * _OUTLIER)) ** 2, kind="cauchy")
        mean = np.asarray((used[:, None] * values).sum(axis=0) / used.sum())
    return mean
