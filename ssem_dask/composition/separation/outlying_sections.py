"""Sections that are displaced by many times what is usual in their stack.

One section that is shifted by a third of its width would widen the spread that all displacements are believed to have,
and thereby change what is done to every other section. What it is displaced by against both sides is taken out first,
as its gross map. A place from which on all sections are displaced is none: there the two sides of a section disagree.
"""

import numpy as np
from jaxtyping import Bool, Float64

from ssem_dask.composition.separation.affine_log import GROUPS, from_parameters, to_parameters
from ssem_dask.field.affine import IDENTITY
from ssem_dask.types import BoolArray, Float64Array, ShapeYX

DEVIATIONS = 4.0
"""Robust standard deviations of the sections' displacements from which one is outlying."""
LEAST_SHARE = 0.02
"""Least such displacement, as a share of the section's side."""
_AGREE = 0.5
"""Distance from their median, as a share of it, at which observations of a displacement agree."""
_LEAST_AGREEING = 2 / 3
"""Share of a section's observations that must agree."""


def outlying_maps(
    affines: Float64[Float64Array, "K Z 2 3"],
    accepted: Bool[BoolArray, "K Z"],
    *,
    trusted: Bool[BoolArray, "K Z"],
    shape_yx: ShapeYX,
) -> Float64[Float64Array, "Z 2 3"]:
    """Return the map, upright → section, of each section that is outlying; the identity of all others.

    Args:
        affines: fixed z → moving z-k, relative to the gross maps that are known.
        accepted: pairs that are used.
        trusted: pairs that were found, those among them that others contradict by some px included.
        shape_yx: section, mip-0 px.
    """
    steps, count = accepted.shape
    parameters = np.full((steps, count, 6), np.nan)
    found = accepted | trusted
    parameters[found] = to_parameters(affines[found], shape_yx=shape_yx)
    observed = [_observations(parameters, accepted, z) for z in range(count)]
    witnessed = [np.concatenate(_observations(parameters, found, z)) for z in range(count)]
    displaced = np.array([_median(sides) for sides in observed])
    gross = np.zeros_like(displaced)
    for _, members in GROUPS:
        part = displaced[:, members]
        lengths = np.linalg.norm(part, axis=1)
        spread = 1.4826 * float(np.median(lengths)) if count else 0.0
        limit = max(DEVIATIONS * spread, LEAST_SHARE * float(np.mean(shape_yx)))
        # One observation alone has the displacement of the other section in it, and nothing to agree with. Sections
        # that overlap little are placed badly, so pairs that are too far off to be used may still agree here.
        near = [
            np.linalg.norm(all_of[:, members] - own, axis=1) <= _AGREE * np.linalg.norm(own)
            for all_of, own in zip(witnessed, part, strict=True)
        ]
        alone = np.array([sum(map(len, sides)) == 1 for sides in observed]) & (np.array([n.sum() for n in near]) < 2)
        for z in np.flatnonzero(lengths > np.where(alone, 2 * limit, limit)):
            # Only what is outlying: the rest is distortion like that of any section.
            if _agree([side[:, members] for side in observed[z] if len(side)], part[z]):
                gross[z, members] = part[z]
    maps = np.tile(IDENTITY, (count, 1, 1))
    outlying = gross.any(axis=1)
    maps[outlying] = from_parameters(gross[outlying], shape_yx=shape_yx)
    return maps


def _observations(parameters: Float64Array, accepted: BoolArray, z: int) -> tuple[Float64Array, Float64Array]:
    """Return the displacements `(n, 6)` of a section against those before it and those after it."""
    steps, count = accepted.shape
    before = [-parameters[k, z] for k in range(min(steps, z)) if accepted[k, z]]
    after = [parameters[k, z + k + 1] for k in range(min(steps, count - z - 1)) if accepted[k, z + k + 1]]
    return np.array(before).reshape(-1, 6), np.array(after).reshape(-1, 6)


def _median(sides: tuple[Float64Array, Float64Array]) -> Float64Array:
    whole = np.concatenate(sides)
    return np.asarray(np.median(whole, axis=0)) if len(whole) else np.zeros(6)


def _agree(sides: list[Float64Array], median: Float64Array) -> bool:
    """Return whether most observations are near their median, and each side by itself."""
    limit = _AGREE * float(np.linalg.norm(median))
    near = np.linalg.norm(np.concatenate(sides) - median, axis=1) <= limit
    return bool(near.mean() >= _LEAST_AGREEING) and all(
        float(np.linalg.norm(np.median(side, axis=0) - median)) <= limit for side in sides
    )
