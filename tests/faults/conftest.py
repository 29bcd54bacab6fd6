"""Faults are injected for real: processes are killed, files torn, disks filled, servers answer badly.

Every test ends by comparing the volume with that of a run that nothing disturbed, and says which chunks were redone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ssem_dask as package
from tests.support.faults import FAULT_ROWS, SCHEDULE_SEED, SCHEDULES, SETTINGS, Process
from tests.support.runs import to_toml


@pytest.fixture(scope="session")
def undisturbed(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run that nothing disturbs."""
    output = str(tmp_path_factory.mktemp("undisturbed") / "out.zarr")
    assert package.align(observed, output, cluster="serial", **SETTINGS).state == "complete"
    return output


@pytest.fixture
def config_file(observed: str, tmp_path: Path) -> Path:
    """The settings as a file, with output `tmp_path/out.zarr`."""
    path = tmp_path / "run.toml"
    path.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SETTINGS}))
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts commands; whatever is left of them at the end of the test is killed."""
    started: list[Process] = []

    def begin(*words: str, **options: Any) -> Process:
        started.append(Process(*words, **options))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def pytest_report_header() -> str:
    """Say by which numbers the schedules of `test_schedules` are repeated."""
    return f"random schedules: SCHEDULES={SCHEDULES} SCHEDULE_SEED={SCHEDULE_SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Give the rows of a test to its report, which reaches the process that shows them."""
    FAULT_ROWS.clear()
    try:
        return (yield)
    finally:
        item.user_properties += [("fault", row) for row in FAULT_ROWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Fault → chunks redone → difference to the undisturbed run."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    calls = (report for report in reports if getattr(report, "when", "") == "call")
    rows = [row for report in calls for name, row in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults")
    for fault, again, difference in rows:
        terminalreporter.write_line(f"{fault:<64} {again:>3} redone   {difference}")
