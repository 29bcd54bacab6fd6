"""How far the section fields of two runs are apart, section by section, after one translation of the whole volume.

Both fields pull, aligned → source: with A and B as maps, the position p of B's aligned section shows what A shows at
A⁻¹(B(p)). Its distance from p is computed to first order: the difference of the fields in source px, times the inverse
of A's median Jacobian in the section, which turns and mirrors what A turned and mirrored (C1, C4, C5).

A run may be placed elsewhere as a whole, which means nothing. So the median of this distance over sections is removed.

Fields are read shard by shard. The largest distance is over all nodes; medians and percentiles of a section are over a
lattice of at most `_SAMPLES` nodes per side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssem_dask.errors import SourceError
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.storage.arrays import ZarrArray, is_node, write_unit
from ssem_dask.storage.fields import open_field
from ssem_dask.types import BoolArray, Float32Array, Float64Array, ShapeZYX

_SAMPLES = 128
_SHIFT_SECTIONS = 64
"""Sections, evenly spaced, that determine the translation."""
_SHIFT_SAMPLES = 32
_LEAST_DETERMINANT = 1e-3
"""Below it a map is degenerate, and has no inverse that means anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChanges:
    """Distances of two fields; arrays are `(z,)`, lengths are mip-0 px, NaN where no node is known in both."""

    shift: tuple[float, float]
    """Translation (y, x) of the whole volume, aligned px of A: B shows at p what A shows at p + shift."""
    median: Float64Array
    p95: Float64Array
    largest: Float64Array
    position: Float64Array
    """Positions `(z, 2)` (y, x) of the largest distance."""
    one_sided: Float64Array
    """Share of the nodes that are known in one of the runs alone."""
    identical: BoolArray
    """Whether all values are equal to the bit, with the translation left in."""


