"""Parts of a section on both sides of the lines that a person has drawn, in coarse-aligned pixels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import Affine, invert_affine
from ssem_dask.fixes.drawn_regions import near_lines
from ssem_dask.fixes.fix_records import Line
from ssem_dask.fixes.section_fixes import PointPair
from ssem_dask.geometry.box import Box
from ssem_dask.registration.coarse_alignment.point_pairs import fit_points
from ssem_dask.registration.section_parts.drawn_sides import drawn_sides, place_sides
from ssem_dask.registration.section_parts.find_parts import Neighbour, SectionParts
from ssem_dask.types import Float64Array, IndexArray

_EXTENDED = 0.03
"""Share of the section's side by which a line is made longer at its ends, which seldom reach the border exactly."""


def find_drawn_parts(
    image: Tensor,
    neighbours: Mapping[int, tuple[Neighbour, Affine]],
    *,
    valid: Tensor,
    lines: Sequence[Line],
    points: Mapping[int, tuple[PointPair, ...]],
    affine: Affine,
    box: Box,
) -> SectionParts | None:
    """Place the sides of lines; None if the lines do not cut the section into several parts.

    Args:
        image: section `(y, x)`, coarse-aligned.
        neighbours: by z: image and map aligned → source of the sections that it is compared with.
        valid: where it shows tissue.
        lines: points (y, x) in the source, mip-0 px.
        points: by z of the other section, in the source, as of `VolumeFixes.points_of`; those with a section that is no
            neighbour do not count.
        affine: `(2, 3)` aligned → source of the section.
        box: the images, in aligned pixels of `box.mip`.
    """
    pixel, back = float(2**box.mip), invert_affine(affine)
    drawn = [_extended(_mapped(back, np.asarray(line)), by=_EXTENDED * max(box.shape_yx) * pixel) for line in lines]
    border = near_lines([_line(each) for each in drawn], shape=box.shape_yx, pixel=pixel)
    sides = drawn_sides(torch.from_numpy(border), valid=valid)
    if sides is None:
        return None
    given: dict[int, list[Float64Array]] = {}
    for other, pairs in sorted(points.items()):
        if other not in neighbours:
            continue
        for row in np.array(pairs):
            here = _mapped(back, row[None, :2])[0] / pixel
            there = _mapped(invert_affine(neighbours[other][1]), row[None, 2:4])[0] / pixel
            side = _side_at(sides, here)
            if side is not None:
                given.setdefault(side, []).append(np.array([*here, *there, row[4] / pixel]))
    moved = {
        side: torch.from_numpy(fit_points(np.array(rows)) - np.eye(2, 3)).float()
        for side, rows in sorted(given.items())
    }
    return place_sides(image, [each for each, _ in neighbours.values()], valid=valid, sides=sides, points=moved)


def _mapped(affine: Affine, points: Float64Array) -> Float64Array:
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def _line(points: Float64Array) -> Line:
    return tuple((float(y), float(x)) for y, x in points)


def _extended(points: Float64Array, *, by: float) -> Float64Array:
    """Return a line that is longer by some px at either end."""
    out = points.copy()
    for end, next_to in ((0, 1), (-1, -2)):
        step = points[end] - points[next_to]
        length = float(np.linalg.norm(step))
        if length > 0:
            out[end] += by * step / length
    return out


def _side_at(sides: IndexArray, place: Float64Array) -> int | None:
    """Return the side of a place (y, x), px; None outside the section, and beside the tissue."""
    y, x = (int(v) for v in np.floor(place))
    if not (0 <= y < sides.shape[0] and 0 <= x < sides.shape[1]):
        return None
    return int(sides[y, x]) if sides[y, x] >= 0 else None
