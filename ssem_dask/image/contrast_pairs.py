"""Contrast of two aligned sections, compared block by block where both show the same tissue.

The same tissue has the same spread of grey values in every section, if both were imaged alike. So the ratio of the
spreads of corresponding blocks is the ratio of the gains, and the difference of their means follows from the offsets.
Blocks that do not resemble each other say nothing: there is a fold, dirt or different tissue in one of them. Medians
over the others ignore what is left of it. Single pixels are not compared, since a regression of one section on another
is biased towards low gains by all that differs between them.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ssem_dask.types import Float64Array

_BLOCKS_ACROSS, _BLOCK_PX = 8, (12, 32)
"""Blocks along the shorter side of the images, and the least and largest side of a block, px."""
_LEAST_VALID = 0.6
"""Share of a block that must be valid."""
_LEAST_LIKENESS = 0.3
"""Correlation from which two blocks count as the same tissue."""
_LEAST_BLOCKS = 4
_LEAST_SPREAD = 1e-3
"""Spread, grey values, below which a block is empty."""


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """Contrast of a section compared with that of another; all NaN if they cannot be compared."""

    log_gain: float = math.nan
    """Logarithm of the ratio of their spreads."""
    level: float = math.nan
    """Difference of their grey levels."""
    middle: float = math.nan
    """Grey level of the section where both were compared."""
    middle_other: float = math.nan
    """Grey level of the other section there."""
    spread: float = math.nan
    """Spread of grey values within blocks, geometric mean of both sections."""
    likeness: float = math.nan
    """Median correlation of all blocks that both show."""
    share: float = 0.0
    """Share of all blocks that were compared."""


def compare_contrast(
    section: Float[Float64Array, "y x"], other: Float[Float64Array, "y x"], *, valid: Bool[np.ndarray, "y x"]
) -> ContrastPair:
    """Compare the contrast of two aligned images where both are valid.

    Args:
        section: grey values.
        other: grey values of the other section, on the same pixels.
        valid: pixels that both show, without damage.
    """
    side = max(_BLOCK_PX[0], min(_BLOCK_PX[1], min(section.shape) // _BLOCKS_ACROSS))
    side = min(side, *section.shape)
    rows, columns = (n // side for n in section.shape)
    first, second, weight = (
        image[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side**2)
        for image in (section, other, valid.astype(np.float64))
    )
    share = weight.mean(axis=1)
    shown = share >= _LEAST_VALID
    if shown.sum() < _LEAST_BLOCKS:
        return ContrastPair()
    first, second, weight = first[shown], second[shown], weight[shown]
    weight = weight / weight.sum(axis=1, keepdims=True)
    means = [(weight * block).sum(axis=1) for block in (first, second)]
    first, second = first - means[0][:, None], second - means[1][:, None]
    spreads = [np.sqrt((weight * block**2).sum(axis=1)) for block in (first, second)]
    usable = (spreads[0] > _LEAST_SPREAD) & (spreads[1] > _LEAST_SPREAD)
    products = np.where(usable, spreads[0] * spreads[1], 1.0)
    correlation = np.where(usable, (weight * first * second).sum(axis=1) / products, 0.0)
    alike = usable & (correlation >= _LEAST_LIKENESS)
    likeness = float(np.median(correlation))
    if alike.sum() < _LEAST_BLOCKS:
        return ContrastPair(likeness=likeness)
    return ContrastPair(
        log_gain=float(np.median(np.log(spreads[0][alike] / spreads[1][alike]))),
        level=float(np.median(means[0][alike] - means[1][alike])),
        middle=float(np.median(means[0][alike])),
        middle_other=float(np.median(means[1][alike])),
        spread=float(np.median(np.sqrt(products[alike]))),
        likeness=likeness,
        share=float(alike.sum() / len(share)),
    )
