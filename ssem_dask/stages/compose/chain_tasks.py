"""Stage compose, method `chain`: from pair fields to one field per section.

Generation 1 aligns the sections of a block to each other. Generation 2 finds the field that stitches each block to the
one before. Generation 3 propagates the stitches along z and composes with the coarse affines, which gives
`fields/section`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.chain.chain_alignment import align_block, broadcast, stitch
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import BLOCKS, EXTRAPOLATED, SECTION, STITCHES
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, PAIRS
from ssem_dask.stages.coarse_parts import coarse_to_source, part_regions, read_parts
from ssem_dask.stages.compose.layout import block_count, block_depth
from ssem_dask.stages.compose.method import ComposeMethod, compose_fields, named_sections
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask
from ssem_dask.task import Outcome, Result
from ssem_dask.types import AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask(JobTask):
    """Alignment of the sections of one block to each other."""

    block: int

    @torch.inference_mode()
    def run(self) -> Result:
        """Align the block's sections by their pair fields."""
        job, config = self.job, self.job.compose.chain
        start = self.block * config.block
        stop = min(start + config.block + config.stitch, job.shape[0])
        pairs = _tensor(PAIRS.read(job, z=range(start, stop)))
        confidence = _tensor(CONFIDENCE.read(job, z=range(start, stop)))
        fields, flagged = align_block(pairs, confidence, spacing=float(job.spacing), config=config)
        block, sections = slice(self.block, self.block + 1), slice(0, stop - start)
        written = BLOCKS.write(job, fields[None].numpy(), block=block, z=sections)
        EXTRAPOLATED.write(job, flagged[None].numpy(), block=block, z=sections)
        lost = [start + i for i in range(stop - start) if bool(flagged[i].all())]
        return Result(
            outcome=Outcome.LOW_QUALITY if lost else Outcome.OK,
            message=f"Bridged: no neighbour could be registered for {named_sections(self.job, lost)}" if lost else "",
            bytes_read=pairs.nbytes + confidence.nbytes,
            bytes_written=written,
        )

    def footprint(self) -> Footprint:
        """Read the pair fields of the block and of the sections it shares with the next; write the block."""
        config = self.job.compose.chain
        start, stop = self.block * config.block, (self.block + 1) * config.block
        return Footprint(
            reads=tuple(array.region(self.job, start, stop + config.stitch) for array in (PAIRS, CONFIDENCE)),
            writes=tuple(array.region(self.job, start, stop) for array in (BLOCKS, EXTRAPOLATED)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StitchTask(JobTask):
    """The field that joins a block to the block before."""

    block: int

    @torch.inference_mode()
    def run(self) -> Result:
        """Compare the sections that both blocks have aligned."""
        job, config = self.job, self.job.compose.chain
        count = min(config.stitch, job.shape[0] - self.block * config.block)
        shared = slice(config.block, config.block + count)
        previous = _tensor(BLOCKS.read(job, block=self.block - 1, z=shared))
        following = _tensor(BLOCKS.read(job, block=self.block, z=slice(0, count)))
        extrapolated = _tensor(EXTRAPOLATED.read(job, block=self.block - 1, z=shared))
        previous = torch.where(extrapolated[:, None], torch.full_like(previous, torch.nan), previous)
        field = stitch(previous, following, spacing=float(job.spacing), config=config)
        written = STITCHES.write(job, field[None].numpy(), block=slice(self.block, self.block + 1))
        return Result(bytes_read=previous.nbytes + following.nbytes, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the two blocks; write the stitch."""
        depth = self.job.compose.chain.block
        start, stop = self.block * depth, (self.block + 1) * depth
        return Footprint(
            reads=tuple(array.region(self.job, start - depth, stop) for array in (BLOCKS, EXTRAPOLATED)),
            writes=(STITCHES.region(self.job, start, stop),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionsTask(JobTask):
    """The final fields of a block's sections."""

    block: int

    @torch.inference_mode()
    def run(self) -> Result:
        """Propagate the stitches before the block along z and compose with the coarse affines."""
        job, config = self.job, self.job.compose.chain
        start = self.block * config.block
        stop = min(start + config.block, job.shape[0])
        aligned = _tensor(BLOCKS.read(job, block=self.block, z=slice(0, stop - start)))
        stitches = [
            (_tensor(STITCHES.read(job, block=b)), start - b * config.block) for b in _stitched_blocks(job, self.block)
        ]
        residual = broadcast(aligned, stitches=stitches[::-1], spacing=float(job.spacing), config=config)
        coarse, parts = COARSE.read(job, z=range(start, stop)), read_parts(job, range(start, stop))
        positions = job.grid.positions().double()
        fields = torch.stack(
            [
                (coarse_to_source(affine, parts.get(z), positions + a.double()) - positions).float()
                for z, a, affine in zip(range(start, stop), residual, coarse, strict=True)
            ]
        )
        written = SECTION.write(job, fields.numpy(), z=range(start, stop))
        return Result(bytes_read=aligned.nbytes * 2, bytes_written=written)

    def footprint(self) -> Footprint:
        """Read the block, its coarse affines and the stitches that still move it; write its sections' fields."""
        job, depth = self.job, self.job.compose.chain.block
        start, stop = self.block * depth, (self.block + 1) * depth
        first = _stitched_blocks(job, self.block).start * depth
        stitches = (STITCHES.region(job, first, stop),) if first < stop else ()
        return Footprint(
            reads=(
                BLOCKS.region(job, start, stop),
                COARSE.region(job, start, stop),
                *part_regions(job, start, stop),
                *stitches,
            ),
            writes=(SECTION.region(job, start, stop),),
        )


class ChainMethod(ComposeMethod):
    """Composition with vector voting, blocks and decay."""

    def prepare(self, job: Job) -> None:
        """Create blocks, stitches and the result."""
        for array in (BLOCKS, EXTRAPOLATED, STITCHES, SECTION):
            array.create(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield blocks, stitches, sections."""
        depth, blocks = job.compose.chain.block, range(block_count(job))
        yield (BlockTask(**compose_fields(job, f"block-{b:05d}"), block=b) for b in blocks)
        yield (StitchTask(**compose_fields(job, f"stitch-{b:05d}"), block=b) for b in blocks[1:])
        yield (
            SectionsTask(
                **compose_fields(
                    job, f"sections-{b:05d}", pixels=job.section_pixels * min(depth, job.shape[0] - b * depth)
                ),
                block=b,
            )
            for b in blocks
        )

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. A block task holds the pair fields of its sections; whole planes of nodes."""
        config = job.compose.chain
        plane = math.prod(job.grid.shape) * 4
        blocks, depth, k = block_count(job), block_depth(job), job.register.neighbours
        decaying = ceil_div(config.decay, config.block)
        return Estimate(
            tasks=3 * blocks - 1,
            pixels=job.size,
            bytes_read=blocks * plane * (depth * k * 3 + 4 * config.stitch + 2 * config.block + 2 * decaying),
            bytes_written=plane * 2 * (blocks * depth + blocks + job.shape[0]),
            files=3 * blocks,
            memory=TASK_OVERHEAD_BYTES + plane * (depth * k * 3 + depth * 2 + 12 * k),
        )


def _stitched_blocks(job: Job, block: int) -> range:
    """Return the blocks whose stitches still move the sections of `block`: a stitch decays over some sections."""
    config = job.compose.chain
    return range(max(1, block - ceil_div(config.decay, config.block)), block + 1)


def _tensor(values: AnyArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
