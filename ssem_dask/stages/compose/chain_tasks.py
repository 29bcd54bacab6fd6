"""Stage compose, method `chain`: from pair fields to one field per section.

Generation 1 aligns blocks of sections on their own, generation 2 finds the field that stitches each block to the one
before, generation 3 hands the stitches on along z and joins the coarse affine, which gives `fields/section`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.chain.chain_alignment import align_block, broadcast, stitch
from ssem_dask.field.affine import apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import TASK_OVERHEAD, Estimate
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.fields import FieldInfo, create_field, open_coarse
from ssem_dask.task import Outcome, Result, Task
from ssem_dask.types import ShapeYX
from ssem_dask.units import plural

NAME = "compose"
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask(Task):
    """Align the sections of one block on their own."""

    job: Job
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StitchTask(Task):
    """Find the field that joins a block to the one before."""

    job: Job
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionsTask(Task):
    """Write the final fields of a block's sections."""

    job: Job
    block: int


def prepare(job: Job) -> None:
    """Create `fields/blocks`, `fields/guessed`, `fields/stitches` and `fields/section`."""
    grid, config = _grid(job), job.compose.chain
    blocks, depth = block_count(job), config.block + config.stitch
    chunk = min(_CHUNK, grid.shape[0]), min(_CHUNK, grid.shape[1])
    shard = round_up(grid.shape[0], multiple=chunk[0]), round_up(grid.shape[1], multiple=chunk[1])
    attributes = {"direction": "pull", "unit": "px@mip0", "spacing": job.spacing, "components": ["y", "x"]}
    create_array(
        job.url("fields", "blocks"),
        shape=(blocks, depth, 2, *grid.shape),
        dtype="float32",
        axes=("block", "z", "c", "y", "x"),
        chunks=(1, 1, 2, *chunk),
        shards=(1, depth, 2, *shard),
        fill_value=np.nan,
        attributes=attributes,
    )
    create_array(
        job.url("fields", "guessed"),
        shape=(blocks, depth, *grid.shape),
        dtype="bool",
        axes=("block", "z", "y", "x"),
        chunks=(1, 1, *chunk),
        shards=(1, depth, *shard),
        fill_value=False,
        attributes={"meaning": "where fields/blocks rests on a guess, since no pair field was known"},
    )
    create_array(
        job.url("fields", "stitches"),
        shape=(blocks, 2, *grid.shape),
        dtype="float32",
        axes=("block", "c", "y", "x"),
        chunks=(1, 2, *chunk),
        shards=(1, 2, *shard),
        fill_value=np.nan,
        attributes=attributes,
    )
    create_field(
        job.url("fields", "section"),
        info=FieldInfo(spacing=job.spacing, shape_mip0=job.shape),
        leading=(),
        components=True,
        chunks=(1, 2, *chunk),
        shards=(min(config.block, job.shape[0]), 2, *shard),
    )


def generations(job: Job) -> Iterator[Iterable[Task]]:
    """Blocks, stitches, sections."""
    section, depth = job.shape[1] * job.shape[2], job.compose.chain.block
    output, digest, blocks = job.output, job.digests[NAME], range(block_count(job))
    yield (
        BlockTask(key=f"{NAME}/block-{b:05d}", output=output, digest=digest, pixels=0, job=job, block=b) for b in blocks
    )
    yield (
        StitchTask(key=f"{NAME}/stitch-{b:05d}", output=output, digest=digest, pixels=0, job=job, block=b)
        for b in blocks[1:]
    )
    yield (
        SectionsTask(
            key=f"{NAME}/sections-{b:05d}",
            output=output,
            digest=digest,
            pixels=section * min(depth, job.shape[0] - b * depth),
            job=job,
            block=b,
        )
        for b in blocks
    )


def run(task: Task) -> Result:
    """Do one task of any generation."""
    with torch.inference_mode():
        if isinstance(task, BlockTask):
            return _run_block(task)
        if isinstance(task, StitchTask):
            return _run_stitch(task)
        assert isinstance(task, SectionsTask)
        return _run_sections(task)


