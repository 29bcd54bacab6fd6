"""Stacks of real sections, each displaced by a known deformation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.nn.functional import interpolate

from benchmarks.accuracy.scenes import MissingDataError
from ssem_dask.evaluation.deformation import Deformation, DeformationConfig, draw_deformation
from ssem_dask.evaluation.observation import observe_section
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.geometry.box import Box
from ssem_dask.types import AnyArray, ShapeYX

DATA = ("vnc", "fibsem0", "fibsem1", "fibsem2", "phantom")
"""`fibsemN`: planes along axis N, 40 nm apart, magnified to 5 nm pixels. `phantom`: any number of sections."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Undeformed sections."""

    images: AnyArray
    """(z, y, x) uint8."""
    foreign: AnyArray
    """(y, x) uint8: another place of the same tissue."""
    pixel_size: float
    section_thickness: float
    """Both nm."""


@dataclass(frozen=True, slots=True)
class DeformedStack:
    """The sections as observed, and what deformed them."""

    images: AnyArray
    foreign: AnyArray
    deformations: tuple[Deformation, ...]
    pixel_size: float
    section_thickness: float

    @property
    def shape_yx(self) -> ShapeYX:
        """(y, x) of a section."""
        return self.images.shape[1], self.images.shape[2]


def load_stack(name: str, *, sections: int, size: int, data: Path, corner: tuple[int, int] | None = None) -> Stack:
    """Read a stack.

    Args:
        name: one of `DATA`.
        sections: number of sections; fewer if the volume has fewer.
        size: side of a section, px; smaller if the volume is.
        data: folder of the real volumes.
        corner: first (y, x) of the sections in the volume; None: in the middle.

    Raises:
        MissingDataError: the volume is not in the folder.
    """
    if name == "phantom":
        config = PhantomConfig(seed=5, shape=(sections, size, size))
        images = generate(config, Box((0, 0, 0), config.shape)).image
        other = PhantomConfig(seed=6, shape=(1, size, size))
        return Stack(images, generate(other, Box((0, 0, 0), other.shape)).image[0], 5.0, 40.0)
    vnc = name == "vnc"
    volume = _vnc(data) if vnc else _fibsem(data, axis=int(name[-1]))
    depth, height, width = volume.shape
    sections, size = min(sections, depth), min(size, height, width)
    first = (depth - sections) // 2
    top, left = corner or ((height - size) // 2, (width - size) // 2)
    images = volume[first : first + sections, top : top + size, left : left + size]
    # The farthest corner, of a section at the other end.
    y, x = (n - size if start < (n - size) / 2 + 1 else 0 for n, start in ((height, top), (width, left)))
    foreign = volume[depth - 1, y : y + size, x : x + size]
    if not vnc:  # these planes leave no other place, so the foreign one is cut along another axis
        foreign = _fibsem(data, axis=(int(name[-1]) + 1) % 3)[7, y : y + size, x : x + size]
    return Stack(images, foreign, *((4.6, 50.0) if vnc else (5.0, 40.0)))


def deform_stack(stack: Stack, *, seed: int) -> DeformedStack:
    """Displace each section by the default deformation of `simulate`."""
    shape = (stack.images.shape[1], stack.images.shape[2])
    deformations, observed = [], []
    for z, image in enumerate([*stack.images, stack.foreign]):
        deformation = draw_deformation(DeformationConfig(), seed=seed, z=z, shape_yx=shape)
        noise = np.random.default_rng([seed, z])
        observed.append(observe_section(image, labels=None, deformation=deformation, damage=None, noise=noise).image)
        deformations.append(deformation)
    return DeformedStack(
        np.stack(observed[:-1]), observed[-1], tuple(deformations[:-1]), stack.pixel_size, stack.section_thickness
    )


def _pages(data: Path, name: str) -> AnyArray:
    path = data / name
    if not path.exists():
        raise MissingDataError(f"{path}: is not there; set SSEM_DATA_DIR to the folder of the real volumes.")
    return np.asarray(tifffile.imread(path))


def _vnc(data: Path) -> AnyArray:
    return _pages(data, "vnc_sstem/images.tif")


def _fibsem(data: Path, *, axis: int) -> AnyArray:
    planes = np.moveaxis(_pages(data, "flyem_fibsem/images.tif"), axis, 0)[::4]
    doubled = interpolate(
        torch.from_numpy(planes.astype(np.float32))[:, None], scale_factor=2, mode="bicubic", align_corners=False
    )[:, 0]
    return doubled.round().clamp(0, 255).byte().numpy()
