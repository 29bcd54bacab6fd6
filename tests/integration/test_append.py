"""Sections that are appended to a run: what is finished stays, and the result does not depend on the batches."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.spoilt.stacks import deform_stack, load_stack
from ssem_dask.driver.append import plan_append
from ssem_dask.driver.rerun import Selection, plan_rerun, verify_run
from ssem_dask.driver.run_extent import locked_sections
from ssem_dask.driver.run_status import run_status
from ssem_dask.errors import SourceError
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.types import AnyArray
from tests.support.appended_runs import align, assert_same, extend, few_sections, read
from tests.support.cli import ssem_dask
from tests.support.fixed_runs import write_stack

FITTED, MIDDLE, ALL = 18, 24, 27
SIDE = 64


@pytest.fixture(scope="module")
def images() -> AnyArray:
    return deform_stack(load_stack("phantom", sections=ALL, size=SIDE, data=Path()), seed=5).images


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    yield from few_sections()


@pytest.fixture(scope="module")
def sources(images: AnyArray, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("sources")
    return {n: write_stack(folder / f"{n}.zarr", images[:n]) for n in (FITTED, MIDDLE, ALL)}


@pytest.fixture(scope="module")
def first(sources: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return align(sources[FITTED], tmp_path_factory.mktemp("first") / "run.zarr")


@pytest.fixture(scope="module")
def grown(first: str, sources: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run with all sections appended at once."""
    output = str(tmp_path_factory.mktemp("grown") / "run.zarr")
    shutil.copytree(first, output)
    assert extend(output, sources[ALL])[1].state == "complete"
    return output


def copy(run: str, folder: Path) -> str:
    return str(shutil.copytree(run, folder / "run.zarr"))


def test_finished_sections_are_locked_and_batches_do_not_matter(
    first: str, grown: str, sources: dict[int, str], tmp_path: Path
) -> None:
    output = copy(first, tmp_path)
    before = {path: read(output, path) for path in ("fields/section", "aligned/0")}
    planned, summary = extend(output, sources[MIDDLE])
    assert (summary.state, planned.locked, planned.refit) == ("complete", locked_sections(FITTED), "")
    assert planned.locked > 0
    for path, values in before.items():
        np.testing.assert_array_equal(read(output, path)[: planned.locked], values[: planned.locked])
    middle = read(output, "fields/section")
    planned, _ = extend(output, sources[ALL])
    assert planned.locked == locked_sections(MIDDLE) > locked_sections(FITTED)
    np.testing.assert_array_equal(read(output, "fields/section")[: planned.locked], middle[: planned.locked])
    assert np.isfinite(read(output, "fields/section")).all()
    assert_same(output, grown)


def test_a_grown_run_is_whole_and_has_nothing_left_to_do(grown: str, tmp_path: Path) -> None:
    output = copy(grown, tmp_path)
    summary = verify_run(output, executor=SerialExecutor(), observer=SilentObserver())
    assert (summary.state, summary.reasons, summary.failed) == ("complete", [], [])
    again = plan_rerun(output, Selection()).invalidation
    assert not (again.changed)
    assert not (again.dependent)
    assert not (again.obsolete)
    assert run_status(output).state == "complete"
    planned, summary = extend(output, None)
    assert (planned.before, planned.after, summary.state) == (ALL, ALL, "complete")
    assert_same(output, grown)


@pytest.mark.no_cover
def test_settled_it_is_what_one_run_would_be(grown: str, sources: dict[int, str], tmp_path: Path) -> None:
    output = copy(grown, tmp_path)
    planned, summary = extend(output, None, settle=True)
    assert (summary.state, planned.locked) == ("complete", 0)
    whole = align(sources[ALL], tmp_path / "whole.zarr")
    assert_same(output, whole)
    assert json.loads(Path(output, "quality/attention.json").read_text()) == json.loads(
        Path(whole, "quality/attention.json").read_text()
    )
    assert verify_run(output, executor=SerialExecutor(), observer=SilentObserver()).state == "complete"


def test_a_section_is_fixed_in_a_grown_run(grown: str, tmp_path: Path) -> None:
    from ssem_dask.driver.rerun import execute_rerun
    from ssem_dask.driver.run_fixes import GivenFixes

    output = copy(grown, tmp_path)
    fixes = tmp_path / "fixes.toml"
    fixes.write_text("[[section]]\nz = 24\naction = 'exclude'")
    planned = plan_rerun(output, Selection(), fixes=GivenFixes.read(str(fixes)))
    assert execute_rerun(planned, executor=SerialExecutor(), observer=SilentObserver()).state == "complete"
    assert not read(output, "aligned/0")[24].any()
    np.testing.assert_array_equal(read(output, "fields/section")[:16], read(grown, "fields/section")[:16])


def test_other_or_fewer_sections_are_refused(
    first: str, images: AnyArray, sources: dict[int, str], tmp_path: Path
) -> None:
    other = write_stack(tmp_path / "other.zarr", images[::-1])
    with pytest.raises(SourceError, match="is not that of the run"):
        plan_append(first, other)
    with pytest.raises(SourceError, match="has 5 sections, but the run"):
        plan_append(first, write_stack(tmp_path / "few.zarr", images[:5]))


def test_a_second_appender_is_refused(first: str, sources: dict[int, str], tmp_path: Path) -> None:
    output = copy(first, tmp_path)
    with exclusive_driver(output, SerialExecutor()):
        done = ssem_dask("append", output, sources[MIDDLE], "--cluster", "serial")
    assert done.returncode == 2
    assert "at work on this output" in done.stderr


def test_the_command_reports_a_batch(grown: str, tmp_path: Path) -> None:
    output, record_file = copy(grown, tmp_path), tmp_path / "record.json"
    done = ssem_dask("append", output, "--cluster", "serial", "--json", "--notify", f"cat > {record_file}")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads(record_file.read_text())
    assert (record["sections"], record["final"], record["state"]) == (ALL, locked_sections(ALL), "complete")
