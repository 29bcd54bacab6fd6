"""`--cluster slurm` on a real slurmctld: jobs that end are replaced, and none is ever left behind."""

import json
import shlex
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.clusters.job_record import state_folder
from ssem_dask.runtime.clusters.slurm_cluster import DEATH_TIMEOUT_SECONDS
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.execute import execute
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.location import join
from ssem_dask.task import Outcome
from tests.service.slurm.commands import SITE, Command, jobs, state_of, until
from tests.service.slurm.tasks import tell_own_gpu, wait_a_second
from tests.support.dask_tasks import until_there_are
from tests.support.function_tasks import FunctionTask, running
from tests.support.real_data import REPOSITORY


def site(**slurm: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({**SITE, "slurm": {**SITE["slurm"], **slurm}})


def assert_same(output: str, other: str) -> None:
    for name in ("fields/section", "aligned/0"):
        a, b = (open_array(join(url, name), mode="r")[:] for url in (output, other))
        np.testing.assert_array_equal(a, b)


def ended_well(process: "subprocess.Popen[str]", align: Command) -> dict[str, Any]:
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, align.stderr
    summary: dict[str, Any] = json.loads(out)
    return summary


def test_a_cancelled_job_is_replaced_and_nothing_is_lost(align: Command, tmp_path: Path) -> None:
    process = align.start()
    until(lambda: align.entries() >= 3)
    first = jobs("RUNNING")
    assert len(first) == 2, align.stderr
    victim = min(first)
    subprocess.run(["scancel", victim], check=True)
    until(lambda: len(set(jobs("RUNNING")) - set(first)) == 1)
    summary = ended_well(process, align)
    assert summary["state"] == "complete"
    assert summary["failed"] == []
    assert f"slurm: {victim} ended before the run did; replaced" in align.stderr
    done = align.output.rename(tmp_path / "slurm.zarr")
    align.run("--cluster", "serial", OMP_NUM_THREADS="1")  # as many as a worker's: sums depend on it
    assert_same(str(align.output), str(done))


def test_the_jobs_of_a_driver_that_was_killed_end_and_the_next_one_goes_on(align: Command) -> None:
    process = align.start()
    until(lambda: align.entries() >= 3)
    assert len(jobs()) == 2
    process.kill()
    process.communicate()
    done = align.entries()
    until(lambda: jobs() == {}, seconds=DEATH_TIMEOUT_SECONDS + 20)  # with no other driver to see to it
    summary = align.run()
    assert summary["state"] == "complete"
    assert sum(sum(counts.values()) for counts in summary["counts"].values()) == align.entries() > done


def test_jobs_that_a_killed_driver_left_waiting_are_cancelled_by_the_next_one(align: Command, full_queue: str) -> None:
    process = align.start()
    until(lambda: len(jobs("PENDING")) == 2)
    left = sorted(jobs("PENDING"))
    process.kill()
    process.communicate()
    assert sorted(jobs("PENDING")) == left
    notes: list[str] = []
    with pytest.raises(ConfigError, match="no job started"):
        open_cluster("slurm", workers=1, settings=site().model_copy(update={"wait_minutes": 0.01}), note=notes.append)
    assert notes[0] == f"slurm: cancelled {', '.join(left)}, left behind by a run that was killed"
    assert list(jobs()) == [full_queue]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_stopped_takes_its_jobs_with_it(align: Command, number: signal.Signals) -> None:
    process = align.start()
    until(lambda: align.entries() >= 1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in align.stderr
    assert "Traceback" not in align.stderr


def test_stopped_while_its_jobs_still_wait(align: Command, full_queue: str) -> None:
    process = align.start()
    until(lambda: len(jobs("PENDING")) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(jobs()) == [full_queue]


def test_a_job_that_slurm_refuses_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"SLURM refuses the job \(.*(?i:partition)"):
        open_cluster("slurm", workers=1, settings=site(partition="gold"))


def test_jobs_that_cannot_start_workers_end_the_run_with_their_last_words() -> None:
    with pytest.raises(ConfigError, match=r"jobs ended before a worker reported \(.*: cuda/99 is not here\)"):
        open_cluster("slurm", workers=1, settings=site(prologue=("echo cuda/99 is not here >&2", "exit 1")))


def test_a_job_that_is_too_small_is_never_submitted() -> None:
    with pytest.raises(ConfigError, match=r"2\.00 GB for each .* needs 3\.00 GB"):
        open_cluster("slurm", workers=1, settings=site(), task_memory=3_000_000_000)


def test_waiting_for_the_queue_has_a_limit() -> None:
    settings = site(directives=("--begin=now+1hour",)).model_copy(update={"wait_minutes": 0.05})
    with pytest.raises(ConfigError, match=r"no job started within 0\.05 min"):
        open_cluster("slurm", workers=1, settings=settings)


def test_workers_leave_before_the_walltime_and_their_tasks_are_done_by_others(tmp_path: Path) -> None:
    notes: list[str] = []
    tasks = [FunctionTask(key=f"wait/{i:03d}", output=str(tmp_path), digest="d", pixels=1) for i in range(124)]
    with open_cluster("slurm", workers=2, settings=site(walltime_minutes=1), note=notes.append) as executor:
        before = set(jobs())
        reports = list(executor.map(execute, running(wait_a_second, tasks)))
    assert sorted(report.key for report in reports) == [task.key for task in tasks]
    assert {report.outcome for report in reports} == {Outcome.OK}
    assert len(before) == 2
    assert {state_of(job) for job in before} == {"COMPLETED"}, notes
    assert any("replaced" in note for note in notes)


def test_a_stage_may_have_more_jobs(tmp_path: Path) -> None:
    notes: list[str] = []
    settings = site().model_copy(update={"stage_workers": {"register": 2}})
    with open_cluster("slurm", workers=1, settings=settings, note=notes.append) as executor:
        assert isinstance(executor, DaskExecutor)
        for stage, wanted in (("register", 2), ("render", 1)):
            tasks = until_there_are(wanted, executor, stage=stage, output=tmp_path)
            reports = list(executor.map(execute, running(wait_a_second, tasks)))
            assert {report.outcome for report in reports} == {Outcome.OK}
            assert executor.load().workers == wanted
            until(partial(_has_jobs, wanted))
    assert not any("replaced" in note for note in notes), notes


def _has_jobs(wanted: int) -> bool:
    return len(jobs()) == wanted


def test_each_worker_of_a_job_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    tasks = [FunctionTask(key=f"gpu/{i}", output=str(tmp_path), digest="d", pixels=1) for i in range(4)]
    with open_cluster("slurm", workers=2, settings=site(gpus=2, cores=2)) as executor:
        assert isinstance(executor, DaskExecutor)
        executor.client.wait_for_workers(2, timeout=60)
        reports = list(executor.map(execute, running(tell_own_gpu, tasks)))
        assert len(jobs()) == 1
    assert {report.message for report in reports} == {"0", "1"}


def test_certificates_of_a_run_are_private_and_gone_afterwards(tmp_path: Path) -> None:
    with open_cluster("slurm", workers=1, settings=site()):
        (key,) = (state_folder() / "runs").glob("*/tls/key.pem")
        assert key.stat().st_mode & 0o077 == 0
        (record,) = (state_folder() / "runs").glob("*/jobs.json")
        until(lambda: json.loads(record.read_text())["ids"] == list(jobs()))
    assert not key.exists()


def test_the_driver_runs_inside_a_job_with_the_environment_of_the_checkout(align: Command, tmp_path: Path) -> None:
    script = tmp_path / ".venv" / "bin" / "ssem-dask"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/bash\nexec {shlex.quote(align.words[0])} -m ssem_dask.cli "$@"\n')
    script.chmod(0o755)
    submitted = subprocess.run(
        [
            "sbatch",
            "--parsable",
            "--time=10",
            "--mem=1G",
            str(REPOSITORY / "deploy/slurm/align.sbatch"),
            *align.words[4:],
        ],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
    )
    job = submitted.stdout.strip()
    log = tmp_path / f"ssem-dask-{job}.log"
    until(lambda: state_of(job) in ("COMPLETED", "FAILED"), seconds=120)
    assert state_of(job) == "COMPLETED", log.read_text()
    assert "out.zarr: complete" in log.read_text()
