"""FEABAS 3 (Wu, Lichtman et al.): features, block matching on meshes, one elastic system over all sections.

The package from PyPI is the library without its scripts and default configurations. What follows are the steps that its
scripts take for sections of one tile each (`thumbnail_main.py`, `align_main.py`), with the values of its own default
configurations where a length does not depend on the size of the sections.
"""

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.peers.sections import installed, thinned
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray, Float32Array

_SPACING = 8
FEATURES: dict[str, Any] = {
    "affine_only": True,
    "detect_settings": {"sigma": 3.5, "min_spacing": 10, "num_features": 5000},
    "extract_settings": {"proj_num": 6, "beam_num": 8, "beam_wd": 3, "beam_radius": 15},
    "matching_settings": {"exhaustive": True},
    "strain_filter_settings": {"strain_limit": 0.2, "shear_limit": 45, "sample_ratio": 0.05, "inlier_thresh": 0.5},
    "ransac_filter_settings": {"maxiter": 10000, "dis_tol": 4},
}
"""`feature_matching` of `default_thumbnail_configs.yaml`; sections of 450 to 650 px are of the size it is meant for."""
MATCHING: dict[str, Any] = {
    "conf_thresh": 0.25,
    "sigma": 3.5,
    "pad": True,
    "distributor": "cartesian_region",
    "spacings": [100, 40],
    "shrink_factor": 2.0,
    "residue_mode": "huber",
    "min_boundary_distance": 20,
    "allow_dwell": 1,
}
"""`matching` of `default_alignment_configs.yaml`, but for what belongs to far larger sections: its blocks would
leave one a section. Blocks of 200, then 80 px (400 nm, twice their distance) find as much as they need to be distinct:
with blocks of 50 px and the default threshold of 0.35 twice as much error remained on sections that no figure is of."""
OPTIMISATION: dict[str, Any] = {
    "mesh_px": 32,
    "compare_distance": 2,
    "matching_residue_sections": 2.0,
    "residue_sections": 3.0,
    "elastic_params": {"tol": 1.0e-7, "atol": 0.001, "stiffness_lambda": 0.3},
}
"""`mesh_px`: default 100 of a thumbnail, 600 of a full image; distortion here has a wavelength of some 200 px, so the
mesh is finer, and softer than by default (1.0). Residues beyond `…_residue_sections` section thicknesses lose weight
(Huber), as by default."""


