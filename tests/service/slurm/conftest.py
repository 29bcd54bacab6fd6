"""A real SLURM is running (see run.sh); here are a volume, a configuration, and what SLURM says of jobs."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssem_dask.runtime.clusters.job_record import state_folder
from tests.service.slurm.commands import SITE, Command, jobs, until
from tests.support.runs import SMALL, to_toml


@pytest.fixture(autouse=True)
def no_job_is_left() -> Iterator[None]:
    """Whatever a test did: afterwards SLURM has no job, and no driver's record is kept."""
    yield
    deadline = time.monotonic() + 15  # SLURM itself takes a moment to complete a job
    while (left := jobs()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for job in left:
        subprocess.run(["scancel", job], check=False)
    assert left == {}
    assert list((state_folder() / "runs").glob("*")) == []


@pytest.fixture
def align(observed: str, tmp_path: Path) -> "Command":
    """`ssem-dask align` of the small volume to `tmp_path/out.zarr` in jobs of this SLURM."""
    config = tmp_path / "run.toml"
    config.write_text(to_toml({**SMALL, "cluster": SITE}))
    return Command(observed, tmp_path / "out.zarr", "--config", str(config))


@pytest.fixture
def full_queue() -> Iterator[str]:
    """A job that holds both nodes, so that others wait; its id."""
    words = ["sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 300"]
    job = subprocess.run(words, text=True, capture_output=True, check=True).stdout.strip()
    until(lambda: jobs().get(job) == "RUNNING")
    yield job
    subprocess.run(["scancel", job], check=True)


def pytest_runtest_setup() -> None:
    """End the session if the service is absent; collecting the tests needs no service."""
    if "SLURM_CONF" not in os.environ:
        pytest.exit("tests/service/slurm needs its own SLURM: run them by `make test-slurm`", returncode=2)
