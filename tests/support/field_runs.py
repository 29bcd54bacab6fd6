"""Runs that consist of section fields alone: smooth, turned, mirrored, broken and unknown sections."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssem_dask.field.affine import affine_field, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.types import Float32Array, Float64Array

SHAPE = (6, 150, 118)
SPACING = 8
PIXEL_NM = 4.6
THICKNESS_NM = 45.0
SMOOTH, TURNED, MIRRORED, BROKEN, PARTIAL, UNKNOWN = range(6)
"""z of each kind of section."""


def section_field(z: int, *, seed: int) -> Float32Array:
    """Return the field `(2, y, x)` of a section of that kind."""
    random = np.random.default_rng((seed, z))
    grid = Grid.of_section(SHAPE[1:], spacing=SPACING)
    at = grid.positions()
    y, x = at.double()
    phase = random.uniform(0, 2 * np.pi, 4)
    wave = torch.stack(
        [2.5 * torch.sin(y / 25 + phase[0]) * torch.cos(x / 31 + phase[1]), 2 * torch.cos(y / 29 + phase[2])]
    ).float()
    middle = (SHAPE[1] / 2, SHAPE[2] / 2)
    if z == TURNED:
        return (wave + affine_field(rotation_about(degrees=180, centre=middle, shift=(3, -2)), grid=grid)).numpy()
    if z == MIRRORED:
        mirror = np.array([[1.0, 0.0, 1.5], [0.0, -1.0, SHAPE[2] - 2.5]])
        return (wave + affine_field(mirror, grid=grid)).numpy()
    if z == BROKEN:  # the right part has moved by 20 px, and a strip between the parts is unknown
        right = x > SHAPE[2] * 0.55
        wave[1] += 20 * right
        wave[0] -= 6 * right
        wave[:, (x > SHAPE[2] * 0.5) & ~right] = torch.nan
    if z == PARTIAL:
        wave[:, :5, :4] = torch.nan
        wave[:, -2:, 7:] = torch.nan
    return (torch.full_like(wave, torch.nan) if z == UNKNOWN else wave).numpy()


def make_field_run(folder: Path, *, seed: int = 0, pixels: bool = False) -> str:
    """Make OUT.zarr with `fields/section`; with `pixels` also its source, of smooth noise."""
    url, source = str(folder / "run.zarr"), str(folder / "source.zarr")
    table = {"pixel_size": PIXEL_NM, "section_thickness": THICKNESS_NM}
    config: dict[str, Any] = {
        "volume": table,
        "register": {"neighbours": 2},
        "render": {},
        "downsample": {"smallest": 64},
    }
    create_run(url, attributes={"state": "complete", "source": source, "config": config})
    field = create_field(
        f"{url}/fields/section",
        info=FieldInfo(spacing=SPACING, shape_mip0=SHAPE),
        leading=(),
        components=True,
        chunks=(1, 2, 8, 8),
        shards=None,
    )
    for z in range(SHAPE[0]):
        field[z] = section_field(z, seed=seed)
    if pixels:
        info = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=PIXEL_NM, section_thickness=THICKNESS_NM)
        volume = create_volume(source, info=info, chunk=(1, 64, 64), shard=(2, 128, 128), mips=3)
        volume.write(Box((0, 0, 0), SHAPE), smooth_noise(SHAPE, seed=seed))
        for mip in (1, 2):
            level = volume.read(Box((0, 0, 0), SHAPE))[:, :: 2**mip, :: 2**mip]
            volume.write(Box((0, 0, 0), volume.shape_at(mip), mip), np.ascontiguousarray(level))
    return url


def smooth_noise(shape: tuple[int, int, int], *, seed: int) -> np.ndarray[Any, Any]:
    """Return uint8 pixels that interpolation changes little."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, 3, 3))
    return np.clip(128 + 40 * noise / noise.std(), 1, 255).astype(np.uint8)


def positions(*, seed: int, count: int = 400, margin: float = 0.0) -> Float64Array:
    """Return random points `(n, 3)` of all sections, mip-0 px."""
    random = np.random.default_rng(seed)
    low, high = [0, margin, margin], [SHAPE[0], SHAPE[1] - margin, SHAPE[2] - margin]
    points = random.uniform(low, high, (count, 3))
    points[:, 0] = np.floor(points[:, 0])
    return points
