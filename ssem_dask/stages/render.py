"""Stage render: warp every section once by `fields/section`, shard by shard.

The same tasks warp the run's own source and, for `ssem-dask warp`, any other volume that lies in its frame; ids of a
segmentation are never mixed, neither here nor in the pyramid.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.device import CPU, compute_device
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Kind, sample_known, sample_lattice
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import Places, Reach, read_at
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Outcome, Result, Task, box_key
from ssem_dask.types import AnyArray

NAME = "render"
_NODE_MARGIN = 1
"""Nodes beyond a box that bilinear interpolation of the field needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warping:
    """What is warped, by which fields, into which volume."""

    source: str
    """URL of the volume that is warped."""
    info: VolumeInfo
    """Of the source, and of the target as well."""
    fields: str
    """URL of `fields/section`."""
    spacing: int
    """mip-0 px between the fields' nodes."""
    target: str
    """URL of the volume that is written."""
    mips: int
    """Levels of the target."""
    config: RenderStageConfig
    labels: bool = False
    """The values are ids: taken from the nearest pixel, and in the pyramid from the most frequent one."""

    def create(self) -> None:
        """Create the target with all its levels; does nothing where it exists."""
        create_volume(self.target, info=self.info, chunk=self.config.chunk, shard=self.config.shard, mips=self.mips)

    def open_source(self) -> Volume:
        """Open the volume that is warped."""
        return Volume.open(self.source, like=self.info)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask(Task):
    """Render one shard of the target."""

    warping: Warping
    box: Box


def own_warping(job: Job) -> Warping:
    """The run's source, warped to its aligned volume."""
    return Warping(
        source=job.source,
        info=job.info,
        fields=job.url("fields", "section"),
        spacing=job.spacing,
        target=job.url("aligned"),
        mips=job.mips,
        config=job.render,
    )


def prepare(job: Job) -> None:
    """Create the aligned volume with all its levels."""
    own_warping(job).create()


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """All shards; they are independent."""
    yield render_tasks(own_warping(job), output=job.output, digest=job.digests[NAME])


def render_tasks(warping: Warping, *, output: str, digest: str) -> Iterator[Task]:
    """One task a shard of the target."""
    return (
        RenderTask(
            key=box_key(NAME, box.start),
            output=output,
            digest=digest,
            pixels=box.size,
            warping=warping,
            box=box,
        )
        for box in chunk_boxes(warping.info.shape, chunk=warping.config.shard)
    )


def run(task: Task) -> Result:
    """Read the field over the shard and the source pixels that it points to; write the warped pixels."""
    assert isinstance(task, RenderTask)
    warping, box = task.warping, task.box
    source = warping.open_source()
    target = Volume.open(warping.target)
    pixels = np.zeros(box.shape, dtype=warping.info.dtype)
    known, device = False, CPU if warping.labels else compute_device()
    with torch.inference_mode():
        if warping.labels:
            for i, z in enumerate(box.sections):
                (nodes,) = read_nodes(warping.fields, sections=range(z, z + 1), box=box, spacing=warping.spacing)
                pixels[i] = warped_labels(source, field=nodes.on_pixels(box), z=z, box=box)
                known = known or bool(pixels[i].any())
        else:
            fields = read_nodes(warping.fields, sections=box.sections, box=box, spacing=warping.spacing)
            warped = warped_sections(
                source, fields=fields, sections=box.sections, box=box, kind=warping.config.interpolation, device=device
            )
            for i, (image, mask) in enumerate(warped):
                pixels[i] = to_dtype(image, warping.info.dtype)
                known = known or bool(mask.any())
    target.write(box, pixels)
    return Result(
        outcome=Outcome.OK if known else Outcome.NO_TISSUE,
        bytes_read=pixels.nbytes,
        bytes_written=pixels.nbytes,
    )


def footprint(task: Task) -> Footprint:
    """A shard reads the field's nodes over it, and source pixels of its sections wherever the field points."""
    assert isinstance(task, RenderTask)
    warping, box = task.warping, task.box
    z, y, x = warping.info.shape
    margin = (_NODE_MARGIN + 1) * warping.spacing
    nodes = box.grown(before=(0, margin, margin), after=(0, margin, margin)).clipped((z, y, x))
    source = Box((box.start[0], 0, 0), (box.stop[0], y, x))
    return Footprint(
        reads=(Region("source", source), Region("fields/section", nodes)),
        writes=(Region(level_name(0), box),),
    )


def level_name(mip: int) -> str:
    """Path of a level of the aligned volume inside a run."""
    return f"aligned/{mip}"


def estimate(job: Job) -> Estimate:
    """As `estimate_rendering`."""
    return estimate_rendering(own_warping(job))


def estimate_rendering(warping: Warping) -> Estimate:
    """Each task reads about the pixels of its shard once, and writes them."""
    size, shape = warping.info.dtype.itemsize, warping.info.shape
    z, y, x = (min(s, n) for s, n in zip(warping.config.shard, shape, strict=True))
    tasks = 1
    for n, s in zip(shape, warping.config.shard, strict=True):
        tasks *= ceil_div(n, s)
    pixels = shape[0] * shape[1] * shape[2]
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=pixels * size,
        bytes_written=pixels * size,
        files=tasks,
        # The source's pixels as read and in float, and the shard; of a section a few arrays: pixels, places, masks.
        memory=TASK_OVERHEAD + y * x * (z * (size * 2 + 6) + 4 * 7),
        gpu_memory=y * x * (z * 16 + 60),
    )


