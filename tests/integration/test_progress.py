"""Progress of real runs: events, metrics beside Dask's dashboard, and a run that is watched from elsewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import requests
from typer.testing import CliRunner

from ssem_dask.cli.app import app
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.events import SilentObserver, StageStarted
from ssem_dask.runtime.progress import PublishingObserver
from ssem_dask.task import Outcome, TaskReport
from tests.support.runs import SMALL, to_toml


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ssem_dask.cli", *words]


def test_metrics_lie_beside_the_dashboard() -> None:
    with open_cluster("local", workers=1) as executor:
        assert executor.dashboard is not None
        observer = PublishingObserver(SilentObserver(), executor)
        observer.stage_started(StageStarted(stage="render", tasks=7, pixels=700, done_tasks=2, done_pixels=200))
        observer.task_ended(
            TaskReport(key="render/a", digest="", outcome=Outcome.OK, pixels=100, bytes_read=11, bytes_written=12)
        )
        observer.stage_ended("render")
        assert requests.get(executor.dashboard, timeout=20).status_code == 200
        text = requests.get(executor.dashboard.removesuffix("/status") + "/metrics", timeout=20).text
    for line in (
        'ssem_dask_tasks{stage="render"} 7.0',
        'ssem_dask_tasks_done{stage="render"} 3.0',
        'ssem_dask_read_bytes{stage="render"} 11.0',
        'ssem_dask_written_bytes{stage="render"} 12.0',
        "ssem_dask_workers 1.0",
    ):
        assert line in text, line
    assert "dask_scheduler_workers" in text


def test_a_run_is_watched_from_another_process(observed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": output, **SMALL}))
    with subprocess.Popen(
        command("run", str(config), "--cluster", "local", "--workers", "1", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        assert run.stdout is not None
        first = []
        for line in run.stderr:
            first.append(json.loads(line))
            if first[-1]["event"] == "stage_started":
                break
        # In this process, which is at once there: the run must not be over before somebody watches.
        watched = CliRunner().invoke(app, ["status", output, "--watch", "--interval", "0.3", "--json"])
        assert watched.exit_code == 0, watched.stderr
        rest = [json.loads(line) for line in run.stderr.read().splitlines()]
        summary = json.loads(run.stdout.read())
        assert run.wait() == 0
    events = [*first, *rest]
    assert re.search(r"http://127\.0\.0\.1:\d+/status", events[0]["message"])
    assert [e["stage"] for e in events if e["event"] == "stage_started"] == list(summary["counts"])
    last = [e for e in events if e["event"] == "stage_ended"]
    assert all(e["done"] == e["tasks"] and e["seconds_left"] == 0.0 for e in last if e["pixels"])
    assert {e["workers"] for e in last} == {1}
    looks = [json.loads(line) for line in watched.stderr.splitlines()]
    assert looks[0]["state"] == "running"
    assert looks[-1]["state"] == "complete"
    totals = [sum(stage["done"] for stage in look["stages"]) for look in looks]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1] == sum(stage["tasks"] for stage in looks[-1]["stages"])
    assert json.loads(watched.stdout)["state"] == "complete"


def test_watching_a_run_that_has_ended_tells_at_once(observed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": output, **SMALL}))
    subprocess.run(command("run", str(config), "--cluster", "serial"), check=True, capture_output=True)
    for words in (("--watch",), ("--watch", "--json")):
        ended = subprocess.run(
            command("status", output, *words), capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == 0, words
        assert "complete" in ended.stdout, words
