"""A method that is one file: see adapters/template.py."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import field_of_matrix, installed
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

_SPACING = 16


class AdapterError(Exception):
    """The file of a method is not what the template asks for."""


@dataclass(frozen=True)
class FileMethod:
    """The method of a file; it is loaded where it is needed, so that it can be sent to another process."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem.replace("_", "-")

    @property
    def title(self) -> str:
        """Title that the file gives, or its name."""
        return str(getattr(self._load(), "TITLE", self.name))

    def versions(self) -> dict[str, str]:
        """Packages that the file names; NotInstalledError if one is missing."""
        return installed(*getattr(self._load(), "PACKAGES", ()))

    def settings(self) -> dict[str, Any]:
        """Digest of the file, which decides everything else."""
        return {"file": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Align by the file's `align`; AdapterError if what it returns is neither matrices nor fields."""
        info = Volume.open(scene.url).info
        images = scene.read()
        made = self._load().align(images, pixel_size=info.pixel_size, section_thickness=info.section_thickness)
        return section_fields(made, shape=(images.shape[0], images.shape[1], images.shape[2]), where=self.path.name)

    def _load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"challenge_{self.path.stem}", self.path)
        if spec is None or spec.loader is None or not self.path.exists():
            raise AdapterError(f"{self.path}: is no Python file; copy benchmarks/challenge/adapters/template.py.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, "align", None)):
            raise AdapterError(f"{self.path}: has no function align; see benchmarks/challenge/adapters/template.py.")
        return module


def section_fields(made: Any, *, shape: tuple[int, int, int], where: str) -> SectionFields:
    """Return what an adapter returned as fields.

    Args:
        made: matrices (z, 3, 3), or fields (z, 2, y, x) and their spacing, px.
        shape: (z, y, x) of the sections.
        where: name of the adapter, for messages.

    Raises:
        AdapterError: it is neither.
    """
    values, spacing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    array: AnyArray = np.asarray(values)
    if spacing is None and array.shape == (shape[0], 3, 3):
        extent = shape[1], shape[2]
        fields = [field_of_matrix(m.astype(np.float64), shape_yx=extent, spacing=_SPACING) for m in array]
        return SectionFields(np.stack(fields), _SPACING)
    if spacing is not None:
        step = int(spacing)
        wanted = shape[0], 2, -(-shape[1] // step), -(-shape[2] // step)
        if array.shape == wanted:
            return SectionFields(array.astype(np.float32), step)
        raise AdapterError(f"{where}: its fields are {array.shape}, wanted is {wanted} at a spacing of {step} px.")
    raise AdapterError(
        f"{where}: returned {array.shape}; wanted are matrices ({shape[0]}, 3, 3), or fields and spacing."
    )
