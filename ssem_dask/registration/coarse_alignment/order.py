"""Detection of sections out of order and of repeated images, from the similarity of sections one, two and three apart.

With u_kz = 1 - similarity of the sections z-k and z, neighbours have the least u, and u grows with the distance. The
difference of local medians of u_1 and u_2 is the *step*.

- Out of order: if some consecutive sections were reversed (two of them: swapped), or one of them moved elsewhere, every
  new link between neighbours would be closer than every link that it replaces, by a quarter of a step, and as close as
  links of neighbours are. A damaged section is unlike all others, so none of its links are close.
- Repeated: two sections are far closer than neighbours nearby, and a third is equally similar to both.

Nothing is reordered here. A section that is farther from its place than pairs reach resembles no neighbour, and is not
found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssem_dask.types import Float64Array

MEDIAN_REACH = 16
"""Sections before and after over which the medians are taken."""
LINK_MARGIN = 0.25
"""Share of a step by which new links must be closer than those that they replace."""
NEIGHBOUR_TOLERANCE = 0.5
"""Share of a step by which u of a link of neighbours may exceed the median of neighbours."""
REPEATED_SHARE = 0.35
"""Share of the median u of neighbours below which two sections show the same image; thin sections reach 0.54."""
LEAST_STEP = 0.02
"""Least step that shows an order: below it the sections are all alike, or all unlike."""


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """Errors in the order of the sections."""

    misplaced: list[int]
    """Sections that would fit better elsewhere; both of two that are swapped."""
    repeated: list[int]
    """Sections that show the same image as one shortly before them."""


def check_order(similarity: Float[Float64Array, "K Z"]) -> OrderCheck:
    """Find sections out of order, and images that are repeated.

    Args:
        similarity: [k-1, z] is the correlation of the aligned sections z and z-k over their overlap; NaN is unknown.
    """
    unlike = 1.0 - similarity
    count = unlike.shape[1]
    misplaced: set[int] = set()
    repeated = {z for z in range(count) if _is_repeated(unlike, z)}
    if len(unlike) > 1:
        for first in range(count):
            for moved, added, removed in _reorderings(first, count=count, reach=len(unlike)):
                if not repeated & set(moved) and _is_better(unlike, first, added=added, removed=removed):
                    misplaced |= set(moved)
    return OrderCheck(misplaced=sorted(misplaced), repeated=sorted(repeated))


Link = tuple[int, int]


def _reorderings(first: int, *, count: int, reach: int) -> Iterator[tuple[list[int], list[Link], list[Link]]]:
    """List other orders near a section: the sections that are misplaced then, the new links, and the replaced ones."""
    for last in range(first + 1, min(first + reach, count)):
        moved = list(range(first, last + 1))
        if first > 0 and last + 1 < count:
            yield moved, [(first - 1, last), (first, last + 1)], [(first - 1, first), (last, last + 1)]
    # At either end of the volume only one link changes; a second link must confirm it.
    if reach > 2 and count > 3:
        if first == 0:
            yield [0, 1], [(0, 2), (0, 1)], [(1, 2)]
        if first == count - 2:
            yield [first, first + 1], [(first - 1, first + 1), (first, first + 1)], [(first - 1, first)]
    if 0 < first < count - 1:
        cut: list[Link] = [(first - 1, first), (first, first + 1)]
        for after in range(2, reach + 1):
            for side in (1, -1):
                near, far = first + side * after, first + side * (after + 1)
                if not 0 <= near < count:
                    continue
                added, removed = [(first - 1, first + 1), _link(first, near)], list(cut)
                if 0 <= far < count and after < reach:
                    added, removed = [*added, _link(first, far)], [*removed, _link(near, far)]
                yield [first], added, removed


def _is_better(unlike: Float64Array, z: int, *, added: list[Link], removed: list[Link]) -> bool:
    """Check whether all new links are closer than those that they replace, and as close as neighbours are."""
    neighbours, step = _local_medians(unlike, z)
    new = float(np.max([_unlikeness(unlike, link) for link in added]))  # NaN, unknown, stays NaN and shows nothing
    old = float(np.min([_unlikeness(unlike, link) for link in removed]))
    if not step > LEAST_STEP:
        return False
    return bool(new + LINK_MARGIN * step <= old and new <= neighbours + NEIGHBOUR_TOLERANCE * step)


def _is_repeated(unlike: Float64Array, z: int) -> bool:
    """Check whether section z shows the image of one before it."""
    neighbours, step = _local_medians(unlike, z)
    for k in range(1, min(z, len(unlike)) + 1):
        if not unlike[k - 1, z] < REPEATED_SHARE * neighbours:
            continue
        others = [t for t in range(z - len(unlike), z + len(unlike) - k + 1) if t not in (z - k, z)]
        pairs = [(_unlikeness(unlike, _link(z, t)), _unlikeness(unlike, _link(z - k, t))) for t in others]
        differences = [abs(a - b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
        if differences and step > LEAST_STEP / 2 and max(differences) < step / 2:
            return True
    return False


def _local_medians(unlike: Float64Array, z: int) -> tuple[float, float]:
    """Compute the median u of neighbours about a section, and the step from it to sections two apart."""
    part = unlike[:2, max(0, z - MEDIAN_REACH) : z + MEDIAN_REACH + 1]
    medians = [float(np.median(row[np.isfinite(row)])) if np.isfinite(row).any() else np.nan for row in part]
    return medians[0], medians[1] - medians[0] if len(medians) > 1 else np.nan


def _link(a: int, b: int) -> Link:
    return min(a, b), max(a, b)


def _unlikeness(unlike: Float64Array, link: Link) -> float:
    """Return u of a pair of sections; NaN if it is unknown or they are too far apart."""
    earlier, later = link
    k = later - earlier
    if earlier < 0 or later >= unlike.shape[1] or not 1 <= k <= len(unlike):
        return float("nan")
    return float(unlike[k - 1, later])