@dataclass(frozen=True, slots=True)
class RunFields:
    """The section fields of a run."""

    array: ZarrArray
    spacing: int
    shape: ShapeZYX
    """(z, y, x) of the volume, mip 0."""

    def read(self, sections: range, rows: slice, columns: slice) -> Float32Array:
        """Read nodes `(z, 2, y, x)`."""
        return np.asarray(self.array[sections.start : sections.stop, :, rows, columns], dtype=np.float32)

    @property
    def nodes(self) -> tuple[int, int]:
        """Number of nodes (y, x)."""
        return int(self.array.shape[2]), int(self.array.shape[3])

    def around(self, like: "RunFields", sections: range, rows: slice, columns: slice) -> Float32Array:
        """Read this field at nodes of another one `(z, 2, y, x)`; nodes between known ones are interpolated."""
        if like.spacing == self.spacing:
            return self.read(sections, rows, columns)
        target = Grid(
            (rows.stop - rows.start, columns.stop - columns.start),
            like.spacing,
            (float(rows.start * like.spacing), float(columns.start * like.spacing)),
        )
        start, stop = [], []
        for part, n in zip((rows, columns), self.nodes, strict=True):
            start.append(min(max(0, part.start * like.spacing // self.spacing - 2), n - 1))
            stop.append(min(n, ceil_div(part.stop * like.spacing, self.spacing) + 2))
        nodes = self.read(sections, slice(start[0], stop[0]), slice(start[1], stop[1]))
        shape = stop[0] - start[0], stop[1] - start[1]
        grid = Grid(shape, self.spacing, (float(start[0] * self.spacing), float(start[1] * self.spacing)))
        positions = target.positions()
        return np.stack([sample_known(torch.from_numpy(u), grid=grid, positions=positions).numpy() for u in nodes])


def open_fields(run: str) -> RunFields:
    """Open the section fields of a run; SourceError if it has none yet."""
    url = SECTION.at(run)
    if not is_node(url):
        raise SourceError(
            f"{run}: the run has no section fields yet, so there is nothing to compare; complete it with the command "
            "that started it."
        )
    array, info = open_field(url)
    return RunFields(array, info.spacing, info.shape_mip0)


def measure_field_changes(a: RunFields, b: RunFields) -> FieldChanges:
    """Measure how far two fields of the same volume are apart, at the nodes of the first."""
    sections = a.shape[0]
    shift = _shift(a, b)
    # Where a shard of the field holds several sections, they are read together.
    depth, _, height, width = write_unit(a.array)
    rows, columns = a.nodes
    step = max(1, ceil_div(max(rows, columns), _SAMPLES))
    median, p95 = np.full(sections, np.nan), np.full(sections, np.nan)
    largest = np.full(sections, np.nan)
    position = np.full((sections, 2), np.nan)
    known_once, nodes = np.zeros(sections), float(rows * columns)
    identical = np.full(sections, a.spacing == b.spacing)
    inverse: dict[int, Float64Array] = {}
    for start in range(0, sections, depth):
        span = range(start, min(start + depth, sections))
        samples: list[list[Float64Array]] = [[] for _ in span]
        for part_rows, part_columns in _parts((rows, columns), (height, width)):
            first = a.read(span, part_rows, part_columns)
            second = b.around(a, span, part_rows, part_columns)
            for i, z in enumerate(span):
                identical[z] &= np.array_equal(first[i], second[i], equal_nan=True)
                once = np.isfinite(first[i]).all(axis=0) != np.isfinite(second[i]).all(axis=0)
                known_once[z] += np.count_nonzero(once)
                # Known from the first part of the section that shows anything.
                if z not in inverse and (found := _inverse_jacobian(first[i], a.spacing)) is not None:
                    inverse[z] = found
                length = _length(_aligned(first[i], second[i], inverse.get(z)), shift)
                samples[i].append(length[-part_rows.start % step :: step, -part_columns.start % step :: step].ravel())
                if np.isfinite(length).any() and not np.nanmax(length) <= largest[z]:
                    row, column = np.unravel_index(int(np.nanargmax(length)), length.shape)
                    largest[z] = length[row, column]
                    position[z] = (part_rows.start + row + 0.5), (part_columns.start + column + 0.5)
        for i, z in enumerate(span):
            known = np.concatenate(samples[i])
            known = known[np.isfinite(known)]
            if known.size:
                median[z], p95[z] = np.percentile(known, [50, 95])
    return FieldChanges(
        shift=shift,
        median=median,
        p95=p95,
        largest=largest,
        position=position * a.spacing,
        one_sided=known_once / nodes,
        identical=identical,
    )


def change_length(
    a: RunFields, b: RunFields, *, z: int, rows: slice, columns: slice, shift: tuple[float, float]
) -> Float64Array:
    """Return the distances `(y, x)` at some nodes of a section."""
    first = a.read(range(z, z + 1), rows, columns)[0]
    second = b.around(a, range(z, z + 1), rows, columns)[0]
    return _length(_aligned(first, second, _inverse_jacobian(first, a.spacing)), shift)


def _shift(a: RunFields, b: RunFields) -> tuple[float, float]:
    """Return the median over sections of the median distance (y, x)."""
    rows, columns = a.nodes
    step = max(1, ceil_div(max(rows, columns), _SHIFT_SAMPLES))
    medians = []
    for z in np.unique(np.linspace(0, a.shape[0] - 1, min(a.shape[0], _SHIFT_SECTIONS)).round().astype(int)):
        span = range(int(z), int(z) + 1)
        whole = slice(0, rows), slice(0, columns)
        first, second = a.read(span, *whole)[0], b.around(a, span, *whole)[0]
        inverse = _inverse_jacobian(first, a.spacing)
        distance = _aligned(first[:, ::step, ::step], second[:, ::step, ::step], inverse).reshape(2, -1)
        known = distance[:, np.isfinite(distance).all(axis=0)]
        if known.size:
            medians.append(np.median(known, axis=1))
    dy, dx = np.median(medians, axis=0) if medians else (0.0, 0.0)
    return float(dy), float(dx)


def _aligned(first: Float32Array, second: Float32Array, inverse: Float64Array | None) -> Float64Array:
    """Return the difference of two fields `(2, y, x)` in the aligned frame of the first."""
    difference = second.astype(np.float64) - first
    return difference if inverse is None else np.asarray(np.tensordot(inverse, difference, axes=1))


def _inverse_jacobian(field: Float32Array, spacing: int) -> Float64Array | None:
    """Return the inverse `(2, 2)` of the median Jacobian of p ↦ p + u(p); None if it is not known, or degenerate."""
    steps = [np.diff(field.astype(np.float64), axis=axis).reshape(2, -1) / spacing for axis in (1, 2)]
    known = [step[:, np.isfinite(step).all(axis=0)] for step in steps]
    if not all(step.shape[1] for step in known):
        return None
    jacobian = np.eye(2) + np.stack([np.median(step, axis=1) for step in known], axis=1)
    return (
        None if abs(np.linalg.det(jacobian)) < _LEAST_DETERMINANT else np.asarray(np.linalg.inv(jacobian), np.float64)
    )


def _length(distance: Float64Array, shift: tuple[float, float]) -> Float64Array:
    return np.asarray(np.hypot(distance[0] - shift[0], distance[1] - shift[1]))


def _parts(shape: tuple[int, int], unit: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for row in range(0, shape[0], unit[0]):
        for column in range(0, shape[1], unit[1]):
            yield slice(row, min(row + unit[0], shape[0])), slice(column, min(column + unit[1], shape[1]))
