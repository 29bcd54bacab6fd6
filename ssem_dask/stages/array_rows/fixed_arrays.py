"""Arrays of what fixes have changed."""

from dataclasses import replace

from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE,
    COARSE_GROSS,
    COARSE_INVERTED,
    COARSE_STATE,
    PART_LABELS,
    PART_MAPS,
)
from ssem_dask.stages.array_rows.compose_arrays import AFFINE_CORRECTION, AFFINE_NATURAL, AFFINE_VARIANCE
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS, SUPPORT
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.storage.arrays import open_array

FIXED_PREFIX = "fields/fixed_"
"""Beginning of the paths of arrays of what fixes have changed."""


def _fixed_rows(array: RunArray, *, fill: float | None = None) -> RunArray:
    """Return the row of the array with what fixes have changed of another one: the same, with files of one section."""

    def small(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            1 if (axis.name in ("z", "k") and array in (PAIRS, CONFIDENCE)) or axis.name == "z" else size
            for axis, size in zip(array.axes, sizes, strict=True)
        )

    return replace(
        array,
        path=FIXED_PREFIX + array.path.rpartition("/")[2],
        meaning=f"rows of {array.path} for what fixes have changed since the fit; all else means nothing",
        chunk=lambda job: small(array.chunk(job)),
        shard=None,
        fill=array.fill if fill is None else fill,
        opener=open_array,
    )


FIXED = {
    array: _fixed_rows(array)
    for array in (
        COARSE,
        COARSE_GROSS,
        COARSE_INVERTED,
        COARSE_STATE,
        PART_MAPS,
        PART_LABELS,
        PAIRS,
        CONFIDENCE,
        SUPPORT,
        AFFINE_CORRECTION,
        AFFINE_NATURAL,
        AFFINE_VARIANCE,
    )
}
"""Arrays of what fixes have changed, by the array of which they replace rows; see `fix_clusters`."""
