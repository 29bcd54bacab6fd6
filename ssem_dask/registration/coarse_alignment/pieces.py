"""Pieces of a stack, and how they were found to be turned against each other.

Pairs that the usual search trusts connect sections to *pieces*; in a sound stack all are one. A section that was
mounted upside down is a piece of its own, and so are several in a row. The wide search compares each piece with the
sections around it, and what agrees gives its *gross map*.

The gross map G_z of a section, upright → source, is taken out of all pair maps before anything is solved for,

    M' = G_{z-k}⁻¹ ∘ M ∘ G_z,

and put back after: A_z = G_z ∘ A'_z. Half a turn has no logarithm, and a mirror image none that is real, so what
follows could not represent them; and the statistics of the others must not depend on what happened to one section.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssem_dask.field.affine import Affine, compose_affine, invert_affine, rotation_about
from ssem_dask.types import BoolArray, Float64Array, IndexArray, ShapeYX

REACH = 5
"""Farthest neighbour that a section without a match is compared with."""
PAIRS_SEARCHED = 6
"""Pairs between a piece and other sections that are searched, the nearest first."""
ALONE_RATIO = 1.5
"""Ratio from which a wide pair is believed without another one that agrees."""
AGREEMENT = 0.1
"""Difference of two gross maps up to which they agree, as a share of the section's side: neighbours are distorted."""
_SMALL_ROTATION_DEG = 8.0
_SMALL_SCALE = 0.06
_SMALL_SHIFT = 0.1  # share of the section's side

Pair = tuple[int, int]
"""(z, k): fixed section z, moving section z-k."""


@dataclass(frozen=True, slots=True)
class WidePairs:
    """Results of the wide search: index [k-1, z], NaN and 0 where it did not search."""

    affines: Float64[Float64Array, "R Z 2 3"]
    """Fixed z → moving z-k, mip-0 px."""
    ratios: Float64[Float64Array, "R Z"]
    inverted: Bool[BoolArray, "R Z"]


@dataclass(frozen=True, slots=True)
class PlacedPieces:
    """Gross maps of the sections, and the pairs that they rest on."""

    gross: Float64[Float64Array, "Z 2 3"]
    """Upright → source."""
    inverted: Bool[BoolArray, "Z"]
    """Sections of inverted contrast."""
    found: Bool[BoolArray, "Z"]
    """Sections that only the wide search connects to the others."""
    believed: Bool[BoolArray, "R Z"]
    """Wide pairs that are believed."""