@dataclass(frozen=True, slots=True)
class Nodes:
    """The part of a section's field that a box needs."""

    values: Tensor
    """Displacements `(2, y, x)`, mip-0 px; NaN is unknown."""
    grid: Grid

    def on_pixels(self, box: Box) -> Tensor:
        """`(2, y, x)` at the mip-0 pixels of the box, bilinear between the nodes."""
        pixels = Grid.of_box(box)
        return sample_known(
            self.values,
            grid=self.grid.relative_to(pixels.origin),
            positions=pixels.relative_to(pixels.origin).positions(),
        )

    def reach(self, box: Box) -> Reach | None:
        """Between which source positions the pixels of the box are found; None: nowhere."""
        known = self.values[:, torch.isfinite(self.values).all(dim=0)]
        if not known.shape[1]:
            return None
        # A bilinear value lies between those of the nodes.
        low, high = known.amin(dim=1).tolist(), known.amax(dim=1).tolist()
        start, stop = box.start_yx, box.stop[1:]
        return [n + least for n, least in zip(start, low, strict=True)], [
            n + most for n, most in zip(stop, high, strict=True)
        ]


def read_nodes(url: str, *, sections: range, box: Box, spacing: int) -> list[Nodes]:
    """The fields of some sections over a box (mip 0; its z is not used), read at once."""
    array = open_array(url, mode="r")
    low = [max(0, start // spacing - _NODE_MARGIN) for start in box.start_yx]
    high = [ceil_div(stop, spacing) + _NODE_MARGIN for stop in box.stop[1:]]
    values = np.asarray(array[sections.start : sections.stop, :, low[0] : high[0], low[1] : high[1]])
    origin = float(low[0] * spacing), float(low[1] * spacing)
    grid = Grid((values.shape[2], values.shape[3]), spacing, origin)
    return [Nodes(torch.from_numpy(np.ascontiguousarray(field)), grid) for field in values]


def warped_sections(
    source: Volume, *, fields: Sequence[Nodes], sections: range, box: Box, kind: Kind, device: torch.device = CPU
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pixels `(y, x)` of a box of some sections, warped, and the masks of what is known.

    Args:
        source: what is warped.
        fields: of the sections.
        sections: z of each.
        box: where, in the aligned volume at mip 0; its z is not used.
        kind: interpolation of the pixels.
        device: where they are sampled.
    """
    pixels = Grid.of_box(box)
    back = IDENTITY.copy()
    back[:, 2] = pixels.origin
    here = pixels.relative_to(pixels.origin).positions(device)

    def places(nodes: Nodes) -> Places:
        values = nodes.values.to(device)
        grid = nodes.grid.relative_to(pixels.origin)
        if not bool(torch.isfinite(values).all()):
            return lambda rows: here[:, rows] + sample_known(values, grid=grid, positions=here[:, rows])
        y, x = here[0, :, 0], here[1, 0]
        return lambda rows: sample_lattice(values, grid=grid, rows=y[rows], columns=x).add_(here[:, rows])

    yield from read_at(
        source,
        sections=sections,
        mip=0,
        positions=map(places, fields),
        shape=pixels.shape,
        affine=back,
        reaches=[nodes.reach(box) for nodes in fields],
        kind=kind,
        device=device,
    )


def warped_labels(source: Volume, *, field: Tensor, z: int, box: Box) -> AnyArray:
    """The ids `(y, x)` of a box of one section, each from the source pixel that it points into (C3); 0 where unknown.

    Ids never pass through floating point, which would change those above 2**24.
    """
    grid = Grid.of_box(box)
    ids = np.zeros(box.shape_yx, dtype=source.info.dtype)
    y, x = (grid.relative_to(grid.origin).positions() + field).double().numpy()
    known = np.isfinite(y) & np.isfinite(x)
    rows = np.floor(np.where(known, y, -1.0)).astype(np.int64) + box.start[1]
    columns = np.floor(np.where(known, x, -1.0)).astype(np.int64) + box.start[2]
    height, width = source.info.shape[1:]
    known &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if not known.any():
        return ids
    rows, columns = rows[known], columns[known]
    low, high = (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)
    part = Box((z, int(low[0]), int(low[1])), (z + 1, int(high[0]), int(high[1])))
    ids[known] = source.read(part)[0][rows - low[0], columns - low[1]]
    return ids


def to_dtype(image: Tensor, dtype: np.dtype[Any]) -> AnyArray:
    """Round to the nearest value that an integer dtype can hold."""
    limits = np.iinfo(dtype)
    rounded = image.round().clamp(limits.min, limits.max)
    if dtype == np.uint8:
        return rounded.to(torch.uint8).cpu().numpy()  # converted before it is moved
    return rounded.cpu().numpy().astype(dtype)