@dataclass(frozen=True)
class Feabas:
    """All sections in one system, each matched to the two before it."""

    name: str = "feabas"
    title: str = "FEABAS 3"

    def versions(self) -> dict[str, str]:
        """The package."""
        return installed("feabas")

    def settings(self) -> dict[str, Any]:
        """See `FEATURES`, `MATCHING` and `OPTIMISATION`."""
        return {"features": FEATURES, "matching": MATCHING, "optimisation": OPTIMISATION}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Match, optimise, read the fields of the meshes."""
        sections = scene.read()
        info = Volume.open(scene.url).info
        thickness = info.section_thickness / info.pixel_size
        shape = (sections.shape[1], sections.shape[2])
        # The library looks for its general configuration where the process is when it is imported.
        (folder / "configs").mkdir()
        (folder / "configs" / "general_configs.yaml").write_text(
            f"working_directory: {folder}\nparallel_framework: process\ncpu_budget: 1\n"
            f"full_resolution: {info.pixel_size}\nsection_thickness: {info.section_thickness}\n"
        )
        with contextlib.chdir(folder):
            meshes = _optimised(sections, thickness=thickness)
            return SectionFields(np.stack([_field(mesh, shape_yx=shape) for mesh in meshes]), _SPACING)


def _optimised(sections: AnyArray, *, thickness: float) -> list[Any]:
    """Meshes of all sections, optimised; `thickness` of a section in px."""
    from feabas import constant, optimizer
    from feabas.mesh import Mesh

    _, height, width = sections.shape
    meshes = [
        Mesh.from_bbox((0, 0, width, height), mesh_size=OPTIMISATION["mesh_px"], uid=float(z), name=str(z))
        for z in range(len(sections))
    ]
    system = optimizer.SLM(meshes, stiffness_lambda=OPTIMISATION["elastic_params"]["stiffness_lambda"])
    for (z, other), found in _matches(sections, meshes, thickness=thickness).items():
        system.add_link_from_coordinates(
            float(z), float(other), found[0], found[1], weight=found[2], strain=found[3], check_duplicates=False
        )
    # As Stack.optimize_section_list: rigid, elastic, weaken what does not fit, elastic again.
    moving, fixed = constant.MESH_GEAR_MOVING, constant.MESH_GEAR_FIXED
    elastic = {k: v for k, v in OPTIMISATION["elastic_params"].items() if k != "stiffness_lambda"}
    system.optimize_affine_cascade(target_gear=moving)
    system.anneal(gear=(moving, fixed), mode=constant.ANNEAL_CONNECTED_RIGID)
    system.optimize_elastic(target_gear=moving, **elastic)
    system.set_link_residue_huber(OPTIMISATION["residue_sections"] * thickness)
    modified, _ = system.adjust_link_weight_by_residue(gear=(moving, moving), relax_first=True)
    if modified:
        system.optimize_elastic(target_gear=moving, **elastic)
    _to_frame_of(meshes[len(meshes) // 2], meshes)
    return meshes


def _matches(sections: AnyArray, meshes: list[Any], *, thickness: float) -> dict[tuple[int, int], Any]:
    """Matching points of all pairs that have any: xy in both, weights, strain."""
    from feabas import common, thumbnail
    from feabas.dal import StreamLoader
    from feabas.matcher import section_matcher

    prepared = [thumbnail.prepare_image(section, **FEATURES) for section in sections]
    filtered = [common.masked_dog_filter(section, sigma=MATCHING["sigma"]) for section in sections]
    settings = {k: v for k, v in MATCHING.items() if k != "sigma"} | {
        "sigma": 0,  # the images are filtered already
        "residue_len": OPTIMISATION["matching_residue_sections"] * thickness,
    }
    found = {}
    for z, distance in itertools.product(range(len(sections)), range(1, OPTIMISATION["compare_distance"] + 1)):
        other = z + distance
        if other >= len(sections):
            continue
        first = thumbnail.match_two_thumbnails_LRadon(prepared[z], prepared[other], **FEATURES)
        if first is None:
            continue
        loaders = [StreamLoader(filtered[i], resolution=meshes[i].resolution) for i in (z, other)]
        xy0, xy1, weight, strain = section_matcher(
            meshes[z].copy(), meshes[other].copy(), *loaders, initial_matches=first, **settings
        )
        if xy0 is not None:
            found[z, other] = (xy0, xy1, weight, strain)
    return found


def _to_frame_of(middle: Any, meshes: list[Any]) -> None:
    """Rotate and shift all meshes alike so that one of them stays in its place in the mean: only the common frame."""
    from feabas import constant, spatial

    moved = middle.vertices_w_offset(gear=constant.MESH_GEAR_MOVING)
    place = middle.vertices_w_offset(gear=constant.MESH_GEAR_INITIAL)
    rigid = spatial.fit_affine(place, moved, svd_clip=(1, 1))
    for mesh in meshes:
        mesh.apply_affine(rigid, gear=constant.MESH_GEAR_MOVING)


def _field(mesh: Any, *, shape_yx: tuple[int, int]) -> Float32Array:
    from feabas.renderer import MeshRenderer

    height, width = shape_yx
    x, y, known = MeshRenderer.from_mesh(mesh).crop_field((0, 0, width, height))
    field = np.stack([y - np.arange(height)[:, None], x - np.arange(width)[None, :]])
    return thinned(np.where(known, field, np.nan), spacing=_SPACING)
