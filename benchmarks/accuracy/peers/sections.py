"""Code that all peers share: versions of packages, and maps from section to section composed to one field per section.

Peers know pixel centres at integers, we at i + 1/2 (C3); a displacement is the same in both. They match each section to
the one before, and the field of a section is the composition of its maps down to the first section, which stays: no
peer here has another way to keep a volume together, except FEABAS.
"""

import importlib.metadata

import numpy as np

from benchmarks.accuracy.methods import NotInstalledError
from ssem_dask.types import AnyArray, Float32Array, Float64Array


def installed(*packages: str) -> dict[str, str]:
    """Versions of packages.

    Raises:
        NotInstalledError: one is not there.
    """
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise NotInstalledError(f"{package} is not installed; 'make bench-accuracy' tries to.") from error
    return found


def field_of_matrix(matrix: Float64Array, *, shape_yx: tuple[int, int], spacing: int) -> Float32Array:
    """The displacements (2, y, x) of a 3 × 3 pull matrix in (x, y), pixel centres at integers."""
    rows, columns = (-(-n // spacing) for n in shape_yx)
    y = (np.arange(rows) + 0.5) * spacing - 0.5
    x = (np.arange(columns) + 0.5) * spacing - 0.5
    grid_x, grid_y = np.meshgrid(x, y)
    moved = matrix @ np.stack([grid_x, grid_y, np.ones_like(grid_x)]).reshape(3, -1)
    dx = moved[0].reshape(grid_x.shape) - grid_x
    dy = moved[1].reshape(grid_y.shape) - grid_y
    return np.stack([dy, dx]).astype(np.float32)


def thinned(field: AnyArray, *, spacing: int) -> Float32Array:
    """A field known at every pixel (2, y, x) as means over squares of `spacing` px: the values at our nodes.

    Of a field smooth at that scale it is as good as sampling. The last squares may be partial.
    """
    _, height, width = field.shape
    padded = np.pad(field, ((0, 0), (0, -height % spacing), (0, -width % spacing)), mode="edge")
    rows, columns = padded.shape[1] // spacing, padded.shape[2] // spacing
    return padded.reshape(2, rows, spacing, columns, spacing).mean(axis=(2, 4), dtype=np.float64).astype(np.float32)
