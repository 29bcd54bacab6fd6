"""Measuring fields and pair fields of some sections, as many windows at a time as memory allows."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.residual_motion import coarse_positions, residual_motion
from ssem_dask.field.folding import jacobian_determinant, strain, without_mirroring
from ssem_dask.field.grid import Grid
from ssem_dask.field.piecewise_affine import PiecewiseAffine
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION, UNCERTAINTY
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import read_parts
from ssem_dask.stages.fix_clusters import clusters_at
from ssem_dask.stages.fixed_rows import MergedPairs, read_places
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.quality import QualityInfo, window_boxes
from ssem_dask.types import Float64Array, ShapeYX

READ_ARRAYS = COARSE, SECTION, PAIRS, CONFIDENCE, UNCERTAINTY
"""Arrays that are measured."""
KEPT = 1 << 18
"""Nodes of a section that its medians are taken over: exact enough, and bounded."""
_PATCH_NODES = 1 << 16
"""Nodes of a section that are read at once: of small windows several, since neighbours share chunks."""


@dataclass(frozen=True, slots=True)
class FieldMeasures:
    """Measures by section `(sections,)` and by window `(sections, y, x)`."""

    sections: dict[str, Float64Array]
    windows: dict[str, Float64Array]
    bytes_read: int


@dataclass(slots=True)
class _Section:
    """Sums and samples of one section, collected patch by patch."""

    folded: int = 0
    cells: int = 0
    nodes: int = 0
    known: int = 0
    confidence: float = 0.0
    strains: list[Tensor] = field(default_factory=list)
    motions: list[Tensor] = field(default_factory=list)
    uncertainties: list[Tensor] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Return the values of the section's columns; NaN is unknown."""
        motion = torch.cat([torch.full((2, 0), torch.nan), *self.motions], dim=1)
        return {
            "motion_median": _median(torch.hypot(motion[0], motion[1])),
            "motion_dy": _median(motion[0]),
            "motion_dx": _median(motion[1]),
            "uncertainty": _median(torch.cat([torch.zeros(0), *self.uncertainties])),
            "fold_rate": self.folded / self.cells if self.cells else math.nan,
            "strain_p99": _quantile(torch.cat([torch.zeros(0), *self.strains]), 0.99),
            "confidence": self.confidence / self.known if self.known else math.nan,
            "known": self.known / self.nodes if self.nodes else math.nan,
        }


@dataclass(frozen=True, slots=True)
class _FieldArrays:
    """The opened arrays of a run that are read patch by patch."""

    section: ZarrArray
    pairs: MergedPairs
    confidence: MergedPairs
    uncertainty: ZarrArray | None


@dataclass(frozen=True, slots=True)
class _Patch:
    """Windows side by side that are measured together; slices (y, x) are of nodes."""

    nodes: tuple[slice, slice]
    """The nodes of the patch, in the section."""
    windows: list[tuple[ShapeYX, tuple[slice, slice]]]
    """Number (y, x) of each window, and its nodes in the patch."""
    kept: tuple[Tensor, Tensor]
    """Rows and columns of the patch that medians of sections are taken over."""


def patch_nodes(shape_yx: ShapeYX, *, window: ShapeYX, spacing: int) -> int:
    """Nodes that are held of a section at once."""
    nodes, least = (math.prod(ceil_div(n, spacing) for n in extent) for extent in (shape_yx, window))
    return min(nodes, max(least, _PATCH_NODES))


def measure_fields(job: Job, info: QualityInfo, sections: range) -> FieldMeasures:
    """Folds, strain, motion left between neighbours, uncertainty and confidence of some sections."""
    # Method chain writes no uncertainty.
    arrays = _FieldArrays(
        SECTION.open(job),
        MergedPairs.open(job, PAIRS, clusters=clusters_at(job, sections)),
        MergedPairs.open(job, CONFIDENCE, clusters=clusters_at(job, sections)),
        UNCERTAINTY.open(job) if UNCERTAINTY.exists(job) else None,
    )
    first = max(0, sections.start - 1)
    coarse = read_places(job, COARSE, range(first, sections.stop))
    parts = read_parts(job, range(first, sections.stop), fixes=job.fixes)
    step = max(1, math.ceil(math.sqrt(math.prod(arrays.section.shape[2:]) / KEPT)))
    gathered = [_Section() for _ in sections]
    windows = {name: np.full((len(sections), *info.windows), np.nan) for name in ("confidence", "known", "motion")}
    read = 0
    for patch in _patches(info, spacing=job.spacing, step=step):
        read += _measure_patch(
            patch,
            arrays=arrays,
            coarse=coarse,
            parts=parts,
            sections=sections,
            spacing=job.spacing,
            gathered=gathered,
            windows=windows,
        )
    rows = [section.row() for section in gathered]
    return FieldMeasures({name: np.array([row[name] for row in rows]) for name in rows[0]}, windows, read)


