"""Stage render: warp every section once by `fields/section`, shard by shard.

The same code warps the run's own source and, for `ssem-dask warp`, any other volume in its frame. Ids of a segmentation
are never mixed, neither here nor in the pyramid.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.diagnosis.tied_sections import placed_sections
from ssem_dask.errors import ConfigError
from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.device import CPU, compute_device
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample_known, sample_lattice
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes, chunk_count, chunk_spans
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.pair_support import support_tasks
from ssem_dask.stages.run_arrays import ALIGNED, SECTION, SUPPORT, SUPPORT_SECTIONS, aligned_level
from ssem_dask.stages.source_sections import Places, Reach, Sampling, sample_sections
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage
from ssem_dask.storage.arrays import is_node, open_array
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Outcome, Result, Task, box_name
from ssem_dask.types import AnyArray, ConfigBase

NEAREST_REACH = 8
"""Sections up to which the nearest one that has a place is shown instead of one that has none."""
_NODE_MARGIN = 1
"""Nodes beyond a box that bilinear interpolation of the field needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warping:
    """A volume, the fields that warp it, and the volume that is written."""

    source: str
    """URL of the volume that is warped."""
    info: VolumeInfo
    """Shape, dtype and pixel size of source and target."""
    fields: str
    """URL of `fields/section`."""
    spacing: int
    """mip-0 px between the fields' nodes."""
    target: str
    """URL of the volume that is written."""
    mips: int
    """Levels of the target."""
    config: RenderStageConfig
    support: str = ""
    """URL of `fields/pair_support`, which shows the sections that have no place; empty: all are warped."""
    labels: bool = False
    """Whether the values are ids: taken from the nearest pixel, and in the pyramid the most frequent one."""

    @classmethod
    def of_run(cls, job: Job) -> "Warping":
        """Return the warp of the run's source to its aligned volume."""
        return cls(
            source=job.source,
            info=job.info,
            fields=SECTION.url(job),
            spacing=job.spacing,
            target=job.url(ALIGNED),
            mips=job.mips,
            config=job.render,
            support=SUPPORT.url(job),
        )

    def create(self) -> None:
        """Create the target with all its levels; does nothing where it exists."""
        create_volume(self.target, info=self.info, chunk=self.config.chunk, shard=self.config.shard, mips=self.mips)

    def open_source(self) -> Volume:
        """Open the volume that is warped."""
        return Volume.open(self.source, like=self.info)


def warp_shard(warping: Warping, box: Box) -> Result:
    """Read the field over a shard and the source pixels that it points to; write the warped pixels."""
    source = warping.open_source()
    target = Volume.open(warping.target)
    pixels = np.zeros(box.shape, dtype=warping.info.dtype)
    known, device = False, CPU if warping.labels else compute_device()
    with torch.inference_mode():
        for sections, shown in shown_sections(warping, box.sections):
            if shown is None:
                continue
            rows = slice(sections.start - box.start[0], sections.stop - box.start[0])
            if warping.labels:
                for row, z in zip(range(rows.start, rows.stop), shown, strict=True):
                    (nodes,) = read_nodes(warping.fields, sections=range(z, z + 1), box=box, spacing=warping.spacing)
                    pixels[row] = warped_labels(source, field=nodes.on_pixels(box), z=z, box=box)
                known = known or bool(pixels[rows].any())
                continue
            fields = read_nodes(warping.fields, sections=shown, box=box, spacing=warping.spacing)
            warped = warped_sections(
                source, fields=fields, sections=shown, box=box, kind=warping.config.interpolation, device=device
            )
            for row, (image, mask) in zip(range(rows.start, rows.stop), warped, strict=True):
                pixels[row] = to_dtype(image, warping.info.dtype)
                known = known or bool(mask.any())
    target.write(box, pixels)
    return Result(
        outcome=Outcome.OK if known else Outcome.NO_TISSUE,
        bytes_read=pixels.nbytes,
        bytes_written=pixels.nbytes,
    )


