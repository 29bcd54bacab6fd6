"""A real browser, a real run, and its viewer as a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import ssem_dask
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from tests.support.browser import Watched, open_browser, start_viewer, stop_viewer
from tests.support.runs import SEPARATE


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


@pytest.fixture
def watched(browser: Browser) -> Iterator[Callable[[str], Watched]]:
    contexts = []

    def make(scheme: str = "light") -> Watched:
        context = browser.new_context(viewport={"width": 1300, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        found = Watched(context.new_page())
        found.watch(found.page)
        return found

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An aligned phantom of 10 sections of 256 × 256 px, 3 × 3 windows."""
    folder = tmp_path_factory.mktemp("browser")
    simulate_phantom(
        PhantomConfig(seed=5, shape=(10, 256, 256), oblique=0.0),
        str(folder / "observed.zarr"),
        seed=5,
        deformation=DeformationConfig(shift=8.0, elastic=2.0),
        damage=DamageConfig(),
    )
    output = str(folder / "aligned.zarr")
    assert ssem_dask.align(str(folder / "observed.zarr"), output, cluster="serial", **SEPARATE).state == "complete"
    return output


@pytest.fixture(scope="session")
def report(run: str) -> Path:
    """The report, by the command."""
    page = Path(run).parent / "report.html"
    subprocess.run(
        [sys.executable, "-m", "ssem_dask.cli", "report", run, "--worst", "3", "--file", str(page)], check=True
    )
    return page


@pytest.fixture(scope="session")
def viewer(run: str) -> Iterator[str]:
    """Address of the run's viewer, on the port that it takes by itself."""
    process, address = start_viewer(run)
    yield address
    stop_viewer(process)
