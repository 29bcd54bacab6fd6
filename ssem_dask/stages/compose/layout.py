"""Division of the volume for methods `relax` and `chain`: windows and blocks of sections, restricted grids, tiles."""

from dataclasses import dataclass

from ssem_dask.composition.relax import coarsening
from ssem_dask.composition.relax.coarsening import HALO_BLOCKS, Tile
from ssem_dask.composition.separation.slabs import slab_ranges
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.stages.job import Job
from ssem_dask.types import ShapeYX

MAX_CHUNK_NODES = 256
"""Nodes along a side of a chunk of the result."""


@dataclass(frozen=True, slots=True)
class SectionWindow:
    """Consecutive sections that one task solves for: it reads more sections than it writes."""

    index: int
    core: range
    """Sections that the task writes."""
    read: range
    """Core and overlap at either end, clipped to the volume."""

    @property
    def core_in_read(self) -> slice:
        """The core, counted from the first section that is read."""
        return slice(self.core.start - self.read.start, self.core.stop - self.read.start)


def pair_steps(job: Job) -> int:
    """Return how many sections before each section are paired with it in composition."""
    return min(job.compose.relax.neighbours, job.register.neighbours)


def window_depth(job: Job) -> int:
    """Return the number of sections in a window's core."""
    return min(job.compose.relax.window, job.deepest)


def window_count(job: Job) -> int:
    """Return the number of windows along z."""
    return ceil_div(job.shape[0], window_depth(job))


def section_window(job: Job, index: int) -> SectionWindow:
    """Return a window by its number along z."""
    depth, overlap, sections = window_depth(job), job.compose.relax.overlap, job.shape[0]
    core = range(index * depth, min((index + 1) * depth, sections))
    return SectionWindow(index, core, range(max(0, core.start - overlap), min(sections, core.stop + overlap)))


def fit_window(job: Job, index: int) -> SectionWindow:
    """Return the sections whose spectra are fitted together: a window with its overlap; of slabs, the middle of one."""
    if not job.slabs:
        return section_window(job, index)
    slab = slab_ranges(job.slabs, count=job.shape[0])[index]
    most = window_depth(job) + 2 * job.compose.relax.overlap
    start = slab.start + max(0, len(slab) - most) // 2
    sections = range(start, min(start + most, slab.stop))
    return SectionWindow(index, sections, sections)


def restriction_factor(job: Job) -> int:
    """Return the nodes per side of a block of the restricted grid; 1 if whole sections are solved at once."""
    return coarsening.restriction_factor(job.grid.shape, max_nodes=job.compose.relax.max_nodes)


def restricted_grid(job: Job) -> Grid:
    """Return the grid of the blocks."""
    return coarsening.restricted_grid(job.grid, factor=restriction_factor(job))


def tile_side(job: Job) -> int:
    """Return the nodes along a side of a tile: whole blocks."""
    factor = restriction_factor(job)
    return max(job.compose.relax.tile_nodes // factor, HALO_BLOCKS) * factor


def section_tiles(job: Job) -> list[Tile]:
    """Return the tiles of a section."""
    return coarsening.cut_tiles(job.grid.shape, core=tile_side(job), factor=restriction_factor(job))


def result_chunk(job: Job) -> ShapeYX:
    """Return the chunk (y, x) of the resulting fields, in nodes."""
    if job.compose.method == "relax" and restriction_factor(job) > 1:
        return tile_side(job), tile_side(job)
    return min(MAX_CHUNK_NODES, job.grid.shape[0]), min(MAX_CHUNK_NODES, job.grid.shape[1])


def result_depth(job: Job) -> int:
    """Return the sections per shard of the resulting fields."""
    return min(job.compose.chain.block, job.shape[0]) if job.compose.method == "chain" else window_depth(job)


def block_count(job: Job) -> int:
    """Return the number of blocks along z, method `chain`."""
    return ceil_div(job.shape[0], job.compose.chain.block)


def block_depth(job: Job) -> int:
    """Return the sections that a block aligns: its own and those shared with the next, method `chain`."""
    return job.compose.chain.block + job.compose.chain.stitch
