"""The plugin in the real napari, with a real window on a virtual screen; `make test-napari` brings all of it."""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support.fabricated_run import Fabricated
from tests.support.spoilt_run import fabricate_spoilt_run

_SECONDS = 60.0


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    if find_spec("napari") is None:
        pytest.fail("napari is not installed; 'make test-napari' installs it")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A run with places that need a look."""
    return fabricate_spoilt_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def viewer(installed: None) -> Iterator[Any]:
    import napari

    shown = napari.Viewer(show=True)
    shown.window.resize(1000, 650)
    yield shown
    shown.close()


@pytest.fixture
def wait() -> Callable[[Callable[[], bool]], None]:
    """Let the window work until a condition holds."""
    from qtpy.QtWidgets import QApplication

    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < end
            QApplication.processEvents()
            time.sleep(0.01)
        QApplication.processEvents()

    return until
