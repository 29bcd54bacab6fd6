"""SIFT similarity, then smoothed dense optical flow (DIS, Kroeger et al. 2016, OpenCV): short, and hard to beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import field_of_matrix, installed, thinned
from benchmarks.accuracy.peers.sift import SIFT, sift_features, similarity
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.types import AnyArray, Float32Array

_SPACING = 8
FLOW: dict[str, Any] = {"preset": "medium", "blur_px": 1.5, "clahe": 2.0, "smooth_px": 12.0}
"""`clahe`: contrast-limited equalisation, since flow compares intensities. `smooth_px`: Gaussian over the flow of each
pair; single neurites move otherwise than the tissue, and unsmoothed flow follows them."""


@dataclass(frozen=True)
class SmoothedFlow:
    """Each raw section to the raw one before it: similarity, then flow; maps composed."""

    name: str = "sift-dis"
    title: str = "SIFT + DIS optical flow (OpenCV), smoothed"

    def versions(self) -> dict[str, str]:
        """The package."""
        return installed("opencv-python")

    def settings(self) -> dict[str, Any]:
        """See `FLOW` and `SIFT`."""
        return {"sift": dict(SIFT), "flow": dict(FLOW)}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Chain the pairs."""
        sections = scene.read()
        shape = (sections.shape[1], sections.shape[2])
        features = [sift_features(section) for section in sections]
        images = [_prepared(section) for section in sections]
        whole = np.zeros((2, *shape), dtype=np.float32)
        fields = [whole]
        for z in range(1, len(sections)):
            rigid = field_of_matrix(similarity(fixed=features[z - 1], moving=features[z]), shape_yx=shape, spacing=1)
            pair = _compose(outer=rigid, inner=_flow(images[z - 1], _warp(images[z], rigid)))
            whole = _compose(outer=pair, inner=whole)
            fields.append(whole)
        return SectionFields(np.stack([thinned(f, spacing=_SPACING) for f in fields]), _SPACING)


def _prepared(section: AnyArray) -> AnyArray:
    import cv2

    equalised = cv2.createCLAHE(clipLimit=FLOW["clahe"], tileGridSize=(8, 8)).apply(section)
    return cv2.GaussianBlur(equalised, (0, 0), FLOW["blur_px"])


def _flow(fixed: AnyArray, moving: AnyArray) -> Float32Array:
    """Pull displacements (2, y, x) from fixed to moving."""
    import cv2

    engine = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{FLOW['preset'].upper()}"))
    found = engine.calc(fixed, moving, None)
    smooth = cv2.GaussianBlur(found, (0, 0), FLOW["smooth_px"])
    return np.ascontiguousarray(smooth[..., ::-1].transpose(2, 0, 1))


def _warp(image: AnyArray, field: Float32Array) -> AnyArray:
    import cv2

    x, y = _positions(field)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _compose(*, outer: Float32Array, inner: Float32Array) -> Float32Array:
    import cv2

    x, y = _positions(inner)
    moved = [cv2.remap(component, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for component in outer]
    return inner + np.stack(moved)


def _positions(field: Float32Array) -> tuple[Float32Array, Float32Array]:
    y, x = np.mgrid[: field.shape[1], : field.shape[2]].astype(np.float32)
    return x + field[1], y + field[0]
