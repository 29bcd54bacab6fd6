"""Textured images, and the same deformed by known fields."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.registration.vector_map import VectorMap, covering_nodes


def texture(seed: int, side: int = 192) -> torch.Tensor:
    """Noise of two widths, mean 128."""
    noise = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.avg_pool2d(noise[:1], 5, stride=1, padding=2)
    wide = torch.nn.functional.avg_pool2d(noise[1:], 21, stride=1, padding=10)
    return (fine / fine.std() + wide / wide.std())[0, 0] * 25 + 128


def _bend(seed: int, rms: float, grid: Grid) -> torch.Tensor:
    nodes = covering_nodes(grid, spacing=96.0)
    field = VectorMap(torch.randn(2, *nodes.shape, generator=torch.Generator().manual_seed(seed)), nodes, "bspline").on(
        grid
    )
    return field * rms / float(field.square().sum(dim=0).mean().sqrt())


def deformed_sections(sections: torch.Tensor, *, rms: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Sections deformed by known fields: observed(p) = truth(p + d(p))."""
    grid = Grid((sections.shape[1], sections.shape[2]), 1.0)
    bends = [_bend(10 + z, rms, grid) for z in range(len(sections))]
    observed = [
        sample(s[None], grid=grid, positions=grid.positions() + d, kind="bicubic")[0]
        for s, d in zip(sections, bends, strict=True)
    ]
    return torch.stack(observed), bends
