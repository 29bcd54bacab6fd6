"""A fix of a spoilt section on the page of `ssem-dask fix`, and the keys and clicks that it takes a person.

A proposal of the run takes one key. Without one, the person says what the picture shows: an ideal person, who knows the
kind of the fault and its place, and sets points with an error of `POINT_ERROR` px.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from benchmarks.spoilt.kinds import SpoiltStack
from ssem_dask.fixes.proposals import proposal_for
from ssem_dask.section_record import Attention
from ssem_dask.types import Float32Array

POINT_ERROR = 3.0
"""Standard deviation of a point that a person sets, px per component."""
_LEAVE_OUT = ("foreign", "black", "noise", "duplicate")
_LINES = ("fold_large", "fold_mild", "crack", "seam")
_MASKS = ("half_missing", "dirt")
_KEYS = {
    "turn180": ("t", 'action = "turn"\nangle = 180'),
    "turn90": ("r", 'action = "turn"\nangle = 90'),
    "mirrored": ("m", 'action = "turn"\nmirror = true'),
    "inverted": ("i", 'action = "invert"'),
}
_POINTS = ("scale8", "shift30", "turn40")
_CELL = 40
"""Side of the cells in which a person looks for four places far apart, px."""


@dataclass(frozen=True, slots=True)
class Said:
    """A fix, and what it takes to say it."""

    toml: str
    """Empty: nothing is said."""
    actions: int
    """Keys and clicks; going to the place and applying are not among them."""
    how: str
    """In a few words."""


NOTHING = Said("", 0, "nothing to say")


def proposed(z: int, attention: Attention | None) -> Said | None:
    """Return what the run proposes for a section and has not done by itself; None if it proposes nothing."""
    for record in () if attention is None else attention.records:
        proposal = proposal_for(record) if record.z == z else None
        if proposal is not None and not proposal.is_done:
            return Said(proposal.toml, 1, f"p: {proposal.reason}")
    return None


def typed(kind: str, z: int, stack: SpoiltStack, *, fields: Float32Array, spacing: int, seed: int) -> Said:
    """Return what a person says without a proposal.

    Args:
        kind: of the fault.
        z: section.
        stack: the spoilt stack, from which the person's eyes know where things are.
        fields: `(z, 2, y, x)` of the run without the fault, from which they know what belongs together.
        spacing: of its nodes, px.
        seed: of the error of points.
    """
    if kind in _LEAVE_OUT:
        return Said(_section(z, 'action = "exclude"\nfill = "nearest"'), 1, "x")
    if kind in _KEYS:
        key, text = _KEYS[kind]
        return Said(_section(z, text), 1, key)
    if kind == "swapped":
        return Said(_section(z, f'action = "swap"\nwith = {z + 1}'), 1, "w")
    source = stack.sources.get(z)
    if source is not None and kind in _LINES:
        line = _line_of(source)
        return Said(_section(z, f"split = [{line}]"), len(line) + 2, f"l, {len(line)} points, f")
    if source is not None and kind in _MASKS:
        polygons = _polygons(source)
        points = sum(map(len, polygons))
        return Said(_section(z, f"mask = {polygons}"), points + 2 * len(polygons), f"g, {points} points, f")
    if source is not None and kind in _POINTS:
        return points_between(source, z, fields=fields, spacing=spacing, seed=seed)
    return NOTHING


def points_between(source: Float32Array, z: int, *, fields: Float32Array, spacing: int, seed: int) -> Said:
    """Return four pairs of points in a section and the one before it.

    Args:
        source: `(2, y, x)`, position in the sound section of what each pixel shows.
        z: section.
        fields: as of `typed`.
        spacing: of its nodes, px.
        seed: of the error of points.
    """
    points = _points(source, z, fields=fields, spacing=spacing, seed=seed)
    text = f"[[pair]]\nfixed = {z - 1}\nmoving = {z}\nsd = {POINT_ERROR}\npoints = {points}\n"
    return Said(text, 2 * len(points) + 1, f"o, {len(points)} pairs of points")


def _section(z: int, text: str) -> str:
    return f"[[section]]\nz = {z}\n{text}\n"


def _line_of(source: Float32Array) -> list[list[float]]:
    """Return the middle of what a fold or crack covers, or of the step of a seam, at the top, middle and bottom."""
    height, width = source.shape[1:]
    inner = slice(round(0.1 * width), round(0.9 * width))
    points = []
    for y in (4, height // 2, height - 5):
        row = source[:, y, inner]
        hidden = np.flatnonzero(~np.isfinite(row).all(axis=0))
        if not len(hidden):
            step = np.abs(np.diff(row - np.mgrid[0:1, 0 : row.shape[1]][1])).sum(axis=0)
            hidden = np.array([int(np.argmax(step))])
        points.append([float(y), float(np.median(hidden) + inner.start + 0.5)])
    first, last = np.array(points[0]), np.array(points[-1])
    beyond = (last - first) * 10 / height
    return [np.round(p, 1).tolist() for p in (first - beyond, np.array(points[1]), last + beyond)]


def _polygons(source: Float32Array) -> list[list[list[float]]]:
    """Return rectangles around what shows no tissue."""
    labels, count = ndimage.label(~np.isfinite(source).all(axis=0))
    polygons = []
    for place in ndimage.find_objects(labels)[:count]:
        (top, bottom), (left, right) = ((s.start - 1, s.stop + 1) for s in place)
        if (bottom - top) * (right - left) > 200:
            polygons.append(
                [[float(y), float(x)] for y, x in ((top, left), (top, right), (bottom, right), (bottom, left))]
            )
    return polygons


def _points(source: Float32Array, z: int, *, fields: Float32Array, spacing: int, seed: int) -> list[list[float]]:
    """Return four structures in the section before (y, x) and in this one (y, x), as far apart as it shows."""
    rng = np.random.default_rng([seed, z])
    half = _CELL // 2
    known = np.argwhere(np.isfinite(source[:, half::_CELL, half::_CELL]).all(axis=0)) * _CELL + half
    corners = [max(known, key=lambda p: a * p[0] + b * p[1]) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    points = []
    for y, x in corners:
        observed = source[:, y, x]  # where the sound image has it
        nodes = (np.indices(fields.shape[2:]) + 0.5) * spacing
        place = np.linalg.norm(nodes + fields[z] - observed[:, None, None], axis=0)
        row, column = np.unravel_index(int(np.nanargmin(place)), place.shape)
        rest = observed - (nodes + fields[z])[:, row, column]
        before = (nodes + fields[z - 1])[:, row, column] + rest
        error = POINT_ERROR * rng.normal(size=4) / math.sqrt(2.0)
        points.append(np.round(np.array([*before, y + 0.5, x + 0.5]) + error, 1).tolist())
    return points