def estimate(job: Job) -> Estimate:
    """A block task holds the pair fields of its sections; whole planes of nodes."""
    grid, config = _grid(job), job.compose.chain
    plane = grid.shape[0] * grid.shape[1] * 4
    blocks, depth, k = block_count(job), config.block + config.stitch, job.register.neighbours
    hands_on = ceil_div(config.decay, config.block)
    return Estimate(
        tasks=3 * blocks - 1,
        pixels=job.size,
        bytes_read=blocks * plane * (depth * k * 3 + 4 * config.stitch + 2 * config.block + 2 * hands_on),
        bytes_written=plane * 2 * (blocks * depth + blocks + job.shape[0]),
        files=3 * blocks,
        memory=TASK_OVERHEAD + plane * (depth * k * 3 + depth * 2 + 12 * k),
    )


def block_count(job: Job) -> int:
    """Number of blocks along z."""
    return ceil_div(job.shape[0], job.compose.chain.block)


def _grid(job: Job) -> Grid:
    shape: ShapeYX = (job.shape[1], job.shape[2])
    return Grid.of_section(shape, spacing=job.spacing)


def _run_block(task: BlockTask) -> Result:
    job, config = task.job, task.job.compose.chain
    start = task.block * config.block
    stop = min(start + config.block + config.stitch, job.shape[0])
    pairs = _read(job.url("fields", "pairs"), (slice(None), slice(start, stop)))
    confidence = _read(job.url("fields", "confidence"), (slice(None), slice(start, stop)))
    fields, flagged = align_block(pairs, confidence, spacing=float(job.spacing), config=config)
    index = slice(task.block, task.block + 1), slice(0, stop - start)
    open_array(job.url("fields", "blocks"), mode="r+")[index] = fields[None].numpy()
    open_array(job.url("fields", "guessed"), mode="r+")[index] = flagged[None].numpy()
    lost = [start + i for i in range(stop - start) if bool(flagged[i].all())]
    sections = f"{plural(len(lost), 'section')}: {', '.join(map(str, lost))}"
    return Result(
        outcome=Outcome.LOW_QUALITY if lost else Outcome.OK,
        message=f"Bridged: no neighbour could be registered for {sections}" if lost else "",
        bytes_read=pairs.nbytes + confidence.nbytes,
        bytes_written=fields.nbytes,
    )


def _run_stitch(task: StitchTask) -> Result:
    job, config = task.job, task.job.compose.chain
    count = min(config.stitch, job.shape[0] - task.block * config.block)
    url = job.url("fields", "blocks")
    previous = _read(url, (task.block - 1, slice(config.block, config.block + count)))
    own = _read(url, (task.block, slice(0, count)))
    guessed = _read(job.url("fields", "guessed"), (task.block - 1, slice(config.block, config.block + count)))
    previous = torch.where(guessed[:, None], torch.full_like(previous, torch.nan), previous)
    field = stitch(previous, own, spacing=float(job.spacing), config=config)
    open_array(job.url("fields", "stitches"), mode="r+")[task.block : task.block + 1] = field[None].numpy()
    return Result(bytes_read=previous.nbytes + own.nbytes, bytes_written=field.nbytes)


def _run_sections(task: SectionsTask) -> Result:
    job, config = task.job, task.job.compose.chain
    start = task.block * config.block
    stop = min(start + config.block, job.shape[0])
    own = _read(job.url("fields", "blocks"), (task.block, slice(0, stop - start)))
    first = max(1, task.block - ceil_div(config.decay, config.block))
    stitches = [
        (_read(job.url("fields", "stitches"), (b,)), start - b * config.block) for b in range(first, task.block + 1)
    ]
    residual = broadcast(own, stitches=stitches[::-1], spacing=float(job.spacing), config=config)
    coarse = np.asarray(open_coarse(job.url("fields", "coarse"))[start:stop])
    positions = _grid(job).positions().double()
    fields = torch.stack(
        [
            (apply_affine(affine, positions + a.double()) - positions).float()
            for a, affine in zip(residual, coarse, strict=True)
        ]
    )
    open_array(job.url("fields", "section"), mode="r+")[start:stop] = fields.numpy()
    return Result(bytes_read=own.nbytes * 2, bytes_written=fields.nbytes)


def _read(url: str, index: tuple[slice | int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(open_array(url, mode="r")[index]))
