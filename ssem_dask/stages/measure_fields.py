"""Measuring fields and pair fields of some sections, window by window."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.motion_left import coarse_positions, motion_left
from ssem_dask.field.grid import Grid
from ssem_dask.field.quality import jacobian_determinant, strain
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Job
from ssem_dask.storage.arrays import ZarrArray, open_array
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.location import exists
from ssem_dask.storage.quality import QualityInfo, window_boxes
from ssem_dask.types import AnyArray, Float64Array

READ_FIELDS = ("coarse", "section", "pairs", "confidence", "uncertainty")
"""Arrays of `fields/` that are looked at."""
_KEPT = 1 << 18
"""Nodes of a section that its medians are taken over: exact enough, and bounded."""


@dataclass(frozen=True, slots=True)
class FieldMeasures:
    """What was measured: by section `(sections,)` and by window `(sections, y, x)`."""

    sections: dict[str, Float64Array]
    windows: dict[str, Float64Array]
    bytes_read: int


@dataclass(slots=True)
class _Section:
    """What is gathered of one section while its windows come by."""

    folded: int = 0
    cells: int = 0
    nodes: int = 0
    known: int = 0
    confidence: float = 0.0
    strains: list[Tensor] = field(default_factory=list)
    motions: list[Tensor] = field(default_factory=list)
    uncertainties: list[Tensor] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """The values of the section's columns; NaN is unknown."""
        motion = torch.cat([torch.full((2, 0), torch.nan), *self.motions], dim=1)
        return {
            "motion_median": _median(torch.linalg.vector_norm(motion, dim=0)),
            "motion_dy": _median(motion[0]),
            "motion_dx": _median(motion[1]),
            "uncertainty": _median(torch.cat([torch.zeros(0), *self.uncertainties])),
            "fold_rate": self.folded / self.cells if self.cells else math.nan,
            "strain_p99": _quantile(torch.cat([torch.zeros(0), *self.strains]), 0.99),
            "confidence": self.confidence / self.known if self.known else math.nan,
            "known": self.known / self.nodes if self.nodes else math.nan,
        }


def measure_fields(job: Job, info: QualityInfo, sections: range) -> FieldMeasures:
    """Folds, strain, motion left between neighbours, uncertainty and confidence of some sections."""
    urls = {name: job.url("fields", name) for name in READ_FIELDS if name != "coarse"}
    arrays = {name: open_array(url, mode="r") for name, url in urls.items() if exists(url)}
    first = max(0, sections.start - 1)
    coarse = np.asarray(open_coarse(job.url("fields", "coarse"))[first : sections.stop])
    step = max(1, math.ceil(math.sqrt(math.prod(arrays["section"].shape[2:]) / _KEPT)))
    gathered = [_Section() for _ in sections]
    windows = {name: np.full((len(sections), *info.windows), np.nan) for name in ("confidence", "known", "motion")}
    read = 0
    for index, box in enumerate(window_boxes(info)):
        place = divmod(index, info.windows[1])
        read += _measure_window(
            box,
            arrays=arrays,
            coarse=coarse,
            sections=sections,
            spacing=job.spacing,
            step=step,
            gathered=gathered,
            windows={name: values[:, place[0], place[1]] for name, values in windows.items()},
        )
    rows = [section.row() for section in gathered]
    return FieldMeasures({name: np.array([row[name] for row in rows]) for name in rows[0]}, windows, read)


def _measure_window(
    box: Box,
    *,
    arrays: dict[str, ZarrArray],
    coarse: Float64Array,
    sections: range,
    spacing: int,
    step: int,
    gathered: list[_Section],
    windows: dict[str, AnyArray],
) -> int:
    """Measure one window of all sections; fills `gathered` and `windows` and returns the bytes read."""
    first = max(0, sections.start - 1)
    count = arrays["section"].shape[2:]
    low = [start // spacing for start in box.start_yx]
    high = [ceil_div(stop, spacing) for stop in box.stop[1:]]
    rows, columns = slice(low[0], high[0]), slice(low[1], high[1])
    # One node more, so that no cell between two windows is left out.
    over = tuple(slice(a, min(b + 1, n)) for a, b, n in zip(low, high, count, strict=True))
    fields = _read(arrays["section"][first : sections.stop, :, over[0], over[1]])
    confidence = _read(arrays["confidence"][0, sections.start : sections.stop, rows, columns])
    read = fields.nbytes + confidence.nbytes
    inner = fields[:, :, : high[0] - low[0], : high[1] - low[1]]
    grid = Grid((inner.shape[2], inner.shape[3]), spacing, (float(low[0] * spacing), float(low[1] * spacing)))
    places = [coarse_positions(f, coarse=a, grid=grid) for f, a in zip(inner, coarse, strict=True)]
    pairs, pair_grid = _read_pairs(arrays["pairs"], sections, places, spacing=spacing)
    read += pairs.nbytes
    uncertainty = None
    if "uncertainty" in arrays:
        uncertainty = _read(arrays["uncertainty"][sections.start : sections.stop, rows, columns])
        read += uncertainty.nbytes
    own = _read(arrays["pairs"][0, sections.start : sections.stop, 0, rows, columns])
    for i, z in enumerate(sections):
        j, section = z - first, gathered[i]
        determinant = jacobian_determinant(fields[j], spacing=spacing)
        section.folded += int((determinant <= 0).sum())
        section.cells += int(torch.isfinite(determinant).sum())
        section.strains.append(strain(fields[j], spacing=spacing)[::step, ::step].flatten())
        if uncertainty is not None:
            section.uncertainties.append(uncertainty[i, ::step, ::step].flatten())
        if j == 0:
            continue  # the volume's first section has none before it
        known = torch.isfinite(own[i])
        section.nodes += known.numel()
        section.known += int(known.sum())
        section.confidence += float(confidence[i][known].double().sum())
        windows["known"][i] = float(known.double().mean())
        windows["confidence"][i] = float(confidence[i][known].double().mean()) if bool(known.any()) else math.nan
        motion = motion_left(here=places[j], before=places[j - 1], pair=pairs[i], pair_grid=pair_grid)
        section.motions.append(motion[:, ::step, ::step].flatten(1))
        windows["motion"][i] = _median(torch.linalg.vector_norm(motion, dim=0))
    return read


def _read_pairs(array: ZarrArray, sections: range, places: list[Tensor], *, spacing: int) -> tuple[Tensor, Grid]:
    """The pair fields `(sections, 2, h, w)` over all `places`, and where they lie."""
    spans = []
    for axis, count in enumerate(array.shape[3:]):
        reached = torch.cat([p[axis][torch.isfinite(p[axis])].flatten() for p in places])
        low, high = (float(reached.min()), float(reached.max())) if reached.numel() else (0.0, 0.0)
        start = min(max(0, math.floor(low / spacing) - 1), count - 1)
        spans.append((start, min(max(math.ceil(high / spacing) + 1, start + 1), count)))
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
