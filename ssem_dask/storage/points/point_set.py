"""Base of all files of points: positions that can be moved, and the content of the file that then results."""

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ssem_dask.types import BoolArray, Float64Array

MAX_INFLATED_BYTES = 1 << 32
"""Bytes that a compressed file expands to at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointSet(ABC):
    """The points of one file."""

    where: str
    """Where they come from, for messages."""
    positions: Float64Array
    """`(n, 3)` (z, y, x) in the unit of the file."""

    @abstractmethod
    def moved(self, positions: Float64Array) -> bytes:
        """Return the content of the file with other positions; points with a NaN are left out.

        Args:
            positions: `(n, 3)` (z, y, x) in the unit of the file.
        """


def known_points(positions: Float64Array) -> BoolArray:
    """Return which points have a position."""
    known: BoolArray = np.logical_and.reduce(np.isfinite(positions), axis=1)
    return known


def gunzipped(content: bytes) -> bytes:
    """Return the content of a gzip file, or other content unchanged.

    Raises:
        zlib.error: it is torn, or expands to too much.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    stream = zlib.decompressobj(wbits=31)
    inflated = stream.decompress(content, MAX_INFLATED_BYTES)
    if not stream.eof:
        raise zlib.error(f"ends too early, or expands to more than {MAX_INFLATED_BYTES} bytes")
    return inflated
