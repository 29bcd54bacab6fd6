"""Set-up of all tests: checked shapes, examples without a time limit of their own, and fixtures that many tests use.

Examples of laws have no time limit of their own: tests share their cores, and a busy machine is no failure.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.checked_shapes import begin_test, check_shapes

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

check_shapes(SHAPES_CHECKED)  # before anything imports them

from tests.support.real_data import DATA_DIR  # noqa: E402
from tests.support.runs import simulate_small  # noqa: E402

settings.register_profile("shared cores", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared cores"))


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check the shapes at every call of laws and of quick unit tests."""
    quick = {"laws", "unit"} & set(item.path.parts) and item.get_closest_marker("slow") is None
    begin_test(every_call=bool(quick))


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
