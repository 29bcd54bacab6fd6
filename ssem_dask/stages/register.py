"""Stage register: pair fields from overlapping windows of neighbour sections.

A task reads a window (core and halo, in z and in y, x) of coarse-aligned sections, registers it, and writes the pair
fields and confidences of its core: exactly one shard of each array.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.grid import Grid, node_count
from ssem_dask.geometry.windows import Window, tile_windows
from ssem_dask.registration.damage import TEAR, TISSUE
from ssem_dask.registration.register import register_window
from ssem_dask.stages.calibrate import calibrated
from ssem_dask.stages.job import Estimate, Job, RegisterStageConfig
from ssem_dask.stages.mask import read_codes
from ssem_dask.stages.sections import open_source, read_aligned
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import FieldInfo, create_field, open_coarse
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import Float64Array, ShapeZYX

NAME = "register"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTask(Task):
    """Register one window."""

    job: Job
    window: Window


def prepare(job: Job) -> None:
    """Create `fields/pairs` (k, z, 2, y, x) and `fields/confidence` (k, z, y, x); one window is one shard."""
    info = FieldInfo(spacing=job.spacing, shape_mip0=job.shape)
    k = job.register.neighbours
    z, y, x = window_core(job.register, job.shape)
    nodes = node_count(y, spacing=job.spacing), node_count(x, spacing=job.spacing)
    create_field(
        job.url("fields", "pairs"),
        info=info,
        leading=(k,),
        components=True,
        chunks=(1, 1, 2, *nodes),
        shards=(k, z, 2, *nodes),
    )
    create_field(
        job.url("fields", "confidence"),
        info=info,
        leading=(k,),
        components=False,
        chunks=(1, 1, *nodes),
        shards=(k, z, *nodes),
    )


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """All windows; they are independent."""
    yield (
        RegisterTask(
            key=f"{NAME}/z{window.core.start[0]:06d}-y{window.core.start[1]:07d}-x{window.core.start[2]:07d}",
            output=job.output,
            digest=job.digests[NAME],
            pixels=window.core.size,
            job=job,
            window=window,
        )
        for window in windows(job)
    )


def run(task: Task) -> Result:
    """Read the window's sections, register them, write the core's pair fields."""
    assert isinstance(task, RegisterTask)
    job, window = task.job, task.window
    mip = job.register.mip
    assert mip is not None
    volume = open_source(job)
    coarse = np.asarray(
        open_coarse(job.url("fields", "coarse"))[window.read.sections.start : window.read.sections.stop]
    )
    box = window.read.at_mip(mip)
    sections = [
        read_aligned(volume, z=z, box=box, affine=affine)
        for z, affine in zip(window.read.sections, coarse, strict=True)
    ]
    images = torch.stack([image for image, _ in sections])
    valid = torch.stack([mask for _, mask in sections])
    codes = _codes(job, window, coarse)
    valid &= codes == TISSUE
    read = images.numel() * 4**mip * job.info.dtype.itemsize
    core = range(window.core.start[0] - window.read.start[0], window.core.stop[0] - window.read.start[0])
    if not valid.any():
        return Result(outcome=Outcome.NO_TISSUE, message="The window is empty in every section.", bytes_read=read)
    grid = Grid.of_box(box)
    pairs = register_window(
        images,
        valid=valid,
        grid=grid.relative_to(grid.origin),
        nodes=_core_nodes(window, job.spacing).relative_to(grid.origin),
        core=core,
        neighbours=job.register.neighbours,
        config=calibrated(job),
        device=torch.device("cpu"),
        tears=codes == TEAR,
    )
    z, y, x = window.core.slices
    rows = slice(y.start // job.spacing, y.start // job.spacing + pairs.fields.shape[-2])
    columns = slice(x.start // job.spacing, x.start // job.spacing + pairs.fields.shape[-1])
    open_array(job.url("fields", "pairs"), mode="r+")[:, z, :, rows, columns] = pairs.fields.numpy()
    open_array(job.url("fields", "confidence"), mode="r+")[:, z, rows, columns] = pairs.confidence.numpy()
    known = float(torch.isfinite(pairs.fields[0]).float().mean())
    return Result(
        outcome=Outcome.OK if known > 0 or window.core.stop[0] == 1 else Outcome.LOW_QUALITY,
        message="" if known > 0 else "No node of the window could be registered.",
        bytes_read=read,
        bytes_written=pairs.fields.nbytes + pairs.confidence.nbytes,
    )


def estimate(job: Job) -> Estimate:
    """Each task reads its window with halo and writes one shard of pairs and one of confidence."""
    count, read, largest = 0, 0, 0
    for window in windows(job):
        count += 1
        read += window.read.size
        largest = max(largest, window.read.size)
    mip = job.register.mip or 0
    nodes = node_count(job.shape[1], spacing=job.spacing) * node_count(job.shape[2], spacing=job.spacing)
    itemsize = job.info.dtype.itemsize
    return Estimate(
        tasks=count,
        pixels=job.size,
        bytes_read=read * itemsize,
        bytes_written=nodes * job.shape[0] * job.register.neighbours * 3 * 4,
        files=2 * count,
        # Images and masks of the window, and for one section the network's activations and their gradients.
        memory=largest // 4**mip * 5 + largest // job.register.sections // 4**mip * 4 * 120 + largest * itemsize,
    )


def windows(job: Job) -> Iterator[Window]:
    """The windows of a run."""
    core = window_core(job.register, job.shape)
    halo = job.register.halo
    assert halo is not None
    return tile_windows(
        job.shape, core=core, halo_before=(job.register.neighbours, halo, halo), halo_after=(0, halo, halo)
    )


def window_core(config: RegisterStageConfig, shape: ShapeZYX) -> ShapeZYX:
    """Extent (z, y, x) of a window's core, mip-0 px: no larger than the volume, in whole nodes."""
    window, spacing = config.window, config.spacing
    assert window is not None
    assert spacing is not None
    y, x = (min(window, node_count(n, spacing=spacing) * spacing) for n in shape[1:])
    return min(config.sections, shape[0]), y, x


def _codes(job: Job, window: Window, coarse: Float64Array) -> Tensor:
    """The masks (z, y, x) of the window's sections, coarse-aligned as their images are."""
    mip = job.register.mip
    assert mip is not None
    box = window.read.at_mip(mip)
    if not job.mask.active:
        return torch.full(box.shape, TISSUE, dtype=torch.uint8)
    assert job.mask.mip is not None
    masks = open_array(job.url("masks", "damage"), mode="r")
    return torch.stack(
        [
            read_codes(masks, z=z, mip=job.mask.mip, box=box, affine=affine)
            for z, affine in zip(window.read.sections, coarse, strict=True)
        ]
    )


def _core_nodes(window: Window, spacing: int) -> Grid:
    y, x = window.core.shape_yx
    return Grid(
        (node_count(y, spacing=spacing), node_count(x, spacing=spacing)),
        spacing,
        (float(window.core.start[1]), float(window.core.start[2])),
    )
