"""The driver's cost for a task, and that what it holds does not grow with the number of tasks."""

import cProfile
import pstats
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.scale import Cluster, simulate_run

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]


def count_calls(folder: Path, *, sections: int) -> tuple[int, int]:
    """Return the tasks of a simulated run, and the function calls, which no machine makes slower."""
    folder.mkdir()
    profile = cProfile.Profile()
    with profile:
        measured = simulate_run(folder, sections=sections, side=100_000, workers=[10], dask_seconds=1e-3, failing=1e-3)
    return measured.tasks, pstats.Stats(profile).total_calls  # type: ignore[attr-defined]  # it has no types


def test_a_driver_does_little_for_a_task(tmp_path: Path) -> None:
    few, calls_of_few = count_calls(tmp_path / "few", sections=32)
    many, calls = count_calls(tmp_path / "many", sections=64)
    assert many > 1.8 * few > 5_000
    # Measured: 230 with the simulation's own calls and those of the second run, under pytest and outside of it, with
    # coverage and without. They take 13 to 18 µs a task (`python -m benchmarks.scale --sections 16`).
    assert (calls - calls_of_few) / (many - few) < 280


def test_a_second_run_does_what_had_failed_alone(tmp_path: Path) -> None:
    measured = simulate_run(tmp_path, sections=120, side=100_000, workers=[10, 1000], dask_seconds=1e-3, failing=1e-3)
    assert measured.tasks > 11_000
    assert 0 < measured.done_again < 0.1 * measured.tasks
    assert measured.clusters[0]["efficiency"] > 0.97
    assert measured.clusters[1]["makespan"] < measured.clusters[0]["makespan"] / 20


def test_memory_of_the_driver_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    def peak(sections: int) -> int:
        folder = tmp_path / str(sections)
        folder.mkdir()
        tracemalloc.start()
        try:
            simulate_run(folder, sections=sections, side=40_000, workers=[100], dask_seconds=1e-3, failing=0.0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(8)  # what is imported and compiled on first use
    assert peak(64) < 1.3 * peak(16) + 1_000_000


def test_workers_that_are_fed_too_slowly_wait() -> None:
    cluster = Cluster(10, overhead=1.0)
    for _ in range(100):
        cluster.do(2.0)
    assert cluster.wait() == 102.0  # a task a second, whatever the workers