def shown_sections(warping: Warping, sections: range) -> Iterator[tuple[range, range | None]]:
    """Yield runs of sections with the sections that are shown in their place; None: nothing is shown.

    Only sections without a place are replaced, if the configuration says so.
    """
    config = warping.config.unplaced
    if config == "as_is" or not warping.support or not is_node(warping.support):
        yield sections, sections
        return
    support = np.nan_to_num(np.asarray(open_array(warping.support, mode="r")[:])).astype(np.float64)
    placed = placed_sections(support)
    start = sections.start
    for z in sections:
        if placed[z]:
            continue
        if start < z:
            yield range(start, z), range(start, z)
        near = [n for n in range(max(0, z - NEAREST_REACH), min(len(placed), z + NEAREST_REACH + 1)) if placed[n]]
        shown = min(near, key=lambda n: abs(n - z)) if near and config == "nearest" else None
        yield range(z, z + 1), None if shown is None else range(shown, shown + 1)
        start = z + 1
    if start < sections.stop:
        yield range(start, sections.stop), range(start, sections.stop)


def shard_boxes(warping: Warping) -> Iterator[tuple[str, Box]]:
    """Yield the shards of a warped volume, each with the name of its task."""
    for box in chunk_boxes(warping.info.shape, chunk=warping.config.shard):
        yield box_name(box.start), box


def warp_sections(warping: Warping) -> Iterator[range]:
    """Yield the sections of each row of shards."""
    for start, stop in chunk_spans(warping.info.shape[0], chunk=warping.config.shard[0]):
        yield range(start, stop)


def nearest_reach(config: RenderStageConfig) -> int:
    """Return how far a section may be that is shown instead of another one."""
    return NEAREST_REACH if config.unplaced == "nearest" else 0