def _patches(info: QualityInfo, *, spacing: int, step: int) -> Iterator[_Patch]:
    """Cut a section into patches; of each window every `step`th row and column is kept."""
    boxes, (rows, columns) = window_boxes(info), info.windows
    room = max(1, _PATCH_NODES // math.prod(ceil_div(n, spacing) for n in info.window))
    wide = min(columns, room)
    high = room // wide
    # Windows form a grid: the nodes along an axis are the same for all windows of a row, and of a column.
    spans = [
        [(box.start[axis] // spacing, ceil_div(box.stop[axis], spacing)) for box in line]
        for axis, line in ((1, boxes[::columns]), (2, boxes[:columns]))
    ]
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            parts = spans[0][top : top + high], spans[1][left : left + wide]
            starts = [part[0][0] for part in parts]
            inner = [[slice(a - start, b - start) for a, b in part] for part, start in zip(parts, starts, strict=True)]
            kept = [torch.cat([torch.arange(s.start, s.stop, step) for s in of_axis]) for of_axis in inner]
            yield _Patch(
                (slice(starts[0], parts[0][-1][1]), slice(starts[1], parts[1][-1][1])),
                [((top + i, left + j), (y, x)) for i, y in enumerate(inner[0]) for j, x in enumerate(inner[1])],
                (kept[0], kept[1]),
            )


def _measure_patch(
    patch: _Patch,
    *,
    arrays: _FieldArrays,
    coarse: Float64Array,
    parts: Mapping[int, PiecewiseAffine],
    sections: range,
    spacing: int,
    gathered: list[_Section],
    windows: dict[str, Float64Array],
) -> int:
    """Measure one patch of all sections; fills `gathered` and `windows` and returns the bytes read."""
    first = max(0, sections.start - 1)
    own_sections = slice(sections.start, sections.stop)
    rows, columns = patch.nodes
    # One node more, so that no cell between two patches is left out.
    over = tuple(slice(s.start, s.stop + 1) for s in patch.nodes)
    fields = _read(arrays.section[first : sections.stop, :, over[0], over[1]])
    confidence = _read(arrays.confidence[0, own_sections, rows, columns])
    inner = fields[:, :, : rows.stop - rows.start, : columns.stop - columns.start]
    origin = float(rows.start * spacing), float(columns.start * spacing)
    grid = Grid((inner.shape[2], inner.shape[3]), spacing, origin)
    places = [
        coarse_positions(f, coarse=a, parts=parts.get(z), grid=grid)
        for z, f, a in zip(range(first, sections.stop), inner, coarse, strict=True)
    ]
    pairs, pair_grid = _read_pairs(arrays.pairs, sections, patch, places, spacing=spacing)
    read = fields.nbytes + confidence.nbytes + pairs.nbytes
    uncertainty = None
    if arrays.uncertainty is not None:
        uncertainty = _read(arrays.uncertainty[own_sections, rows, columns])
        read += uncertainty.nbytes
    # The patch's own nodes are among those of the pairs.
    above, beside = (s.start - round(o / spacing) for s, o in zip(patch.nodes, pair_grid.origin, strict=True))
    own = pairs[:, 0, above : above + grid.shape[0], beside : beside + grid.shape[1]]
    for i, z in enumerate(sections):
        j, section = z - first, gathered[i]
        # A section that was mounted upside down is mirrored as a whole, which is no fold.
        is_mirrored = float(np.linalg.det(coarse[j][:, :2])) < 0
        deformation = without_mirroring(fields[j], spacing=spacing) if is_mirrored else fields[j]
        determinant = jacobian_determinant(deformation, spacing=spacing)
        section.folded += int((determinant <= 0).sum())
        section.cells += int(torch.isfinite(determinant).sum())
        section.strains.append(_thinned(strain(deformation, spacing=spacing), patch))
        if uncertainty is not None:
            section.uncertainties.append(_thinned(uncertainty[i], patch))
        if j == 0:
            continue  # the volume's first section has none before it
        known = torch.isfinite(own[i])
        believed = torch.where(known, confidence[i], 0.0).double()
        section.nodes += known.numel()
        section.known += int(known.sum())
        section.confidence += float(believed.sum())
        motion = residual_motion(
            positions=places[j], positions_before=places[j - 1], pair=pairs[i], pair_grid=pair_grid
        )
        section.motions.append(torch.stack([_thinned(component, patch) for component in motion]))
        length = torch.hypot(motion[0], motion[1])
        for (y, x), nodes in patch.windows:
            count = int(known[nodes].sum())
            windows["known"][i, y, x] = count / known[nodes].numel()
            windows["confidence"][i, y, x] = float(believed[nodes].sum()) / count if count else math.nan
            windows["motion"][i, y, x] = _median(length[nodes])
    return read


def _thinned(values: Tensor, patch: _Patch) -> Tensor:
    """Return the values of a patch's nodes, or of the cells between them, that medians are taken over, flat."""
    rows, columns = (kept[kept < count] for kept, count in zip(patch.kept, values.shape, strict=True))
    if len(rows) * len(columns) == values.numel():
        return values.flatten()
    return values[rows[:, None], columns].flatten()


def _read_pairs(
    array: MergedPairs, sections: range, patch: _Patch, places: list[Tensor], *, spacing: int
) -> tuple[Tensor, Grid]:
    """Read the pair fields `(sections, 2, h, w)` over a patch and all `places`; return them with their grid."""
    spans = []
    for axis, (count, nodes) in enumerate(zip(array.shape[3:], patch.nodes, strict=True)):
        low, high = nodes.start, nodes.stop
        reached = torch.cat([p[axis][torch.isfinite(p[axis])] for p in places])
        if reached.numel():
            least, most = torch.aminmax(reached)
            low = min(low, max(0, math.floor(float(least) / spacing) - 1))
            high = max(high, min(math.ceil(float(most) / spacing) + 1, count))
        spans.append((low, high))
    (top, bottom), (left, right) = spans
    pairs = _read(array[0, sections.start : sections.stop, :, top:bottom, left:right])
    return pairs, Grid((bottom - top, right - left), spacing, (float(top * spacing), float(left * spacing)))


def _median(values: Tensor) -> float:
    return _quantile(values, 0.5)


def _quantile(values: Tensor, share: float) -> float:
    known = values[torch.isfinite(values)].double().numpy()
    return float(np.quantile(known, share)) if known.size else math.nan


def _read(values: object) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
