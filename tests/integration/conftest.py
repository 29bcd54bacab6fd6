"""A small simulated volume, and a configuration that cuts it into many tasks and registers it quickly."""

from pathlib import Path
from typing import Any

import pytest

from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig

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
"""The same with the default modes."""


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deformed phantom of 10 sections of 160 × 160 px."""
    url = tmp_path_factory.mktemp("volume") / "observed.zarr"
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


@pytest.fixture
def config_file(observed: str, tmp_path: Path) -> Path:
    """The small configuration as a file, with output `tmp_path/out.zarr`."""
    path = tmp_path / "run.toml"
    path.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SMALL}))
    return path
