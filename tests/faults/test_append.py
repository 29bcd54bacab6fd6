"""An append that is killed at any moment is completed by the same command, with the same result."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.spoilt.stacks import load_stack
from ssem_dask.driver.rerun import verify_run
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.storage import location
from tests.support.appended_runs import (
    InterruptedExecutor,
    align,
    assert_same,
    extend,
    extend_until_killed,
    few_sections,
)
from tests.support.fixed_runs import write_stack

FITTED, ALL = 17, 21
KILLS = 0, 3, 40, 110, 160, 90
"""Changes of files that each of the killed processes makes; an append that nothing disturbs makes 527."""


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    yield from few_sections()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """The run before, the run with all sections appended, and their source."""
    folder = tmp_path_factory.mktemp("runs")
    images = load_stack("phantom", sections=ALL, size=64, data=Path()).images
    source = write_stack(folder / "all.zarr", images)
    before = align(write_stack(folder / "first.zarr", images[:FITTED]), folder / "before.zarr")
    after = str(shutil.copytree(before, folder / "after.zarr"))
    assert extend(after, source)[1].state == "complete"
    return before, after, source


def assert_completed(output: str, after: str, source: str) -> None:
    assert extend(output, source)[1].state == "complete"
    assert_same(output, after)
    assert verify_run(output, executor=SerialExecutor(), observer=SilentObserver()).state == "complete"


def test_killed_again_and_again(runs: tuple[str, str, str], tmp_path: Path) -> None:
    before, after, source = runs
    output = str(shutil.copytree(before, tmp_path / "run.zarr"))
    for changes in KILLS:
        extend_until_killed(output, source, changes)
    assert_completed(output, after, source)


@pytest.mark.parametrize("tasks", [9])
def test_killed_between_tasks(runs: tuple[str, str, str], tmp_path: Path, tasks: int) -> None:
    before, after, source = runs
    output = str(shutil.copytree(before, tmp_path / "run.zarr"))
    with pytest.raises(KeyboardInterrupt):
        extend(output, source, executor=InterruptedExecutor(tasks))
    assert_completed(output, after, source)


@pytest.mark.parametrize("moves", [3])
def test_killed_while_arrays_get_other_files(
    runs: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    before, after, source = runs
    output, left = str(shutil.copytree(before, tmp_path / "run.zarr")), [moves]

    def move(url: str, *, to: str) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        moved(url, to=to)

    moved = location.move_or_copy
    with monkeypatch.context() as patch:
        patch.setattr(location, "move_or_copy", move)
        with pytest.raises(KeyboardInterrupt):
            extend(output, source)
    assert_completed(output, after, source)
