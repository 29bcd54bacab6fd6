"""A small simulated volume, and a configuration that cuts it into many tasks and registers it quickly."""

from pathlib import Path

import pytest

from tests.support.runs import SMALL, to_toml


@pytest.fixture
def config_file(observed: str, tmp_path: Path) -> Path:
    """The small configuration as a file, with output `tmp_path/out.zarr`."""
    path = tmp_path / "run.toml"
    path.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SMALL}))
    return path
