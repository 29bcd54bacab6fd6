"""Candidates: alignments of the same source that an evaluation compares.

`observed` leaves every section unchanged, `coarse` applies only the run's affine per section, `aligned` its fields.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.errors import SourceError
from ssem_dask.field.affine import apply_affine
from ssem_dask.field.border import extrapolated
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.storage import run_group as runs
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.fields import FieldInfo, open_coarse, open_field
from ssem_dask.storage.foreign_fields.section_maps import SectionMaps
from ssem_dask.storage.location import exists, join
from ssem_dask.storage.volume import Volume
from ssem_dask.types import ShapeZYX

_FIELD_MARGIN_NODES = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to align a source."""

    name: str
    displacements: Callable[[int, Grid], Tensor]
    """Function of z and a grid of the aligned section: the field f_z `(2, y, x)`, px; NaN is unknown."""


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """The arrays and attributes of a run that its evaluation needs."""

    url: str
    state: str
    source: str
    shape: ShapeZYX
    section: ZarrArray
    """`fields/section` `(z, 2, y, x)`."""
    info: FieldInfo
    coarse: ZarrArray
    """`fields/coarse` `(z, 2, 3)`."""

    @classmethod
    def open(cls, url: str) -> "EvaluatedRun":
        """Open a run.

        Raises:
            SourceError: there is no run, or it has no fields yet.
            OutputError: something that is not a run is there.
            ConventionError: its fields follow other conventions.
        """
        record = runs.read_run(url)
        section_url = SECTION.at(url)
        if not exists(section_url):
            raise SourceError(f"{url}: this alignment has no fields/section yet; complete it first.")
        section, info = open_field(section_url)
        return cls(
            url=url,
            state=record.state,
            source=record.source,
            shape=info.shape_mip0,
            section=section,
            info=info,
            coarse=open_coarse(COARSE.at(url)),
        )

    def volume(self) -> Volume:
        """Open the source; if it has no pixel size, use that of the aligned volume."""
        aligned = join(self.url, ALIGNED)
        if not exists(aligned):
            return Volume.open(self.source)
        info = Volume.open(aligned).info
        return Volume.open(self.source, like=info)

    def nodes(self, z: int) -> Tensor:
        """Read `fields/section` of section z, `(2, y, x)`."""
        return torch.from_numpy(np.asarray(self.section[z], dtype=np.float32))

    def affine_displacements(self, z: int, grid: Grid) -> Tensor:
        """Return the displacements of the coarse affine on `grid`, computed in float64; NaN if the section has none."""
        affine = np.asarray(self.coarse[z], dtype=np.float64)
        positions = grid.positions().double()
        return (apply_affine(affine, positions) - positions).float()

    def field_displacements(self, z: int, grid: Grid) -> Tensor:
        """Return `fields/section` on `grid`, bilinear between the nodes, like rendering."""
        spacing = self.info.spacing
        spans = []  # only the nodes that the grid needs are read
        for axis, count in enumerate(self.info.nodes):
            first = grid.origin[axis]
            last = first + grid.shape[axis] * grid.spacing
            start = max(0, min(int(first // spacing) - _FIELD_MARGIN_NODES, count - 1))
            stop = max(start + 1, min(ceil_div(int(last), spacing) + _FIELD_MARGIN_NODES, count))
            spans.append((start, stop))
        (top, bottom), (left, right) = spans
        values = torch.from_numpy(np.asarray(self.section[z, :, top:bottom, left:right], dtype=np.float32))
        nodes = Grid((bottom - top, right - left), spacing, (float(top * spacing), float(left * spacing)))
        ends = [(start == 0, stop == count) for (start, stop), count in zip(spans, self.info.nodes, strict=True)]
        values, nodes = extrapolated(values, grid=nodes, sides=(ends[0], ends[1]))
        return sample_known(values, grid=nodes, positions=grid.positions())

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the candidates observed, coarse and aligned."""
        return (
            Candidate("observed", zero_displacements),
            Candidate("coarse", self.affine_displacements),
            Candidate("aligned", self.field_displacements),
        )


def foreign_candidate(maps: SectionMaps, name: str) -> Candidate:
    """Return the alignment by fields that another tool, or another run, has made of the same source."""

    def displacements(z: int, grid: Grid) -> Tensor:
        aligned = grid.positions().double().reshape(2, -1).T.numpy()
        source = maps.source_positions(z, aligned)
        return torch.from_numpy((source - aligned).T.reshape(2, *grid.shape)).float()

    return Candidate(name, displacements)


def zero_displacements(z: int, grid: Grid) -> Tensor:  # noqa: ARG001
    """Return no displacement at all."""
    return torch.zeros(2, *grid.shape)