def warp_regions(warping: Warping, box: Box) -> tuple[Region, Region]:
    """Return the regions of source and field that a shard reads.

    The source is read wherever the field points, so in y and x whole.
    """
    z, y, x = warping.info.shape
    margin = (_NODE_MARGIN + 1) * warping.spacing
    reach = nearest_reach(warping.config)
    nodes = box.grown(before=(reach, margin, margin), after=(reach, margin, margin)).clipped((z, y, x))
    return Region("source", Box((nodes.start[0], 0, 0), (nodes.stop[0], y, x))), Region(SECTION.path, nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask(JobTask):
    """One shard of the aligned volume."""

    box: Box

    def run(self) -> Result:
        """Warp the shard."""
        return warp_shard(Warping.of_run(self.job), self.box)

    def footprint(self) -> Footprint:
        """Read the field's nodes over the shard, and its sections of the source; write the shard."""
        reads = warp_regions(Warping.of_run(self.job), self.box)
        # The pixels of a section depend on whether it has a place, which depends on all sections.
        support = () if self.job.render.unplaced == "as_is" else (SUPPORT.region(self.job),)
        return Footprint(reads=(*reads, *support), writes=(aligned_level(0).region_of(self.box),))


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpTask(Task):
    """One shard of another volume that is warped by a run's fields."""

    warping: Warping
    box: Box

    def run(self) -> Result:
        """Warp the shard."""
        return warp_shard(self.warping, self.box)

    def footprint(self) -> Footprint:
        """Read as a rendered shard does; write the shard of the volume's own level 0."""
        return Footprint(reads=warp_regions(self.warping, self.box), writes=(Region("0", self.box),))


class RenderStage(Stage):
    """Warping every section once by `fields/section`, shard by shard."""

    name = "render"
    upstream = ("compose",)
    config_type = RenderStageConfig
    layout_keys = ("chunk", "shard")
    uses_gpu = True

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Check chunk and shard; raise ConfigError if they do not fit each other or a task's memory."""
        del info
        assert isinstance(config, RenderStageConfig)
        if any(c < 1 or s % c for c, s in zip(config.chunk, config.shard, strict=True)):
            raise ConfigError(
                f"[render] shard = {list(config.shard)}: must be a multiple of chunk = {list(config.chunk)} on "
                "every axis."
            )
        if math.prod(config.shard) > 1 << 30:
            raise ConfigError(
                f"[render] shard = {list(config.shard)}: {math.prod(config.shard) / 2**30:.1f} Gpx in one file, but a "
                "task holds a whole shard in memory; use at most 1 Gpx, for example [8, 2048, 2048]."
            )
        return config, []

    def prepare(self, job: Job) -> None:
        """Create the aligned volume with all its levels, and the support of pairs."""
        SUPPORT.create(job)
        Warping.of_run(job).create()

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the support of pairs, which shows which sections have a place; then all shards."""
        yield support_tasks(self, job)
        yield (
            RenderTask(**self.task_fields(job, name, pixels=box.size), box=box)
            for name, box in shard_boxes(Warping.of_run(job))
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost, see `estimate_rendering`; averaging confidences takes little beside it."""
        rendering = estimate_rendering(Warping.of_run(job))
        tasks = ceil_div(job.shape[0], SUPPORT_SECTIONS)
        return replace(rendering, tasks=rendering.tasks + tasks, files=rendering.files + tasks)


def warp_tasks(warping: Warping, *, digest: Callable[[range], str]) -> Iterator[Task]:
    """Yield one task per shard of a warped volume that is no run's; `digest` returns that of a task by its sections."""
    return (
        WarpTask(
            key=f"{RenderStage.name}/{name}",
            output=warping.target,
            digest=digest(box.sections),
            pixels=box.size,
            uses_gpu=RenderStage.uses_gpu,
            warping=warping,
            box=box,
        )
        for name, box in shard_boxes(warping)
    )


def estimate_rendering(warping: Warping) -> Estimate:
    """Return the cost. Each task reads about the pixels of its shard once, and writes them."""
    size, shape = warping.info.dtype.itemsize, warping.info.shape
    z, y, x = (min(s, n) for s, n in zip(warping.config.shard, shape, strict=True))
    tasks = chunk_count(shape, chunk=warping.config.shard)
    pixels = math.prod(shape)
    return Estimate(
        tasks=tasks,
        pixels=pixels,
        bytes_read=pixels * size,
        bytes_written=pixels * size,
        files=tasks,
        # The source's pixels as read and in float, and the shard; per section a few arrays: pixels, positions, masks.
        memory=TASK_OVERHEAD_BYTES + y * x * (z * (size * 2 + 6) + 4 * 7),
        gpu_memory=y * x * (z * 16 + 60),
    )


@dataclass(frozen=True, slots=True)
class Nodes:
    """The part of a section's field that a box needs."""

    values: Tensor
    """Displacements `(2, y, x)`, mip-0 px; NaN is unknown."""
    grid: Grid

    def on_pixels(self, box: Box) -> Tensor:
        """Return the field `(2, y, x)` at the mip-0 pixels of the box, bilinear between the nodes."""
        pixels = Grid.of_box(box)
        return sample_known(
            self.values,
            grid=self.grid.relative_to(pixels.origin),
            positions=pixels.relative_to(pixels.origin).positions(),
        )

    def reach(self, box: Box) -> Reach | None:
        """Return the least and largest source position of the pixels of the box; None if nothing is known."""
        known = self.values[:, torch.isfinite(self.values).all(dim=0)]
        if not known.shape[1]:
            return None
        # A bilinear value is between those of the nodes.
        low, high = known.amin(dim=1).tolist(), known.amax(dim=1).tolist()
        start, stop = box.start_yx, box.stop[1:]
        return [n + least for n, least in zip(start, low, strict=True)], [
            n + most for n, most in zip(stop, high, strict=True)
        ]


def read_nodes(url: str, *, sections: range, box: Box, spacing: int) -> list[Nodes]:
    """Read the fields of some sections over a box (mip 0; its z is not used) at once."""
    array = open_array(url, mode="r")
    low = [max(0, start // spacing - _NODE_MARGIN) for start in box.start_yx]
    high = [ceil_div(stop, spacing) + _NODE_MARGIN for stop in box.stop[1:]]
    values = np.asarray(array[sections.start : sections.stop, :, low[0] : high[0], low[1] : high[1]])
    origin = float(low[0] * spacing), float(low[1] * spacing)
    grid = Grid((values.shape[2], values.shape[3]), spacing, origin)
    return [Nodes(torch.from_numpy(np.ascontiguousarray(field)), grid) for field in values]


def warped_sections(
    source: Volume,
    *,
    fields: Sequence[Nodes],
    sections: range,
    box: Box,
    kind: Interpolation,
    device: torch.device = CPU,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the warped pixels `(y, x)` of a box of some sections, and the masks of known pixels.

    Args:
        source: volume that is warped.
        fields: fields of the sections.
        sections: z of each section.
        box: position in the aligned volume at mip 0; its z is not used.
        kind: interpolation of the pixels.
        device: device that samples them.
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

    sampling = Sampling(
        sections=sections,
        mip=0,
        shape=pixels.shape,
        positions=map(places, fields),
        affines=[back] * len(fields),
        reaches=[nodes.reach(box) for nodes in fields],
    )
    yield from sample_sections(source, sampling, kind=kind, device=device)


def warped_labels(source: Volume, *, field: Tensor, z: int, box: Box) -> AnyArray:
    """Return the ids `(y, x)` of a box of one section, each from the source pixel that it points into (C3); 0: unknown.

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
