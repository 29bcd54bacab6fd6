"""The scenes: crops of real volumes, undeformed, deformed, and deformed and damaged.

FIB-SEM: planes 40 nm apart along axis 1 (y) of the cube, magnified twice to 5 nm pixels. The shipped encoders were
trained on planes along axis 0 (z) of the same cube, so what they see here is the same tissue cut in another direction.
VNC: no shipped weights have seen it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.nn.functional import interpolate

from benchmarks.accuracy.digest import digest_of, digest_of_sources
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.evaluation.simulate import simulate
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.evaluation.truth import Truth
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import import_volume

FIRST_SEED = 301
"""Seeds that nothing was tuned on."""


class MissingDataError(Exception):
    """The real volumes are not there."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The undeformed sections of a scene."""

    name: str
    read: Callable[[Path], AnyArray]
    """Folder of the real volumes → sections (z, y, x) uint8."""
    pixel_size: float
    """nm"""
    section_thickness: float
    """nm"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A crop, undeformed (no seed) or deformed, and perhaps damaged."""

    crop: Crop
    seed: int | None = None
    damaged: float = 0.0
    """Share of the sections that are damaged."""

    @property
    def group(self) -> str:
        """Key of the part that all seeds of this scene share."""
        kind = "undeformed" if self.seed is None else "damaged" if self.damaged else "warped"
        return f"{self.crop.name}-{kind}"

    @property
    def name(self) -> str:
        """Unique name."""
        return self.group if self.seed is None else f"{self.group}-{self.seed}"

    @property
    def undeformed(self) -> "Scene":
        """The scene without any deformation."""
        return Scene(self.crop)


@dataclass(frozen=True, slots=True)
class PreparedScene:
    """A scene on disk."""

    scene: Scene
    url: str
    undeformed_url: str
    pixels: str
    """Digest of the observed sections."""

    @property
    def truth(self) -> Truth | None:
        """Known deformation; None if there is none."""
        return None if self.scene.seed is None else Truth.open(self.url)

    def read(self) -> AnyArray:
        """The observed sections (z, y, x)."""
        volume = Volume.open(self.url)
        return volume.read(Box((0, 0, 0), volume.info.shape))


def prepare(scene: Scene, *, work: Path, data: Path) -> PreparedScene:
    """Make the scene's volume, or find it as it was made by the same sources.

    Raises:
        MissingDataError: the folder of the real volumes lacks one.
    """
    folder = work / "volumes" / digest_of_sources("evaluation", "field", extra=[Path(__file__)])[:12]
    undeformed = folder / f"{scene.undeformed.name}.zarr"
    place = folder / f"{scene.name}.zarr"
    note = folder / f"{scene.name}.json"
    if not note.exists():
        if scene.seed is None:
            _write_undeformed(scene.crop, undeformed, data=data)
        else:
            prepare(scene.undeformed, work=work, data=data)
            simulate(
                str(undeformed),
                str(place),
                seed=scene.seed,
                deformation=DeformationConfig(),
                damage=DamageConfig(fraction=scene.damaged),
            )
        volume = Volume.open(str(place))
        pixels = volume.read(Box((0, 0, 0), volume.info.shape))
        note.write_text(json.dumps({"pixels": hashlib.sha256(pixels.tobytes()).hexdigest()}))
    pixels_digest = json.loads(note.read_text())["pixels"]
    return PreparedScene(scene, str(place), str(undeformed), digest_of([scene.crop.name, pixels_digest]))


def _write_undeformed(crop: Crop, place: Path, *, data: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    sections = place.with_suffix(".tif")
    tifffile.imwrite(sections, crop.read(data), photometric="minisblack")
    import_volume(
        str(sections),
        str(place),
        pixel_size=crop.pixel_size,
        section_thickness=crop.section_thickness,
        overwrite=place.exists(),
    )
    sections.unlink()


def _pages(data: Path, name: str) -> AnyArray:
    path = data / name
    if not path.exists():
        raise MissingDataError(f"{path}: is not there; set SSEM_DATA_DIR to the folder of the real volumes.")
    return np.asarray(tifffile.imread(path))


def _fibsem(data: Path) -> AnyArray:
    planes = _pages(data, "flyem_fibsem/images.tif")[:, 93:157:4].transpose(1, 0, 2)
    doubled = interpolate(
        torch.from_numpy(planes.astype(np.float32))[:, None], scale_factor=2, mode="bicubic", align_corners=False
    )[:, 0]
    return doubled[:, 26:474, 26:474].round().clamp(0, 255).byte().numpy()


def _vnc(data: Path) -> AnyArray:
    return _pages(data, "vnc_sstem/images.tif")[:, 192:832, 192:832]


def _vnc_small(data: Path) -> AnyArray:
    return _pages(data, "vnc_sstem/images.tif")[5:15, 288:736, 288:736]


def _vnc_speed(data: Path) -> AnyArray:
    return _pages(data, "vnc_sstem/images.tif")


def _phantom(_: Path) -> AnyArray:
    config = PhantomConfig(seed=5, shape=(4, 192, 192), oblique=0.0)
    return generate(config, Box((0, 0, 0), config.shape)).image


FIBSEM = Crop("fibsem", _fibsem, pixel_size=5.0, section_thickness=40.0)
"""16 × 448²."""
VNC = Crop("vnc", _vnc, pixel_size=4.6, section_thickness=50.0)
"""20 × 640²."""
VNC_SMALL = Crop("vnc-small", _vnc_small, pixel_size=4.6, section_thickness=50.0)
"""10 × 448², for what only compares modes of ours."""
VNC_SPEED = Crop("vnc-whole", _vnc_speed, pixel_size=4.6, section_thickness=50.0)
"""20 × 1024², for seconds."""
PHANTOM = Crop("phantom", _phantom, pixel_size=5.0, section_thickness=40.0)
"""4 × 192², for the tests of the benchmark itself."""


def scenes_of(crop: Crop, *, seeds: int, damaged: float) -> list[Scene]:
    """The undeformed scene, then for each seed the warped one and, if `damaged`, the damaged one."""
    found = [Scene(crop)]
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        found.append(Scene(crop, seed=seed))
        if damaged:
            found.append(Scene(crop, seed=seed, damaged=damaged))
    return found
