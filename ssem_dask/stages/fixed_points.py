"""Points that the user has given between two sections, in the frame of a window's pair fields."""

from collections.abc import Mapping

import numpy as np
import torch

from ssem_dask.field.affine import invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.fixes.section_fixes import VolumeFixes
from ssem_dask.geometry.windows import Window
from ssem_dask.registration.gauss_newton.pair_points import PairPoints
from ssem_dask.registration.registration_method import PairFields
from ssem_dask.types import Float64Array
from ssem_dask.units import plural

_CONTRADICTED = 4.0
"""Standard deviations from which a point contradicts the images."""

Pair = tuple[int, int]
"""(fixed, moving), indices in the window."""


def window_points(
    fixes: VolumeFixes,
    window: Window,
    *,
    grid: Grid,
    coarse: Float64Array,
    parts: Mapping[int, PiecewiseAffine] | None = None,
) -> dict[Pair, PairPoints]:
    """Return the points of a window's pairs, in the direction of its pair fields.

    Args:
        fixes: of the volume.
        window: its sections.
        grid: grid of the images; positions are relative to its origin.
        coarse: affines `(z, 2, 3)` aligned → source of the sections.
        parts: parts of the broken sections, by z.
    """
    sections = window.read.sections
    found: dict[Pair, PairPoints] = {}
    for a, b in {(max(pair), min(pair)) for pair in fixes.pairs}:
        if a not in sections or b not in sections:
            continue
        given = np.array(fixes.points_between(a, b))
        ends = []
        for z, columns in ((a, slice(0, 2)), (b, slice(2, 4))):
            back, whole = invert_affine(coarse[z - sections.start]), given[:, columns]
            if parts and z in parts:
                whole = parts[z].to_whole(torch.from_numpy(whole.T.copy())).numpy().T
            ends.append(whole @ back[:, :2].T + back[:, 2] - np.asarray(grid.origin))
        position, sd = ends[0], given[:, 4]
        extent = np.asarray(grid.shape) * grid.spacing
        # Points beside the window belong to the windows there.
        inside = ((position >= 0) & (position <= extent)).all(axis=1)
        if inside.any():
            values = (position[inside], (ends[1] - position)[inside], sd[inside])
            found[a - sections.start, b - sections.start] = PairPoints(
                *(torch.from_numpy(np.ascontiguousarray(part)).float() for part in values)
            )
    return found


def unconfirmed_points(z: int, other: int, count: int) -> str:
    """Return a sentence on points of two sections that nothing in the images confirms."""
    return (
        f"the images of sections {z} and {other} do not agree where the {plural(count, 'point')} between them "
        f"{'leads' if count == 1 else 'lead'}; check them"
    )


def contradicted_points(
    points: Mapping[Pair, PairPoints], pairs: PairFields, window: Window, *, nodes: Grid, grid: Grid
) -> list[str]:
    """Return a sentence on each pair whose field does not lead where the user's points do.

    Args:
        points: of the window.
        pairs: fields that were found.
        window: its sections.
        nodes: grid of the fields.
        grid: grid of the images; positions are relative to its origin.
    """
    remarks = []
    first = window.read.start[0]
    own = nodes.relative_to(grid.origin)
    for (fixed, moving), each in sorted(points.items()):
        z = fixed + first
        if z not in window.core.sections:
            continue
        field = pairs.fields[fixed - moving - 1, z - window.core.start[0]].cpu()
        inside = own.contains(each.positions.T)
        residuals = torch.nan_to_num(each.residuals(field, own), nan=torch.inf)[inside]
        wrong = residuals > _CONTRADICTED
        if wrong.any():
            known = residuals[torch.isfinite(residuals)]
            by = f", by up to {float(known.max()):.0f} standard deviations" if len(known) else ""
            remarks.append(
                f"{int(wrong.sum())} of {plural(int(inside.sum()), 'point')} between sections {z} and "
                f"{moving + first} contradict what the images or the other points show{by}; check them"
            )
    return remarks
