"""Checks of shapes, types and attributes: sections of images, or labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, ngff
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.formats.axes import order_axes
from ssem_dask.storage.untrusted import record_in
from ssem_dask.types import ShapeZYX

IMPORT_KEY = "ssem_dask_import"
"""Group attribute of an imported volume: {"state": "importing" | "complete", "source", "labels"}; an unfinished import
is never opened."""
WARP_KEY = "ssem_dask_warp"
"""Group attribute of a warped volume: {"alignment", "source", "labels", "digest", "state"}."""
MAX_SECTIONS = 4 << 20
"""Sections of a volume at most: a whole human brain, 140 mm, has 4 million sections of 33 nm."""
MAX_SIDE_PX = 1 << 26
"""Pixels of a section's side at most: 270 mm at 4 nm."""


def holds_labels(attributes: Mapping[str, Any], *, dtype: np.dtype[Any]) -> bool:
    """Return whether values are ids of a segmentation: the attributes say so, or no image has this type."""
    records = (attributes.get(key) for key in (IMPORT_KEY, WARP_KEY))
    declared = any(isinstance(record, Mapping) and record.get("labels") for record in records)
    return declared or ngff.LABEL_KEY in attributes or (dtype.kind in "iu" and dtype not in (np.uint8, np.uint16))


def check_image_dtype(where: str, dtype: np.dtype[Any]) -> None:
    """Raise SourceError if values of `dtype` are not grey values that can be aligned (C9)."""
    if dtype not in (np.uint8, np.uint16):
        labels = ", or give --labels if they are ids of a segmentation" if dtype.kind in "iu" else ""
        raise SourceError(
            f"{where}: images are {dtype}, but must be uint8 or uint16; scale them to 0…255 or 0…65535 "
            f"(set NaN to 0) and export them again{labels}."
        )


def check_extent(where: str, shape: ShapeZYX) -> None:
    """Raise SourceError if metadata declare a volume that is larger than any tissue."""
    if shape[0] > MAX_SECTIONS or max(shape[1:]) > MAX_SIDE_PX:
        raise SourceError(
            f"{where}: its metadata declare {shape[0]} sections of {shape[1]} × {shape[2]} px, but at most "
            f"{MAX_SECTIONS} sections of {MAX_SIDE_PX} × {MAX_SIDE_PX} px are read; check the metadata."
        )


def check_sections(where: str, shape: ShapeZYX) -> None:
    """Raise SourceError if a volume of `shape` has no pixels, fewer than two sections, or more than there can be."""
    check_extent(where, shape)
    if 0 in shape:
        raise SourceError(f"{where}: the volume has shape {shape}, it is empty; check the export.")
    if shape[0] < 2:
        raise SourceError(f"{where}: holds a single section, but an alignment needs at least two; give the series.")


def refuse_other_order(url: str, array: ZarrArray) -> None:
    """Raise SourceError if the named axes of an array are not (z, y, x)."""
    names = arrays.axis_names(array)
    if names is not None and order_axes(url, array.shape, names=names).zyx != (0, 1, 2):
        raise SourceError(other_axes(url, names))


def other_axes(url: str, axes: tuple[str, ...]) -> str:
    """Return what is wrong with axes."""
    return (
        f"{url}: axes are {', '.join(axes)}, but a volume has z, y, x; bring it into that form with 'ssem-dask import'."
    )


def refuse_unfinished_import(url: str, attributes: Mapping[str, Any]) -> None:
    """Raise SourceError if a group's attributes say that its import was not finished."""
    state = (record_in(attributes, IMPORT_KEY, where=url) or {}).get("state", "complete")
    if state != "complete":
        raise SourceError(f"{url}: its import was not finished (state {state!r}); import it again.")
