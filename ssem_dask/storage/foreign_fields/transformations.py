"""Coordinate transformations of OME-Zarr 0.6 (RFC-5), applied to points.

A transformation is parsed to a `Mapping`: a function of points `(n, N)` → `(n, M)`, and its inverse if it has one.
Fields are read where the points are, so memory grows with the points and not with the field.
"""

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Record
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.types import AnyArray, Float64Array

Points = Callable[[Float64Array], Float64Array]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A map of points, and its inverse; None if it has none that is known."""

    forward: Points
    inverse: Points | None

    def inverted(self) -> "Mapping | None":
        """Return the inverse map; None if it is not known."""
        return None if self.inverse is None else Mapping(self.inverse, self.forward)


@dataclass(frozen=True, slots=True)
class VectorField:
    """An array of vectors on a regular grid."""

    array: ZarrArray | AnyArray
    component: int
    """Axis of the components."""
    scale: Float64Array
    """Extent of a step along each other axis."""
    origin: Float64Array
    """Position of index 0."""
    nearest: bool
    """Whether values are those of the nearest node and not interpolated."""

    def at(self, points: Float64Array) -> Float64Array:
        """Return the vectors at points `(n, N)`, multilinear; outside of the grid the border is repeated."""
        extent = np.delete(self.array.shape, self.component)
        index = np.clip((points - self.origin) / self.scale, 0, extent - 1)
        # A position that rounding moved off a node would double what is read.
        near = np.round(index)
        index = np.where(np.abs(index - near) < 1e-9, near, index)
        if self.nearest:
            index = near
        first = np.floor(index).astype(np.intp)
        share = index - first
        low, high = first.min(axis=0), np.minimum((first + (share > 0)).max(axis=0) + 1, extent)
        spans = [slice(int(a), int(b)) for a, b in zip(low, high, strict=True)]
        spans.insert(self.component, slice(None))
        values = np.moveaxis(np.asarray(self.array[tuple(spans)], dtype=np.float64), self.component, -1)
        out = np.zeros((len(points), values.shape[-1]))
        for corner in product((0, 1), repeat=len(extent)):
            weight = np.prod(np.where(corner, share, 1 - share), axis=1)
            used = weight > 0  # an unknown node of weight 0 does no harm
            place = tuple((first[used] - low + np.array(corner)).T)
            out[used] += weight[used, None] * values[place]
        return out


class OpenField(Protocol):
    """Opens the field of a transformation."""

    def __call__(self, path: str, *, nearest: bool) -> VectorField:
        """Return the field in the group at a path of the same container."""


def parse_transformation(record: Record[str, Any], *, open_field: OpenField, where: str) -> Mapping:
    """Parse a transformation.

    Args:
        record: the transformation as JSON.
        open_field: opens fields.
        where: URL of the metadata, for messages.

    Raises:
        SourceError: its type is unknown or not supported.
    """

    def parse(inner: Record[str, Any]) -> Mapping:
        return parse_transformation(inner, open_field=open_field, where=where)

    kind = record.get("type")
    if kind == "identity":
        return Mapping(lambda points: points, lambda points: points)
    if kind in _MATRICES:
        return _affine(_MATRICES[kind](record))
    if kind == "sequence":
        return chained([parse(inner) for inner in record["transformations"]])
    if kind == "bijection":
        return Mapping(parse(record["forward"]).forward, parse(record["inverse"]).forward)
    if kind == "byDimension":
        return _by_dimension(record["transformations"], parse)
    if kind in ("displacements", "coordinates"):
        field = open_field(record["path"], nearest=record.get("interpolation") == "nearest")
        if kind == "coordinates":
            return Mapping(field.at, None)
        return Mapping(lambda points: points + field.at(points), None)
    raise SourceError(
        f"{where}: a transformation of type {kind!r} is not supported; write it as displacements or as an affine map."
    )


def chained(mappings: Sequence[Mapping]) -> Mapping:
    """Return the map that applies the first mapping first."""
    inverses = [mapping.inverse for mapping in mappings]

    def forward(points: Float64Array) -> Float64Array:
        for mapping in mappings:
            points = mapping.forward(points)
        return points

    def inverse(points: Float64Array) -> Float64Array:
        for undo in reversed(inverses):
            assert undo is not None
            points = undo(points)
        return points

    return Mapping(forward, None if any(undo is None for undo in inverses) else inverse)


def _scale(record: Record[str, Any]) -> AnyArray:
    scale = np.asarray(record["scale"], dtype=np.float64)
    return np.column_stack([np.diag(scale), np.zeros(len(scale))])


def _translation(record: Record[str, Any]) -> AnyArray:
    shift = np.asarray(record["translation"], dtype=np.float64)
    return np.column_stack([np.eye(len(shift)), shift])


def _rotation(record: Record[str, Any]) -> AnyArray:
    matrix = np.asarray(record["rotation"], dtype=np.float64)
    return np.column_stack([matrix, np.zeros(len(matrix))])


def _map_axis(record: Record[str, Any]) -> AnyArray:
    order = record["mapAxis"]
    matrix = np.zeros((len(order), len(order) + 1))
    matrix[np.arange(len(order)), order] = 1.0
    return matrix


_MATRICES: dict[Any, Callable[[Record[str, Any]], AnyArray]] = {
    "scale": _scale,
    "translation": _translation,
    "rotation": _rotation,
    "mapAxis": _map_axis,
    "affine": lambda record: np.asarray(record["affine"], dtype=np.float64),
}


def _affine(matrix: AnyArray) -> Mapping:
    linear, shift = matrix[:, :-1], matrix[:, -1]

    def forward(points: Float64Array) -> Float64Array:
        moved: Float64Array = points @ linear.T + shift
        return moved

    if linear.shape[0] != linear.shape[1] or abs(np.linalg.det(linear)) < 1e-12:
        return Mapping(forward, None)
    back = np.linalg.inv(linear)

    def inverse(points: Float64Array) -> Float64Array:
        moved: Float64Array = (points - shift) @ back.T
        return moved

    return Mapping(forward, inverse)


def _by_dimension(items: Sequence[Record[str, Any]], parse: Callable[[Record[str, Any]], Mapping]) -> Mapping:
    parts = []
    for item in items:
        # 0.6 wraps the transformation; its drafts put the axes beside its values.
        mapping = parse(item.get("transformation", item))
        inputs, outputs = (item.get(f"{side}Axes", item.get(f"{side}_axes")) for side in ("input", "output"))
        parts.append((mapping, inputs, outputs))
    width = 1 + max(axis for _, _, outputs in parts for axis in outputs)
    back_width = 1 + max(axis for _, inputs, _ in parts for axis in inputs)

    def forward(points: Float64Array) -> Float64Array:
        out = np.zeros((len(points), width))
        for mapping, inputs, outputs in parts:
            out[:, outputs] = mapping.forward(points[:, inputs])
        return out

    def inverse(points: Float64Array) -> Float64Array:
        out = np.zeros((len(points), back_width))
        for mapping, inputs, outputs in parts:
            assert mapping.inverse is not None
            out[:, inputs] = mapping.inverse(points[:, outputs])
        return out

    return Mapping(forward, None if any(mapping.inverse is None for mapping, _, _ in parts) else inverse)
