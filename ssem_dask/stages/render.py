"""Stage render: warp every section once by `fields/section`, shard by shard."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Kind, sample_known
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Estimate, Job
from ssem_dask.stages.sections import open_source, read_at
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import AnyArray

NAME = "render"
_NODE_MARGIN = 1
"""Nodes beyond a box that bilinear interpolation of the field needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask(Task):
    """Render one shard of the aligned volume."""

    job: Job
    box: Box


def prepare(job: Job) -> None:
    """Create the aligned volume with all its levels."""
    info = VolumeInfo(
        shape=job.shape,
        dtype=job.info.dtype,
        pixel_size=job.info.pixel_size,
        section_thickness=job.info.section_thickness,
    )
    create_volume(job.url("aligned"), info=info, chunk=job.render.chunk, shard=job.render.shard, mips=job.mips)


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """All shards; they are independent."""
    yield (
        RenderTask(
            key=f"{NAME}/z{box.start[0]:06d}-y{box.start[1]:07d}-x{box.start[2]:07d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=box.size,
            job=job,
            box=box,
        )
        for box in chunk_boxes(job.shape, chunk=job.render.shard)
    )


def run(task: Task) -> Result:
    """Read the field over the shard and the source pixels that it points to; write the warped pixels."""
    assert isinstance(task, RenderTask)
    job, box = task.job, task.box
    source = open_source(job)
    aligned = Volume.open(job.url("aligned"))
    pixels = np.zeros(box.shape, dtype=job.info.dtype)
    known = False
    with torch.inference_mode():
        for i, z in enumerate(box.sections):
            image, mask = warped_section(
                source,
                field=section_field(job.url("fields", "section"), z=z, box=box, spacing=job.spacing),
                z=z,
                box=box,
                kind=job.render.interpolation,
            )
            pixels[i] = to_dtype(image, job.info.dtype)
            known = known or bool(mask.any())
    aligned.write(box, pixels)
    return Result(
        outcome=Outcome.OK if known else Outcome.NO_TISSUE,
        bytes_read=pixels.nbytes,
        bytes_written=pixels.nbytes,
    )


def estimate(job: Job) -> Estimate:
    """Each task reads about the pixels of its shard once, and writes them."""
    size = job.info.dtype.itemsize
    z, y, x = (min(s, n) for s, n in zip(job.render.shard, job.shape, strict=True))
    tasks = 1
    for n, s in zip(job.shape, job.render.shard, strict=True):
        tasks *= ceil_div(n, s)
    volume = job.shape[0] * job.shape[1] * job.shape[2] * size
    return Estimate(
        tasks=tasks,
        pixels=job.size,
        bytes_read=volume,
        bytes_written=volume,
        files=tasks,
        memory=z * y * x * size * 2 + y * x * 4 * 12,
    )


def section_field(url: str, *, z: int, box: Box, spacing: int) -> Tensor:
    """Displacements `(2, y, x)` of section z at the mip-0 pixels of `box`, bilinear between the nodes.

    Positions are counted from the box's corner; the field is read only where the box needs it.
    """
    array = open_array(url, mode="r")
    low = [max(0, start // spacing - _NODE_MARGIN) for start in box.start_yx]
    high = [ceil_div(stop, spacing) + _NODE_MARGIN for stop in box.stop[1:]]
    nodes = torch.from_numpy(np.ascontiguousarray(array[z, :, low[0] : high[0], low[1] : high[1]]))
    grid = Grid((nodes.shape[1], nodes.shape[2]), spacing, (float(low[0] * spacing), float(low[1] * spacing)))
    pixels = Grid.of_box(box)
    return sample_known(
        nodes, grid=grid.relative_to(pixels.origin), positions=pixels.relative_to(pixels.origin).positions()
    )


def warped_section(source: Volume, *, field: Tensor, z: int, box: Box, kind: Kind) -> tuple[Tensor, Tensor]:
    """The pixels `(y, x)` of a box of one section, warped, and the mask of what is known."""
    pixels = Grid.of_box(box)
    back = IDENTITY.copy()
    back[:, 2] = pixels.origin
    positions = pixels.relative_to(pixels.origin).positions() + field
    return read_at(source, z=z, mip=0, positions=positions, affine=back, kind=kind)


def to_dtype(image: Tensor, dtype: np.dtype[Any]) -> AnyArray:
    """Round to the nearest value that an integer dtype can hold."""
    limits = np.iinfo(dtype)
    rounded = image.numpy().round().clip(limits.min, limits.max)
    return rounded.astype(dtype)
