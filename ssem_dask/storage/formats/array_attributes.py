"""Names of axes and lengths of voxels in the attributes of HDF5, Zarr and N5 arrays, in the spellings in use.

Formats without a standard for these carry those of the tools that write them: xarray, ilastik, funlib, n5, TensorStore.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.storage.formats.axes import axis_kind
from ssem_dask.storage.lengths import Length

_NAME_KEYS = ("_ARRAY_DIMENSIONS", "dimension_names", "DIMENSION_LABELS", "axis_names", "axes")
_LENGTH_KEYS = (
    ("voxel_size", "nm"),
    ("resolution", "nm"),
    ("voxelSize", "nm"),
    ("element_size_um", "um"),
    ("element_size_nm", "nm"),
)
_UNIT_KEYS = ("units", "unit", "resolution_unit", "voxel_size_unit")
_MATLAB_AXES = ("z", "x", "y")
"""Axes of an HDF5 file of MATLAB, which stores rows, columns and sections with the last axis first."""
_QUANTITY = re.compile(r"\s*([\d.eE+-]*)\s*([^\d\s].*)")


@dataclass(frozen=True, slots=True)
class ArrayAttributes:
    """Parsed attributes of an array."""

    names: tuple[Any, ...] | None
    """Name of each axis as stored; None if they are not named."""
    lengths: Mapping[str, Length]
    """Length of a voxel and its unit, along z, y and x."""


def parse_array_attributes(
    attributes: Mapping[str, Any], *, ndim: int, x_first: bool = False, names: Sequence[Any] | None = None
) -> ArrayAttributes:
    """Read what the attributes of an array say about its axes.

    Args:
        attributes: of the array; values of any type.
        ndim: number of axes.
        x_first: whether lists of the attributes begin with x, as in N5; else they follow the axes as numpy has them.
        names: names of the axes that the format itself has, in numpy's order.
    """
    found = _names(attributes, ndim, x_first=x_first) if names is None else tuple(names)
    kinds = [axis_kind(name) for name in found] if found is not None else []
    transform = _mapping(attributes.get("transform"))
    if transform and isinstance(transform.get("axes"), Sequence) and isinstance(transform.get("scale"), Sequence):
        # A transform (cosem) has an order of its own, which it states.
        lengths = _along(
            transform["scale"], transform.get("units"), kinds=[axis_kind(a) for a in transform["axes"]], ndim=ndim
        )
        if lengths:
            return ArrayAttributes(found, lengths)
    values, units = _stored_lengths(attributes)
    if x_first:
        values = values[::-1]
        units = units[::-1] if isinstance(units, list) else units
    return ArrayAttributes(found, _along(values, units, kinds=kinds, ndim=ndim))


def plain_value(value: Any) -> Any:
    """Return an attribute of HDF5 as the JSON value that other formats would have."""
    if isinstance(value, np.ndarray):
        return [plain_value(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain_value(value.item())
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _names(attributes: Mapping[str, Any], ndim: int, *, x_first: bool) -> tuple[Any, ...] | None:
    tags = attributes.get("axistags")  # vigra and ilastik
    if isinstance(tags, str):
        try:
            keys = [axis.get("key") for axis in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            keys = []
        if len(keys) == ndim:
            return tuple(keys)
    if ndim == len(_MATLAB_AXES) and "MATLAB_class" in attributes:
        return _MATLAB_AXES
    for key in _NAME_KEYS:
        names = attributes.get(key)
        if isinstance(names, str) and len(names) == ndim:
            names = list(names)
        if isinstance(names, list) and len(names) == ndim:
            names = [name.get("name") if isinstance(name, Mapping) else name for name in names]
            return tuple(names[::-1] if x_first else names)
    return None


def _stored_lengths(attributes: Mapping[str, Any]) -> tuple[list[Any], Any]:
    quantities = attributes.get("dimension_units")  # TensorStore: ["40 nm", "4 nm", "4 nm"]
    if isinstance(quantities, list) and quantities:
        parts = [_quantity(quantity) for quantity in quantities]
        return [value for value, _ in parts], [unit for _, unit in parts]
    pixel = _mapping(attributes.get("pixelResolution"))
    if pixel:
        return _list(pixel.get("dimensions")), pixel.get("unit", "nm")
    for key, unit in _LENGTH_KEYS:
        values = _list(attributes.get(key))
        if values:
            stored = next((attributes[name] for name in _UNIT_KEYS if attributes.get(name)), unit)
            return values, unit if key.startswith("element_size") else stored
    return [], None


def _along(values: Any, units: Any, *, kinds: Sequence[str | None], ndim: int) -> dict[str, Length]:
    """Assign lengths to z, y and x: by the names of the axes, else by their position among the last three."""
    values = _list(values)
    if len(values) == ndim and len(kinds) == ndim:
        axes: Sequence[str | None] = kinds
    elif len(values) == len(kinds):
        axes = kinds
    elif len(values) == 3:
        spatial = [kind for kind in kinds if kind in ("z", "y", "x")]
        axes = spatial if len(spatial) == 3 else ("z", "y", "x")
    elif len(values) == ndim > 3:
        axes = (*[None] * (ndim - 3), "z", "y", "x")
    else:
        return {}
    many = isinstance(units, list) and len(units) == len(values)
    return {
        axis: (value, units[i] if many else (units[0] if isinstance(units, list) and units else units))
        for i, (axis, value) in enumerate(zip(axes, values, strict=True))
        if axis in ("z", "y", "x")
    }


def _quantity(value: Any) -> tuple[Any, Any]:
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    match = _QUANTITY.fullmatch(str(value))
    return (match[1] or 1, match[2]) if match else (0, "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