def label_pieces(ratios: Float64[Float64Array, "K Z"], *, least: float) -> IndexArray:
    """Label the sections that trusted pairs connect; 0 is the largest piece, of equal ones the nearest to the middle.

    Args:
        ratios: [k-1, z] of z and z-k; NaN is unknown.
        least: least ratio of a trusted pair.
    """
    count = ratios.shape[1]
    k, z = np.nonzero(np.nan_to_num(ratios) >= least)
    inside = z > k
    k, z = k[inside], z[inside]
    graph = coo_array((np.ones(len(z)), (z, z - k - 1)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels)
    distance = np.abs(np.arange(count) - count // 2)
    nearest = np.full(len(sizes), count)
    np.minimum.at(nearest, labels, distance)
    order = np.lexsort((nearest, -sizes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[labels], dtype=np.intp)


def pairs_to_search(
    ratios: Float64[Float64Array, "K Z"], *, least: float, given: Bool[BoolArray, "Z"]
) -> list[tuple[Pair, int]]:
    """List the pairs that the wide search is for, with the section of each that is searched for.

    Args:
        ratios: of the usual search; 0 or NaN for all pairs of a section: it shows no tissue.
        least: least ratio of a trusted pair.
        given: sections whose gross map the user gave; they are not searched for.
    """
    count = ratios.shape[1]
    labels = label_pieces(ratios, least=least)
    if count < 2 or not labels.any():
        return []
    tissue = np.zeros(count, dtype=bool)
    for k, row in enumerate(np.nan_to_num(ratios) > 0, start=1):
        tissue[k:] |= row[k:]
        tissue[:-k] |= row[k:]
    wanted: dict[Pair, int] = {}
    for piece in range(1, int(labels.max()) + 1):
        members = np.flatnonzero((labels == piece) & tissue & ~given)
        # Only the borders of a piece have others within reach.
        candidates = [
            (abs(z - other), int(z), int(other))
            for z in members
            for other in range(max(0, int(z) - REACH), min(count, int(z) + REACH + 1))
            if labels[other] != piece and tissue[other]
        ]
        for _, z, other in sorted(candidates)[:PAIRS_SEARCHED]:
            wanted.setdefault((max(z, other), abs(z - other)), z)
    return sorted(wanted.items())


def place_pieces(
    wide: WidePairs,
    labels: IndexArray,
    *,
    start: Float64[Float64Array, "Z 2 3"],
    given: Bool[BoolArray, "Z"],
    least: float,
    shape_yx: ShapeYX,
) -> PlacedPieces:
    """Find the gross map of every piece that the wide search connects to the largest one or to a given section.

    Args:
        wide: results of the wide search.
        labels: piece of each section, see `label_pieces`.
        start: gross maps to begin with; those of `given` sections stay.
        given: sections whose gross map the user gave.
        least: least ratio of a trusted pair.
        shape_yx: section, mip-0 px.
    """
    gross, inverted = start.copy(), np.zeros(len(labels), dtype=bool)
    found, believed = np.zeros(len(labels), dtype=bool), np.zeros(wide.ratios.shape, dtype=bool)
    placed = (labels == 0) | given
    k, z = np.nonzero(np.nan_to_num(wide.ratios) >= least)
    edges = [(int(a), int(b)) for a, b in zip(k, z, strict=True) if b > a]
    while True:
        options: dict[int, list[_Option]] = {}
        for step, fixed in edges:
            moving = fixed - step - 1
            if placed[fixed] == placed[moving]:
                continue
            new, old = (moving, fixed) if placed[fixed] else (fixed, moving)
            pair = wide.affines[step, fixed]
            through = pair if new == moving else invert_affine(pair)
            options.setdefault(int(labels[new]), []).append(
                _Option(
                    gross=compose_affine(outer=through, inner=gross[old]),
                    inverted=bool(inverted[old] ^ wide.inverted[step, fixed]),
                    ratio=float(wide.ratios[step, fixed]),
                    pair=(step, fixed),
                )
            )
        agreed = {piece: _agreement(parts, shape_yx=shape_yx) for piece, parts in options.items()}
        sound = {piece: parts for piece, parts in agreed.items() if len(parts) > 1 or parts[0].ratio >= ALONE_RATIO}
        if not sound:
            return PlacedPieces(gross, inverted, found, believed)
        # The best connected piece first: others may be connected through it.
        piece = max(sound, key=lambda p: sum(o.ratio for o in sound[p]))
        members = np.flatnonzero((labels == piece) & ~placed)
        weights = np.array([o.ratio for o in sound[piece]])
        gross[members] = simplified(np.average([o.gross for o in sound[piece]], axis=0, weights=weights), shape_yx)
        inverted[members] = sound[piece][0].inverted
        found[members] = placed[members] = True
        for option in sound[piece]:
            believed[option.pair] = True


@dataclass(frozen=True, slots=True)
class _Option:
    """The gross map of a piece according to one wide pair."""

    gross: Affine
    inverted: bool
    ratio: float
    pair: tuple[int, int]
    """Index of the pair [k-1, z]."""


def _agreement(options: list[_Option], *, shape_yx: ShapeYX) -> list[_Option]:
    """Return the largest set of options that agree with one of them, of equal sets the one of the best ratio."""
    tolerance = AGREEMENT * float(np.mean(shape_yx))
    sets = [
        [
            other
            for other in options
            if other.inverted == option.inverted and _distance(option.gross, other.gross, shape_yx) <= tolerance
        ]
        for option in options
    ]
    best = max(range(len(options)), key=lambda i: (len(sets[i]), options[i].ratio))
    return sorted(sets[best], key=lambda option: -option.ratio)


def _distance(a: Affine, b: Affine, shape_yx: ShapeYX) -> float:
    """Return the rms distance of two maps over the section, px."""
    difference = a - b
    centre = difference[:, :2] @ (np.asarray(shape_yx) / 2) + difference[:, 2]
    spread = np.asarray(shape_yx) ** 2 / 12
    return float(np.sqrt((centre**2).sum() + (difference[:, :2] ** 2 @ spread).sum()))


def simplified(gross: Affine, shape_yx: ShapeYX) -> Affine:
    """Return the mirroring, rotation, scale and shift of a map, each only if it is too large for distortion.

    The rest is distortion like that of any section, and has to count as such: a section that was turned by 180° about
    its centre says as much of where the tissue belongs as any other.
    """
    parts = _parts(gross, shape_yx)
    quarters = 90.0 * round(parts.degrees / 90.0)
    degrees = quarters if abs(parts.degrees - quarters) <= _SMALL_ROTATION_DEG else parts.degrees
    scale = 1.0 if abs(parts.scale - 1) <= _SMALL_SCALE else parts.scale
    small = np.hypot(*(parts.shift / np.asarray(shape_yx))) <= _SMALL_SHIFT
    centre = np.asarray(shape_yx) / 2
    middle = (float(centre[0]), float(centre[1]))
    turned = rotation_about(degrees=degrees, centre=middle, scale=scale)
    if parts.mirrored:
        turned = compose_affine(outer=turned, inner=_mirror(shape_yx))
    shift = np.zeros(2) if small else parts.shift
    return np.column_stack([turned[:, :2], turned[:, 2] + shift])


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of a map: shift ∘ rotation and scale about the centre ∘ mirroring of x."""

    mirrored: bool
    degrees: float
    scale: float
    shift: Float64[Float64Array, "2"]


def _parts(gross: Affine, shape_yx: ShapeYX) -> _Parts:
    linear = gross[:, :2]
    determinant = float(np.linalg.det(linear))
    if determinant < 0:
        linear = linear @ np.diag([1.0, -1.0])
    degrees = float(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))
    centre = np.asarray(shape_yx) / 2
    shift = gross[:, :2] @ centre + gross[:, 2] - centre
    return _Parts(determinant < 0, degrees, abs(determinant) ** 0.5, shift)


def _mirror(shape_yx: ShapeYX) -> Affine:
    return np.array([[1.0, 0.0, 0.0], [0.0, -1.0, float(shape_yx[1])]])


def describe_gross(gross: Affine, *, inverted: bool, shape_yx: ShapeYX) -> list[str]:
    """Say in words what a gross map does to a section; empty if it is about the identity."""
    words, parts = [], _parts(gross, shape_yx)
    if parts.mirrored:
        words.append("mirrored")
    if abs(parts.degrees) > _SMALL_ROTATION_DEG:
        words.append(f"turned by {abs(parts.degrees):.0f}°")
    if abs(parts.scale - 1) > _SMALL_SCALE:
        words.append(f"{abs(parts.scale - 1):.0%} {'larger' if parts.scale > 1 else 'smaller'}")
    if np.hypot(*(parts.shift / np.asarray(shape_yx))) > _SMALL_SHIFT:
        words.append(f"shifted by {parts.shift[0]:.0f}, {parts.shift[1]:.0f} px (y, x)")
    if inverted:
        words.append("of inverted contrast")
    return words
