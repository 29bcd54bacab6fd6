"""A cluster brought up by docker-compose from a copy of the shipped files; run.sh has made the images."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.service.compose.engine import Compose


def pytest_runtest_setup() -> None:
    """End the session if the service is absent; collecting the tests needs no service."""
    if "SSEM_IMAGE" not in os.environ:
        pytest.exit("tests/service/compose needs images: run them by `make test-compose`", returncode=2)


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The cluster with two workers, up and healthy; afterwards nothing of it is left."""
    made = Compose(tmp_path_factory.mktemp("compose"))
    try:
        made.refused = made("up", "-d", "--no-build", check=False)  # type: ignore[attr-defined]
        subprocess.run(["deploy/compose/secrets.sh"], cwd=made.folder, env=made.environment, check=True)
        made.up(workers=2)
        yield made
    finally:
        made("down", "--volumes", "--timeout", "2", check=False)
