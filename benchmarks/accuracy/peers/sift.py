"""SIFT features of OpenCV and a similarity by RANSAC: the classic first step of section alignment."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import field_of_matrix, installed
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.types import AnyArray, Float64Array

_SPACING = 16
SIFT: dict[str, Any] = {"blur_px": 3.0, "ratio": 0.8, "features": 8000, "ransac_px": 8.0, "least_inliers": 8}
"""`blur_px`: what is finer does not repeat from section to section. `ratio`: Lowe's (2004) own value.
`ransac_px`: twice the rms of the elastic part. Fewer inliers than `least_inliers` are no map: the section then follows
the one before."""


@dataclass(frozen=True)
class SiftSimilarity:
    """Each section to the one before it by a similarity, maps accumulated."""

    name: str = "sift"
    title: str = "SIFT similarity (OpenCV)"

    def versions(self) -> dict[str, str]:
        """The package."""
        return installed("opencv-python")

    def settings(self) -> dict[str, Any]:
        """See `SIFT`."""
        return dict(SIFT)

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Chain the pairs."""
        sections = scene.read()
        features = [sift_features(section) for section in sections]
        maps = [np.eye(3)]
        for before, after in itertools.pairwise(features):
            maps.append(similarity(fixed=before, moving=after) @ maps[-1])
        shape = (sections.shape[1], sections.shape[2])
        return SectionFields(np.stack([field_of_matrix(m, shape_yx=shape, spacing=_SPACING) for m in maps]), _SPACING)


def sift_features(section: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Positions (n, 2) as (x, y) and descriptors (n, 128) of a section; RootSIFT (Arandjelović and Zisserman 2012)."""
    import cv2

    smooth = cv2.GaussianBlur(section, (0, 0), SIFT["blur_px"])
    found, descriptors = cv2.SIFT_create(nfeatures=SIFT["features"]).detectAndCompute(smooth, None)
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 128), dtype=np.float32)
    root = np.sqrt(descriptors / (descriptors.sum(axis=1, keepdims=True) + 1e-7))
    return np.array([k.pt for k in found], dtype=np.float64), root.astype(np.float32)


def similarity(*, fixed: tuple[AnyArray, AnyArray], moving: tuple[AnyArray, AnyArray]) -> Float64Array:
    """The 3 × 3 map, in (x, y), from the fixed section to the moving one; the identity if too few points agree."""
    import cv2

    if min(len(fixed[0]), len(moving[0])) < SIFT["least_inliers"]:
        return np.eye(3)
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(fixed[1], moving[1], k=2)
    good = [a for a, b in pairs if a.distance < SIFT["ratio"] * b.distance]
    if len(good) < SIFT["least_inliers"]:
        return np.eye(3)
    matrix, inliers = cv2.estimateAffinePartial2D(
        fixed[0][[m.queryIdx for m in good]],
        moving[0][[m.trainIdx for m in good]],
        method=cv2.RANSAC,
        ransacReprojThreshold=SIFT["ransac_px"],
        maxIters=20000,
        confidence=0.999,
    )
    if matrix is None or int(inliers.sum()) < SIFT["least_inliers"]:
        return np.eye(3)
    return np.vstack([matrix, [0.0, 0.0, 1.0]])
