"""Overlap of labels between adjacent sections.

Let A and B be the pixels of one id in two sections. Dice = 2|A∩B| / (|A| + |B|) (Dice 1945,
https://doi.org/10.2307/1932409), and IoU = |A∩B| / |A∪B| (Jaccard 1912,
https://doi.org/10.1111/j.1469-8137.1912.tb05611.x). An id counts if it has at least 50 px in both sections: one that
begins or ends there says nothing about alignment, and a sliver says little. `mean` is the plain mean over the ids,
`weighted` is the mean weighted with |A| + |B|. Id 0 is background. The figures of a volume are means over its pairs of
adjacent sections.

The best value is not the highest: on undeformed tissue Dice is below 1, because neurites run obliquely. So Dice is
also given as a ratio to that of the undeformed volume: 1 is right, above 1 is over-aligned.
"""

import math
from dataclasses import dataclass

import numpy as np

from ssem_dask.types import AnyArray, BoolArray

LEAST_PIXELS = 50
"""Pixels that an id needs in both sections to count."""


@dataclass(frozen=True, slots=True)
class LabelOverlap:
    """Overlap of the ids of two sections, or its mean over a volume; NaN if no id could be compared."""

    dice_mean: float
    dice_weighted: float
    iou_mean: float
    iou_weighted: float


def label_overlap(first: AnyArray, second: AnyArray, *, valid: BoolArray) -> LabelOverlap:
    """Return the overlap of the ids of two sections.

    Args:
        first: integers (y, x), 0 is background.
        second: labels of the other section, likewise.
        valid: pixels (y, x) that count.
    """
    a, b = first[valid], second[valid]
    ids, index = np.unique(np.concatenate([a, b]), return_inverse=True)
    index_a, index_b = index[: a.size], index[a.size :]
    size_a = np.bincount(index_a, minlength=ids.size)
    size_b = np.bincount(index_b, minlength=ids.size)
    common = np.bincount(index_a[index_a == index_b], minlength=ids.size)
    counts = (ids != 0) & (size_a >= LEAST_PIXELS) & (size_b >= LEAST_PIXELS)
    if not counts.any():
        return LabelOverlap(math.nan, math.nan, math.nan, math.nan)
    total = (size_a + size_b)[counts]
    shared = common[counts]
    dice = 2 * shared / total
    iou = shared / (total - shared)
    return LabelOverlap(
        dice_mean=float(dice.mean()),
        dice_weighted=float(np.average(dice, weights=total)),
        iou_mean=float(iou.mean()),
        iou_weighted=float(np.average(iou, weights=total)),
    )


def mean_overlap(pairs: list[LabelOverlap]) -> LabelOverlap:
    """Return the mean over the pairs of a volume in which ids could be compared."""
    known = np.array(
        [(p.dice_mean, p.dice_weighted, p.iou_mean, p.iou_weighted) for p in pairs if not math.isnan(p.dice_mean)]
    )
    if known.size == 0:
        return LabelOverlap(math.nan, math.nan, math.nan, math.nan)
    dice_mean, dice_weighted, iou_mean, iou_weighted = (float(v) for v in known.mean(axis=0))
    return LabelOverlap(dice_mean, dice_weighted, iou_mean, iou_weighted)
