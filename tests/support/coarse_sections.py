"""Made-up sections for tests of the coarse search: textures, seen through known maps."""

import torch

from ssem_dask.field.affine import apply_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.registration.coarse_alignment.flat_contrast import blur
from ssem_dask.types import Float64Array, ShapeYX


def texture(shape: ShapeYX, seed: int) -> torch.Tensor:
    """Blobs and membranes-like ridges at several scales."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    layers = [blur(noise[i : i + 1], sigma)[0] for i, sigma in enumerate((1.0, 2.5, 6.0))]
    return torch.stack([20 * layer / layer.std() for layer in layers]).sum(dim=0) + 128


def moved(image: torch.Tensor, pull: Float64Array) -> tuple[torch.Tensor, torch.Tensor]:
    """The image seen through `pull` (image px), and where that is known."""
    grid = Grid((image.shape[-2], image.shape[-1]), 1.0)
    values, mask = sample_image(image[None], grid=grid, positions=apply_affine(pull, grid.positions()), kind="bilinear")
    return values[0], mask


def median_error(found: Float64Array, truth: Float64Array, *, shape: ShapeYX) -> float:
    """Median distance over the overlap, px."""
    positions = Grid((shape[0] // 4, shape[1] // 4), 4.0).positions()
    target = apply_affine(truth, positions)
    inside = Grid(shape, 1.0).contains(target)
    distance = torch.linalg.vector_norm(apply_affine(found, positions) - target, dim=0)
    return float(distance[inside].median())
