"""Processes are killed: workers in every stage, the scheduler, the driver; and two drivers meet."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssem_dask.stages.pipeline_order import STAGES
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.faults import Cluster, Process, assert_undisturbed, children, entries, kill, redone, written

Start = Callable[..., Process]


def workers(process: Process) -> list[int]:
    """The worker processes of a local cluster: they are forked from the server, which looks like them."""
    servers = [child for child in children(process.popen.pid) if "forkserver" in command_of(child)]
    return [child for server in servers[:1] for child in children(server)]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_a_worker_is_killed_in_every_stage(undisturbed: str, config_file: Path, start: Start) -> None:
    output = config_file.parent / "out.zarr"
    process = start("run", str(config_file), "--cluster", "local", "--workers", "2")
    moments = random.Random(5)
    killed: list[str] = []
    for stage in STAGES:
        process.wait_for(lambda: process.reported(f"{stage.name}: "), every=0.002)  # noqa: B023
        process.wait_for(lambda: bool(workers(process)), every=0.002)
        if not process.reported(f"{stage.name}: {len(entries(undisturbed))}"):
            kill(moments.choice(workers(process)))
            killed.append(stage.name)
    assert process.end() == 0, process.errors
    assert killed == [stage.name for stage in STAGES]
    assert_undisturbed(output, undisturbed, fault="a worker killed in every stage", redone=0)


def test_workers_are_replaced_when_the_process_they_are_forked_from_is_killed(
    undisturbed: str, config_file: Path, start: Start
) -> None:
    output = config_file.parent / "out.zarr"
    process = start("run", str(config_file), "--cluster", "local", "--workers", "2")
    process.wait_for(lambda: process.reported("register: "), every=0.01)
    (server, *_) = (child for child in children(process.popen.pid) if "forkserver" in command_of(child))
    doomed = workers(process)
    kill(server)
    for worker in doomed:
        kill(worker)
    assert process.end() == 0, process.errors
    assert_undisturbed(output, undisturbed, fault="the server of forks and its workers killed", redone=0)


def test_a_driver_is_killed_and_another_goes_on(undisturbed: str, config_file: Path, start: Start) -> None:
    output = config_file.parent / "out.zarr"
    process = start("run", str(config_file), "--cluster", "local", "--workers", "2")
    process.wait_for(lambda: len(list(output.glob("ledger/register/**/*.json"))) >= 3)
    kill(process.popen.pid)
    process.end()
    before = written(output)
    assert ssem_dask("status", str(output)).returncode == 1
    ended = start("run", str(config_file), "--cluster", "serial")
    assert ended.end() == 0, ended.errors
    assert redone(before, output) == set()
    assert_undisturbed(output, undisturbed, fault="the driver killed in register", redone=0)


def test_a_second_driver_is_refused_until_the_first_is_dead(undisturbed: str, config_file: Path, start: Start) -> None:
    output = config_file.parent / "out.zarr"
    first = start("run", str(config_file), "--cluster", "serial")
    first.wait_for(lambda: len(list(output.glob("ledger/coarse/**/*.json"))) >= 1)
    os.kill(first.popen.pid, signal.SIGSTOP)  # alive, but as slow as can be
    for words in (("run", str(config_file)), ("rerun", str(output), "--failed"), ("verify", str(output))):
        assert_one_sentence(ssem_dask(*words, "--cluster", "serial"), naming="is at work on this output")
    assert first.alive
    kill(first.popen.pid)
    first.end()
    before = written(output)
    third = start("run", str(config_file), "--cluster", "serial")
    assert third.end() == 0, third.errors
    assert redone(before, output) == set()
    assert_undisturbed(output, undisturbed, fault="a second driver, and the first killed", redone=0)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    own = Cluster()
    yield own
    own.stop()


def test_the_scheduler_is_killed_and_started_again(
    undisturbed: str, config_file: Path, start: Start, cluster: Cluster
) -> None:
    output = config_file.parent / "out.zarr"
    process = start("run", str(config_file), "--cluster", cluster.address)
    process.wait_for(lambda: len(list(output.glob("ledger/register/**/*.json"))) >= 2)
    kill(cluster.scheduler.pid)
    cluster.stop()
    before = written(output)
    assert process.alive
    cluster.start()
    assert process.end() == 0, process.errors
    assert redone(before, output) == set()
    assert_undisturbed(output, undisturbed, fault="the scheduler killed in register", redone=0)
