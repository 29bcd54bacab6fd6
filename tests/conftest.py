"""Set-up of all tests: checked shapes, examples without a time limit of their own, and fixtures that many tests use.

Examples of laws have no time limit of their own: tests share their cores, and a busy machine is no failure.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

SHAPES_CHECKED = (
    "ssem_dask.composition",
    "ssem_dask.field",
    "ssem_dask.image",
    "ssem_dask.registration.checked_window",
    "ssem_dask.registration.coarse_alignment",
    "ssem_dask.registration.damage",
    "ssem_dask.registration.encoders",
    "ssem_dask.registration.gauss_newton",
    "ssem_dask.registration.methods",
    "ssem_dask.registration.pair_check",
    "ssem_dask.registration.registration_method",
    "ssem_dask.registration.ssemnet",
    "ssem_dask.registration.vector_map",
)
"""Packages whose functions check the shapes and types of their arguments and results while tests run. Triton's kernels
must not be among them: they are compiled from their source."""

# Only modules that are imported after this are checked. `is_pep484_tower` lets an int be given for a float.
install_import_hook(SHAPES_CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

from tests.support.real_data import DATA_DIR  # noqa: E402
from tests.support.runs import simulate_small  # noqa: E402

settings.register_profile("shared cores", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared cores"))


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deformed phantom of 10 sections of 160 × 160 px."""
    return simulate_small(tmp_path_factory.mktemp("volume") / "observed.zarr")


@pytest.fixture(scope="session")
def real_sections() -> Callable[[str], Path]:
    """Return the path of a file of real sections, for example `flyem_fibsem/images.tif`; skip the test without it."""

    def find(name: str) -> Path:
        path = DATA_DIR / name
        if not path.exists():
            pytest.skip(f"{path} does not exist; set SSEM_DATA_DIR to the folder of the real sections")
        return path

    return find
