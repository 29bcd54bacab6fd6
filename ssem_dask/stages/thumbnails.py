"""Small images of aligned sections, sampled from the source by a bounded number of nodes of their fields."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.job import Job
from ssem_dask.stages.source_sections import Places, Reach, Sampling, sample_sections
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

FIELD_NODES = 128
"""Nodes along the longer side of a field that are read, at most."""


def thinned_field(job: Job, z: int) -> tuple[Tensor, Grid]:
    """Read a bounded number of nodes of a section's field: its values `(2, y, x)` and their grid."""
    array = SECTION.open(job)
    step = max(1, math.ceil(max(array.shape[2:]) / FIELD_NODES))
    nodes: AnyArray = np.asarray(array[z, :, ::step, ::step])
    # The first node stays where it is (C3), although the others are farther apart.
    first = job.spacing / 2 * (1 - step)
    grid = Grid((nodes.shape[1], nodes.shape[2]), float(job.spacing * step), (first, first))
    return torch.from_numpy(np.ascontiguousarray(nodes)), grid


def warp_thumbnails(
    source: Volume, *, sections: range, mip: int, places: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images `(y, x)` of sections of the source at a coarse mip, and masks of known tissue.

    Args:
        source: volume.
        sections: z of each.
        mip: scale level.
        places: source positions `(2, y, x)` of the pixels of each, mip-0 px; NaN is unknown.
    """
    reaches: list[Reach | None] = []
    for positions in places:
        bounds = positions[:, torch.isfinite(positions).all(dim=0)]
        reaches.append((bounds.amin(dim=1).tolist(), bounds.amax(dim=1).tolist()) if bounds.shape[1] else None)
    sampling = Sampling(
        sections=sections,
        mip=mip,
        shape=(places[0].shape[1], places[0].shape[2]),
        positions=[_rows_of(positions) for positions in places],
        affines=[np.eye(2, 3)] * len(places),
        reaches=reaches,
    )
    yield from sample_sections(source, sampling, kind="bilinear")


def _rows_of(positions: Tensor) -> Places:
    return lambda rows: positions[:, rows]
