"""Known deformations as fields."""

from torch import Tensor

from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.field.grid import Grid
from ssem_dask.types import ShapeYX


def section_deformation(config: DeformationConfig, *, seed: int, z: int, shape_yx: ShapeYX, grid: Grid) -> Tensor:
    """Return the pull field d_z `(2, y, x)`, observed → truth, float32, mip-0 px, on `grid`."""
    return draw_deformation(config, seed=seed, z=z, shape_yx=shape_yx).at(grid.positions())
