"""elastix (Klein et al. 2010, itk-elastix): B-spline registration by mutual information, section by section."""

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import installed, thinned
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.types import AnyArray, Float32Array

_SPACING = 8
AFFINE: dict[str, str] = {"NumberOfResolutions": "4", "MaximumNumberOfIterations": "256"}
BSPLINE: dict[str, str] = {
    "Metric": "AdvancedMattesMutualInformation",
    "NumberOfResolutions": "4",
    "FinalGridSpacingInPhysicalUnits": "32",
    "MaximumNumberOfIterations": "256",
    "NumberOfSpatialSamples": "4096",
    "NewSamplesEveryIteration": "true",
}
"""On top of the package's default parameter maps `affine` and `bspline`. Control points every 32 px: the deformation's
own are 64 to 128 px apart. The `bspline` map's bending energy penalty is not used with a single metric."""


@dataclass(frozen=True)
class ElastixBspline:
    """Each raw section to the raw one before it, affine and then B-spline; maps composed."""

    name: str = "elastix"
    title: str = "elastix B-spline, mutual information"

    def versions(self) -> dict[str, str]:
        """The package."""
        return installed("itk-elastix")

    def settings(self) -> dict[str, Any]:
        """See `AFFINE` and `BSPLINE`."""
        return {"affine": AFFINE, "bspline": BSPLINE}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Chain the pairs."""
        from scipy.ndimage import map_coordinates

        sections = scene.read()
        whole = np.zeros((2, *sections.shape[1:]), dtype=np.float32)
        y, x = np.mgrid[: whole.shape[1], : whole.shape[2]].astype(np.float32)
        fields = [whole]
        for fixed, moving in itertools.pairwise(sections):
            with contextlib.chdir(folder):  # transformix leaves a file where the process is
                pair = _pair_field(fixed, moving)
            where = [y + whole[0], x + whole[1]]
            whole = whole + np.stack([map_coordinates(c, where, order=1, mode="nearest") for c in pair])
            fields.append(whole)
        return SectionFields(np.stack([thinned(f, spacing=_SPACING) for f in fields]), _SPACING)


def _pair_field(fixed: AnyArray, moving: AnyArray) -> Float32Array:
    """Pull displacements (2, y, x) from fixed to moving."""
    import itk

    images = [itk.image_from_array(np.ascontiguousarray(image, dtype=np.float32)) for image in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    for name, changes in (("affine", AFFINE), ("bspline", BSPLINE)):
        chosen = parameters.GetDefaultParameterMap(name)
        for key, value in changes.items():
            chosen[key] = (value,)
        parameters.AddParameterMap(chosen)
    _, found = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False)
    field = itk.array_from_image(itk.transformix_deformation_field(images[1], found))
    return np.ascontiguousarray(field[..., ::-1].transpose(2, 0, 1), dtype=np.float32)
