"""A small simulated volume, configurations that cut it into many tasks, and what a run leaves."""

from pathlib import Path
from typing import Any

import numpy as np

import ssem_dask
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.storage.location import join
from ssem_dask.storage.volume import Volume

SMALL: dict[str, Any] = {
    "coarse": {"sections": "match"},
    "register": {"method": "gauss_newton", "window": 96, "halo": 32, "sections": 4, "neighbours": 2},
    "compose": {"method": "chain", "chain": {"block": 4, "stitch": 2}},
    "render": {"chunk": (4, 64, 64), "shard": (4, 128, 128)},
    "downsample": {"smallest": 64},
}
SEPARATE: dict[str, Any] = {
    **SMALL,
    "coarse": {"sections": "separate"},
    "compose": {"method": "relax"},
}
"""Configuration with the default modes."""


def simulate_small(url: Path) -> str:
    """Make a deformed phantom of 10 sections of 160 × 160 px."""
    simulate_phantom(
        PhantomConfig(seed=3, shape=(10, 160, 160), oblique=0.0),
        str(url),
        seed=3,
        deformation=DeformationConfig(shift=6.0, elastic=2.0),
        damage=DamageConfig(),
    )
    return str(url)


def to_toml(tree: dict[str, Any], path: str = "") -> str:
    """A configuration tree as TOML."""
    lines, tables = [], []
    for key, value in tree.items():
        if isinstance(value, dict):
            inner = f"{path}.{key}".lstrip(".")
            tables.append(f"[{inner}]\n{to_toml(value, inner)}")
        else:
            shown = list(value) if isinstance(value, tuple) else value
            shown = str(shown).lower() if isinstance(shown, bool) else shown
            lines.append(f'{key} = "{shown}"' if isinstance(value, str) else f"{key} = {shown}")
    return "\n".join([*lines, *tables]) + "\n"


def section_fields(output: str) -> np.ndarray[Any, Any]:
    return ssem_dask.open_alignment(output).fields()


def aligned_pixels(output: str) -> np.ndarray[Any, Any]:
    volume = Volume.open(join(output, "aligned"))
    return volume.read(Box((0, 0, 0), volume.info.shape))


def assert_same(output: str, reference: str) -> None:
    np.testing.assert_allclose(section_fields(output), section_fields(reference), atol=1e-3, rtol=0)
    differing = np.abs(aligned_pixels(output).astype(int) - aligned_pixels(reference)) > 1
    assert differing.mean() == 0


SETTINGS: dict[str, dict[str, Any]] = {
    "chain": {**SMALL, "mask": {"detect": True}},
    "relax": {**SEPARATE, "compose": {"method": "relax", "relax": {"keep_natural": True}}},
    "pyramid": {
        **SEPARATE,
        "coarse": {"sections": "separate", "thumbnail": 80},
        "mask": {"detect": True, "mip": 1},
        "register": {**SEPARATE["register"], "mip": 2, "window": 128, "spacing": 16},
        "compose": {"method": "relax", "far": {"distances": [4]}},
        "render": {**SEPARATE["render"], "contrast": "match"},
    },
    "wide": {
        **SEPARATE,
        "compose": {"method": "relax", "relax": {"keep_natural": True, "max_nodes": 16, "tile_nodes": 8}},
        "register": {**SEPARATE.get("register", {}), "spacing": 8},
    },
}
"""Small runs by every method, by name."""
