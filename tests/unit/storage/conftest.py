import uuid
from pathlib import Path

import pytest

from ssem_dask.storage import location


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path):
    """An empty location, once as a path and once as a URL."""
    if request.param == "local":
        yield str(tmp_path / "place")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    location.delete(url, recursive=True)
