"""Steps of `relax_tiles`: restrict pair fields to blocks of nodes, read a tile, prolong low frequencies to it."""

import numpy as np
import torch
from torch import Tensor

from ssem_dask.composition.relax.coarsening import Tile, prolong, restrict
from ssem_dask.composition.relax.node_weights import median_confidence, node_weights
from ssem_dask.composition.relax.relative import SplitPairs, subtract_affines
from ssem_dask.field.device import compute_device
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.compose_arrays import (
    MEDIAN_CONFIDENCE,
    PAIR_AFFINES,
    RESTRICTED_PAIRS,
    RESTRICTED_WEIGHTS,
)
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE
from ssem_dask.stages.compose.layout import (
    SectionWindow,
    restricted_grid,
    restriction_factor,
    tile_side,
)
from ssem_dask.stages.compose.section_windows import pairs_leading_out, read_pairs
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import RunArray

_SAMPLED_NODES = 256
"""Nodes along a side that are sampled for a window's median confidence."""


def sections_median_confidence(job: Job, sections: range) -> float:
    """Return the median confidence of the neighbour pairs of some sections, from a sample of each section's nodes."""
    every = max(1, max(job.grid.shape) // _SAMPLED_NODES)
    sampled = CONFIDENCE.read(job, k=0, z=sections, y=slice(None, None, every), x=slice(None, None, every))
    return median_confidence(torch.from_numpy(np.nan_to_num(sampled).astype(np.float64)))


def restrict_sections(job: Job, sections: range, *, median: float) -> tuple[list[tuple[Tensor, Tensor, Tensor]], int]:
    """Restrict some sections' pair fields to blocks, read in bands: they may be wider than what fits in memory.

    Returns:
        Per section displacements and mean positions of the known nodes of each block, `(k, 2, y', x')`, px, NaN
        unknown, and weights `(k, y', x')`; bytes read. Positions are means too, since a block may be known in part.
    """
    factor, side = restriction_factor(job), tile_side(job)
    bands: list[list[Tensor]] = [[] for _ in sections]
    read = 0
    for top in range(0, job.grid.shape[0], side):
        rows = slice(top, min(top + side, job.grid.shape[0]))
        pairs, confidence = read_pairs(job, sections, nodes=(rows, slice(None)))
        read += pairs.nbytes + confidence.nbytes
        weights = node_weights(pairs, confidence, typical=median)
        nodes = rows, slice(0, job.grid.shape[1])
        grid = Tile(nodes, nodes).read_grid(job.grid)
        positions = grid.positions(pairs.device).double().expand(len(pairs), 2, *grid.shape)
        for i, parts in enumerate(bands):  # section by section, since these are in double precision
            means, share = restrict(torch.cat([pairs[:, i].double(), positions], dim=1), weights[:, i], factor=factor)
            parts.append(torch.cat([means, share[:, None]], dim=1))
    whole = [torch.cat(parts, dim=2) for parts in bands]
    return [(part[:, :2], part[:, 2:4], part[:, 4]) for part in whole], read


def read_low_frequency(job: Job, array: RunArray, sections: range) -> Tensor:
    """Read the low frequencies of some sections."""
    return torch.from_numpy(array.read(job, z=sections))


def read_restricted(job: Job, sections: range) -> tuple[Tensor, SplitPairs]:
    """Read weights and restricted pair fields of some sections, without the pairs that lead out of them."""
    pairs = RESTRICTED_PAIRS.read(job, z=sections)
    weights = np.nan_to_num(RESTRICTED_WEIGHTS.read(job, z=sections))
    device = compute_device()
    return _within(job, torch.from_numpy(pairs).to(device), torch.from_numpy(weights).to(device), sections)


def read_tile(job: Job, window: SectionWindow, tile: Tile) -> tuple[Tensor, SplitPairs]:
    """Read weights and pair fields of all nodes of a tile, without the pairs that lead out of the window."""
    pairs, confidence = read_pairs(job, window.read, nodes=tile.read)
    median = float(MEDIAN_CONFIDENCE.read(job, z=window.core.start))
    weights = node_weights(pairs, confidence, typical=median)
    rest = subtract_affines(pairs, PAIR_AFFINES.read(job, z=window.read), grid=tile.read_grid(job.grid))
    return _within(job, rest, weights, window.read)


def _within(job: Job, rest: Tensor, weights: Tensor, sections: range) -> tuple[Tensor, SplitPairs]:
    """Return weights and split pairs with the pairs that lead out of `sections`, and unknown nodes, at weight 0."""
    affines = PAIR_AFFINES.read(job, z=sections)
    outside = pairs_leading_out(sections, steps=len(rest))
    rest[outside], affines[outside] = torch.nan, np.nan
    known = torch.isfinite(rest).all(dim=2)
    return torch.where(known, weights, torch.zeros_like(weights)), SplitPairs(affines, rest)


def prolong_to_tile(job: Job, values: Tensor, tile: Tile) -> Tensor:
    """Prolong values of the blocks `(…, y', x')` to the nodes of a tile."""
    return prolong(values.double(), blocks=restricted_grid(job), grid=tile.read_grid(job.grid)).float()


def nodes_box(job: Job, sections: range, nodes: tuple[slice, slice]) -> Box:
    """Return the mip-0 box of nodes (y, x) of some sections, clipped to the volume."""
    spacing, (y, x) = job.spacing, nodes
    start = sections.start, y.start * spacing, x.start * spacing
    stop = sections.stop, y.stop * spacing, x.stop * spacing
    return Box(start, stop).clipped(job.shape)
