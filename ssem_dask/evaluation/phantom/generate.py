"""Chunks of the phantom."""

from dataclasses import dataclass

import numpy as np

from ssem_dask.errors import ConfigError
from ssem_dask.evaluation.phantom.imaging import image_of_tissue
from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig
from ssem_dask.evaluation.phantom.tile import CORE, MARGIN, tissue_of_tile
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.types import AnyArray


@dataclass(frozen=True, slots=True)
class PhantomChunk:
    """A box of the phantom."""

    image: AnyArray
    """`(z, y, x)` uint8, bright background, dark membranes."""
    labels: AnyArray
    """`(z, y, x)` uint32, one number per neurite with all its branches; no pixel is 0."""


def generate(config: PhantomConfig, box: Box) -> PhantomChunk:
    """Generate a box at mip 0.

    Raises:
        ConfigError: the box is not at mip 0 or leaves the volume.
    """
    if box.mip != 0 or not Box((0, 0, 0), config.shape).contains(box):
        raise ConfigError(
            f"Phantom: box {box.start}..{box.stop} at mip {box.mip} is not inside the volume {config.shape} "
            "at mip 0; clip it, or give the phantom a larger shape."
        )
    image = np.empty(box.shape, dtype=np.uint8)
    labels = np.empty(box.shape, dtype=np.uint32)
    tiles = [range(a // CORE, ceil_div(b, CORE)) for a, b in zip(box.start[1:], box.stop[1:], strict=True)]
    for z in box.sections:
        for tile in ((row, column) for row in tiles[0] for column in tiles[1]):
            _fill(config, box, z=z, tile=tile, image=image[z - box.start[0]], labels=labels[z - box.start[0]])
    return PhantomChunk(image, labels)


def _fill(config: PhantomConfig, box: Box, *, z: int, tile: tuple[int, int], image: AnyArray, labels: AnyArray) -> None:
    """Write the part of one tile that is inside the box into one section `(y, x)` of the chunk."""
    tissue = tissue_of_tile(config, z=z, tile=tile)
    tile_slices, box_slices = [], []
    for index, first, last in zip(tile, box.start[1:], box.stop[1:], strict=True):
        start, stop = max(first, index * CORE), min(last, (index + 1) * CORE)
        box_slices.append(slice(start - first, stop - first))
        tile_slices.append(slice(start - index * CORE + MARGIN, stop - index * CORE + MARGIN))
    source, target = (tile_slices[0], tile_slices[1]), (box_slices[0], box_slices[1])
    image[target] = image_of_tissue(config, tissue)[source]
    labels[target] = tissue.neurites.label[tissue.winner[source]]
