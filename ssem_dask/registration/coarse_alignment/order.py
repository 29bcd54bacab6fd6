"""Sections out of order, and the same image twice: seen from how alike sections one, two and three apart are.

With u_kz = 1 - similarity of the sections z-k and z, neighbours have the least u, and u grows with the distance. Local
medians of u_1 and u_2 say by how much: their difference is the *step*.

- Out of order: were the sections between two places reversed (two of them: swapped), or one of them put in farther on,
  then every link between neighbours that comes about would be closer than every one that goes, by a quarter of a step,
  and as close as neighbours are. A damaged section is unlike all others, so none of its links are close.
- Twice: two sections are far closer than neighbours are anywhere near, and a third resembles both alike.

Nothing is ever reordered here. What lies more places off than pairs reach resembles no neighbour, and is not found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.types import Float64Array

REACH = 16
"""Sections before and after of which the medians are taken."""
MARGIN = 0.25
"""Of a step, by which links must be closer than those that they replace."""
NEIGHBOURLY = 0.5
"""Of a step beyond the median of neighbours, within which a link may be one of neighbours."""
SAME = 0.35
"""Of the median u of neighbours, below which two sections show the same image; thin sections reach .54."""
LEAST_STEP = 0.02
"""Smaller steps say nothing: the sections are all alike, or all unlike."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wrong with the order of the sections."""

    misplaced: list[int]
    """Sections that would fit better elsewhere, of two that are swapped both."""
    twice: list[int]
    """Sections that show the same image as one shortly before them."""


def check_order(similarity: Float64Array) -> Order:
    """Find sections out of order, and images that occur twice.

    Args:
        similarity: `(K, Z)`: [k-1, z] is the correlation of z and z-k where they lie on each other; NaN is unknown.
    """
    unlike = 1.0 - similarity
    count = unlike.shape[1]
    misplaced: set[int] = set()
    twice = {z for z in range(count) if _shown_before(unlike, z)}
    if len(unlike) > 1:
        for first in range(count):
            for moved, added, removed in _changes(first, count=count, reach=len(unlike)):
                if not twice & set(moved) and _better(unlike, first, added=added, removed=removed):
                    misplaced |= set(moved)
    return Order(misplaced=sorted(misplaced), twice=sorted(twice))


Link = tuple[int, int]


def _changes(first: int, *, count: int, reach: int) -> Iterator[tuple[list[int], list[Link], list[Link]]]:
    """Other orders near a section: the sections that lie wrong then, the links that come, and those that go."""
    for last in range(first + 1, min(first + reach, count)):
        moved = list(range(first, last + 1))
        if first > 0 and last + 1 < count:
            yield moved, [(first - 1, last), (first, last + 1)], [(first - 1, first), (last, last + 1)]
    # At either end of the volume only one link changes: the one after the next, and the link between must bear it out.
    if reach > 2 and count > 3:
        if first == 0:
            yield [0, 1], [(0, 2), (0, 1)], [(1, 2)]
        if first == count - 2:
            yield [first, first + 1], [(first - 1, first + 1), (first, first + 1)], [(first - 1, first)]
    if 0 < first < count - 1:
        gone: list[Link] = [(first - 1, first), (first, first + 1)]
        for after in range(2, reach + 1):
            for side in (1, -1):
                near, far = first + side * after, first + side * (after + 1)
                if not 0 <= near < count:
                    continue
                added, removed = [(first - 1, first + 1), _link(first, near)], list(gone)
                if 0 <= far < count and after < reach:
                    added, removed = [*added, _link(first, far)], [*removed, _link(near, far)]
                yield [first], added, removed


def _better(unlike: Float64Array, z: int, *, added: list[Link], removed: list[Link]) -> bool:
    """Whether all links that come are closer than those that go, and as close as neighbours are."""
    usual, step = _usual(unlike, z)
    come = float(np.max([_of(unlike, link) for link in added]))  # NaN, unknown, stays NaN and is no evidence
    go = float(np.min([_of(unlike, link) for link in removed]))
    if not step > LEAST_STEP:
        return False
    return bool(come + MARGIN * step <= go and come <= usual + NEIGHBOURLY * step)


def _shown_before(unlike: Float64Array, z: int) -> bool:
    """Whether section z shows the image of one before it."""
    usual, step = _usual(unlike, z)
    for k in range(1, min(z, len(unlike)) + 1):
        if not unlike[k - 1, z] < SAME * usual:
            continue
        others = [t for t in range(z - len(unlike), z + len(unlike) - k + 1) if t not in (z - k, z)]
        pairs = [(_of(unlike, _link(z, t)), _of(unlike, _link(z - k, t))) for t in others]
        apart = [abs(a - b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
        if apart and step > LEAST_STEP / 2 and max(apart) < step / 2:
            return True
    return False


def _usual(unlike: Float64Array, z: int) -> tuple[float, float]:
    """Median u of neighbours about a section, and how much more it is of sections two apart."""
    part = unlike[:2, max(0, z - REACH) : z + REACH + 1]
    medians = [float(np.median(row[np.isfinite(row)])) if np.isfinite(row).any() else np.nan for row in part]
    return medians[0], medians[1] - medians[0] if len(medians) > 1 else np.nan


def _link(a: int, b: int) -> Link:
    return min(a, b), max(a, b)


def _of(unlike: Float64Array, link: Link) -> float:
    """u of a pair of sections; NaN where it is unknown or they are too far from each other."""
    before, after = link
    k = after - before
    if before < 0 or after >= unlike.shape[1] or not 1 <= k <= len(unlike):
        return float("nan")
    return float(unlike[k - 1, after])
