"""Copying the fields of a run into another form, a few sections per task; the stage of `ssem-dask export --fields`.

Readers of other tools know no unknown values and treat positions outside of a field differently. So every node gets a
value, and a margin around the section continues it.

Laws: between known nodes the exported field and `Alignment.map_points` agree. At its nodes the inverse is exact to the
tolerance of `preimages`; between them it is interpolated, and its residual is measured where that is worst.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.border import extrapolated
from ssem_dask.field.extrapolate import field_affine, filled
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.field.inverse import preimages
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.exports.field_target import MARGIN, DirectedField, FieldTarget, SectionExport
from ssem_dask.task import Result, Task, box_name

NAME = "fields"
_COPIES = 14
"""Copies of the larger field of a section that inverting it holds at most."""
_UNKNOWN = (float("nan"),) * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFieldsTask(Task):
    """The fields of a few sections, both ways."""

    run_url: str
    target: FieldTarget
    start: int
    stop: int

    def run(self) -> Result:
        """Read the fields section by section, and write all."""
        array = open_array(SECTION.at(self.run_url), mode="r")
        sections = []
        for z in range(self.start, self.stop):
            field = torch.from_numpy(np.asarray(array[z], dtype=np.float32))
            with torch.inference_mode():
                sections.append(section_export(field, self.target))
        self.target.write(sections, start=self.start)
        size = self.target.section_bytes * len(sections)
        return Result(bytes_read=size, bytes_written=size)

    def footprint(self) -> Footprint:
        """Read the fields of the sections; write the same sections."""
        box = Box((self.start, 0, 0), (self.stop, *self.target.shape[1:]))
        return Footprint(reads=(Region("source", box),), writes=(Region(NAME, box),))


def section_export(field: Tensor, target: FieldTarget) -> SectionExport:
    """Return the exported fields of a section.

    Args:
        field: `(2, y, x)` pull field of `fields/section`, mip-0 px; NaN is unknown.
        target: form of the export.
    """
    grid = Grid.of_section(target.shape[1:], spacing=target.spacing)
    to_aligned, residual = None, _UNKNOWN
    if target.INVERTS:
        inverse_grid = Grid.of_section(target.shape[1:], spacing=target.inverse_spacing)
        nodes = inverse_grid.positions().double()
        whole, whole_grid = extrapolated(field, grid=grid)
        inverse = (preimages(whole, grid=whole_grid, targets=nodes) - nodes).float()
        residual = _inverse_residual(whole, grid=whole_grid, inverse=inverse, inverse_grid=inverse_grid)
        to_aligned = _directed(inverse, grid=inverse_grid)
    return SectionExport(
        to_source=_directed(field, grid=grid),
        to_aligned=to_aligned,
        affine=field_affine(field, grid=grid),
        residual=residual,
    )


def _directed(field: Tensor, *, grid: Grid) -> DirectedField:
    known = torch.isfinite(field).all(dim=0)
    return DirectedField(
        values=extrapolated(filled(field, grid=grid), grid=grid)[0].float().numpy(),
        known=np.pad(known.numpy(), MARGIN, mode="edge"),
    )


def _inverse_residual(field: Tensor, *, grid: Grid, inverse: Tensor, inverse_grid: Grid) -> tuple[float, float, float]:
    """Return the mean, 99th percentile and maximum of the inverse residual, px, in the middle between four nodes.

    Cells with an unknown node do not count.
    """
    corners = torch.stack([inverse[:, i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)])
    if not corners.numel():
        return _UNKNOWN
    middle = corners.mean(dim=0)  # bilinear in the middle
    known = torch.isfinite(middle).all(dim=0)
    if not bool(known.any()):
        return _UNKNOWN
    positions = inverse_grid.positions()
    middles = (positions[:, :-1, :-1] + inverse_grid.spacing / 2 + middle)[:, known]
    left = middle[:, known] + sample_known(field, grid=grid, positions=middles)
    lengths = torch.linalg.vector_norm(left, dim=0).numpy()
    lengths = lengths[np.isfinite(lengths)]
    if not len(lengths):
        return _UNKNOWN
    return float(lengths.mean(dtype=np.float64)), float(np.percentile(lengths, 99)), float(lengths.max())


def export_field_tasks(run: str, target: FieldTarget, *, digest: Callable[[range], str]) -> Iterator[Task]:
    """Yield the tasks of all sections; they are independent.

    Args:
        run: URL of the run.
        target: form to write.
        digest: returns the digest of everything that determines some sections.
    """
    return (
        ExportFieldsTask(
            key=f"{NAME}/{box_name((sections.start, 0, 0))}",
            output=target.url,
            digest=digest(sections),
            pixels=len(sections) * target.shape[1] * target.shape[2],
            run_url=run,
            target=target,
            start=sections.start,
            stop=sections.stop,
        )
        for sections in target.task_sections
    )


def estimate_field_export(target: FieldTarget) -> Estimate:
    """Return the cost. A task inverts one field after the other, and holds all of its sections until it writes them."""
    z, y, x = target.shape
    size = target.section_bytes
    return Estimate(
        tasks=len(target.task_sections),
        pixels=z * y * x,
        bytes_read=z * size // 2,
        bytes_written=z * size,
        files=4 * len(target.task_sections),
        memory=TASK_OVERHEAD_BYTES + size * (3 * target.depth + _COPIES),
    )
