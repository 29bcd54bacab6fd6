"""pyStackReg (the TurboReg of Thévenaz, Ruttimann and Unser 1998): affine registration of intensities."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import field_of_matrix, installed
from benchmarks.accuracy.scenes import PreparedScene

_SPACING = 16


@dataclass(frozen=True)
class StackRegAffine:
    """Each section to the one before it, `StackReg.AFFINE`, maps accumulated; it has no parameters to set."""

    name: str = "stackreg"
    title: str = "pyStackReg, affine"

    def versions(self) -> dict[str, str]:
        """The package."""
        return installed("pystackreg")

    def settings(self) -> dict[str, Any]:
        """The model and what each section is compared with."""
        return {"model": "AFFINE", "reference": "previous"}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Register like the package's own `register_stack`."""
        from pystackreg import StackReg

        sections = scene.read()
        matrices = StackReg(StackReg.AFFINE).register_stack(sections.astype(np.float64), reference="previous")
        shape = (sections.shape[1], sections.shape[2])
        return SectionFields(
            np.stack([field_of_matrix(m, shape_yx=shape, spacing=_SPACING) for m in matrices]), _SPACING
        )
