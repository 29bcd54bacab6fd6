"""Interface of a method in the benchmark: a name, its dependencies, and one field per section."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.evaluation.candidates import Candidate
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.types import Float32Array


class NotInstalledError(Exception):
    """The packages of a method are not installed."""


@dataclass(frozen=True, slots=True)
class SectionFields:
    """One pull field per section: aligned → observed (C5), mip-0 px, node i at (i + 1/2)·spacing (C3)."""

    values: Float32Array
    """(z, 2, y, x); NaN is unknown."""
    spacing: int
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of parts of the method, where it knows them; `fields` is what it took to find the fields, where the
    method does more than that."""
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write values and spacing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, values=self.values, spacing=self.spacing)

    @classmethod
    def load(cls, path: Path) -> "SectionFields":
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["values"], int(stored["spacing"]))

    def candidate(self, name: str) -> Candidate:
        """Return the fields in the form of the protocol: bilinear between the nodes."""
        _, _, rows, columns = self.values.shape
        nodes = Grid((rows, columns), self.spacing)

        def displacements(z: int, grid: Grid) -> Tensor:
            return sample_known(torch.from_numpy(self.values[z]), grid=nodes, positions=grid.positions())

        return Candidate(name, displacements)


class Method(Protocol):
    """One row of a table; picklable, since a cell runs in its own process."""

    @property
    def name(self) -> str:
        """Short name, also of the folder of its cells."""

    @property
    def title(self) -> str:
        """Name of the method in the tables."""

    def versions(self) -> dict[str, str]:
        """Packages and their versions that decide the result.

        Raises:
            NotInstalledError: one is not installed.
        """

    def settings(self) -> dict[str, Any]:
        """Everything else that decides the result, as JSON."""

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Align the sections of a scene; `folder` is empty and the method's own."""
