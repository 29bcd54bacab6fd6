"""Gains and offsets by which the contrast of sections was matched, as a run and its aligned volume keep them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.storage.arrays import is_node, open_array
from ssem_dask.storage.location import join
from ssem_dask.types import AnyArray, BoolArray, Float64Array

SECTIONS_PATH = "contrast/sections"
"""Path of the table in a run: a row per section."""
SECTION_COLUMNS = ("gain", "offset", "matched", "level")
"""Its columns; `matched` is 1 for sections that were compared with others, and `level` their grey level before."""
PAIRS_PATH = "contrast/pairs"
"""Path of the comparisons in a run."""
KEY = "ssem_dask_contrast"
"""Group attribute of the aligned volume: what was done to grey values; null or absent: nothing."""
_FORMULA = "aligned = round(gain * source + offset), clipped to the range of the data type"
_GAIN_DIGITS, _OFFSET_DIGITS = 6, 4


@dataclass(frozen=True, slots=True)
class ContrastTable:
    """Corrections of all sections: corrected = gain * grey value + offset."""

    gain: Float64Array
    """(z,)."""
    offset: Float64Array
    """(z,), grey values."""
    matched: BoolArray
    """(z,): False for sections that keep their grey values."""
    level: Float64Array
    """(z,): grey level of the sections in the source; NaN if it is not known."""

    @property
    def changed_level(self) -> Float64Array:
        """Grey level (z,) in the aligned volume; NaN if it is not known."""
        return self.gain * self.level + self.offset

    @classmethod
    def of_rows(cls, rows: AnyArray) -> "ContrastTable":
        """Return the table of stored rows `(z, column)`; rows that were not written change nothing."""
        values = np.asarray(rows, dtype=np.float64)
        known = np.isfinite(values[:, :3]).all(axis=1)
        return cls(
            gain=np.where(known, values[:, 0], 1.0),
            offset=np.where(known, values[:, 1], 0.0),
            matched=known & (np.nan_to_num(values[:, 2]) > 0),
            level=values[:, 3],
        )

    def rows(self) -> Float64Array:
        """Return the rows `(z, column)`, rounded to the digits that text keeps, so that attributes are exact."""
        gain, offset = self.gain.round(_GAIN_DIGITS), self.offset.round(_OFFSET_DIGITS)
        return np.stack([gain, offset, self.matched.astype(np.float64), self.level], axis=1)


def read_contrast(run: str) -> ContrastTable | None:
    """Return the table of a run; None if its contrast was not matched."""
    url = join(run, *SECTIONS_PATH.split("/"))
    return ContrastTable.of_rows(np.asarray(open_array(url, mode="r")[:])) if is_node(url) else None


def image_contrast(table: ContrastTable | None) -> dict[str, Any]:
    """Return the attributes of the aligned volume; without a table, grey values are those of the source."""
    if table is None:
        return {KEY: None}
    return {
        KEY: {
            "formula": _FORMULA,
            "gain": table.gain.tolist(),
            "offset": table.offset.tolist(),
            "unchanged": np.flatnonzero(~table.matched).tolist(),
        }
    }
