"""Tasks take the memory that `plan` states, and a plan that no worker could hold is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.errors import ConfigError, PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime import clusters
from ssem_dask.runtime.clusters import local, refuse_small_workers
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.stages import render
from ssem_dask.stages.warped_volume import Warping, task_boxes
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SMALL, to_toml

SETTINGS = {
    "register": {"window": 512, "halo": 64, "neighbours": 1},
    "compose": {"relax": {"neighbours": 1}},
    "render": {"shard": [8, 512, 512]},  # so that stage downsample has something to do
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from /proc")
def test_stated_and_measured_peak_memory_agree_in_every_stage() -> None:
    words = [sys.executable, "-m", "benchmarks.memory", "--side", "1024", "--settings", json.dumps(SETTINGS)]
    # Dask leaves its workers' way of giving memory back in the environment of who started some, as other tests here do.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ended = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert set(found) >= {"coarse", "calibrate", "register", "compose", "render", "downsample", "measure", "process"}
    ratios = {stage: row["stated"] / row["measured"] for stage, row in found.items()}
    assert not {stage: ratio for stage, ratio in ratios.items() if not 1 / 1.5 < ratio < 1.5}


def test_workers_of_this_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MEMORY_LIMIT", 8_000_000_000)
    refuse_small_workers("local", workers=4, settings=ClusterConfig(), task_memory=2_000_000_000)
    with pytest.raises(ConfigError, match=r"each worker has 1\.60 GB .* needs 2\.00 GB; use fewer --workers"):
        refuse_small_workers("local", workers=5, settings=ClusterConfig(), task_memory=2_000_000_000)
    grown = ClusterConfig.model_validate({"stage_workers": {"register": 5}})
    with pytest.raises(ConfigError, match=r"each worker has 1\.60 GB"):
        refuse_small_workers("local", workers=2, settings=grown, task_memory=2_000_000_000)


def test_tasks_that_share_a_gpus_worker_must_fit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MEMORY_LIMIT", 32_000_000_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(clusters, "visible_gpus", lambda: ["0"])

    def refuse(task_memory: int, **table: int) -> None:
        refuse_small_workers(
            "local-gpu", workers=None, settings=ClusterConfig.model_validate(table), task_memory=task_memory
        )

    refuse(6_000_000_000)  # shares of 2 GB, three of them a worker's
    with pytest.raises(ConfigError, match=r"each worker with a GPU has 6\.00 GB .* needs 6\.10 GB; use a machine"):
        refuse(6_100_000_000)
    with pytest.raises(ConfigError, match=r"each worker with a GPU has 3\.84 GB"):
        refuse(4_000_000_000, gpu_workers=8)  # shares of 1.28 GB


@pytest.mark.parametrize(
    ("card", "task", "workers"),
    [(180, 5, 16), (80, 5, 7), (48, 5, 4), (33, 5, 3), (24, 5, 1), (8, 5, 1), (24, 0, 16), (None, 5, 16)],
)
def test_no_more_workers_share_a_gpu_than_its_memory_holds(
    monkeypatch: pytest.MonkeyPatch, card: int | None, task: int, workers: int
) -> None:
    """A worker has its tasks and what CUDA takes; one worker there always is, and halves what does not fit."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(local, "gpu_memory", lambda: None if card is None else card * 10**9)
    shares = local.shares_on_gpus(1, per_gpu=None, task_gpu_memory=task * 10**9)
    assert shares.per_gpu == workers
    assert shares.threads == (1 if workers > 1 else 3)  # tasks that keep a GPU busy
    assert local.shares_on_gpus(1, per_gpu=2, task_gpu_memory=task * 10**9).per_gpu == 2


def test_plan_refuses_jobs_whose_workers_are_too_small(observed: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    cluster = {"name": "slurm", "slurm": {"cores": 4, "memory": "1 GB"}}
    config.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), "cluster": cluster, **SMALL}))
    assert_one_sentence(ssem_dask("plan", str(config)), naming="0.25 GB for each of a job's 4 threads")
    printed = json.loads(ssem_dask("plan", str(config), "--cluster", "serial", "--json").stdout)
    assert printed["worker_memory"] > max(stage["memory"] for stage in printed["stages"].values())
    assert all(stage["requests"] > stage["files"] for stage in printed["stages"].values())
    assert not (tmp_path / "out.zarr").exists()


def test_plan_refuses_tasks_that_share_a_shard(observed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"source": observed, "output": "memory://never-made.zarr", **SMALL}
    plan(make_config(tree))

    def halved(warping: Warping) -> Iterator[tuple[str, Box]]:
        z, y, x = warping.config.shard
        narrow = warping.config.model_copy(update={"shard": (z, y, x // 2)})
        return task_boxes(replace(warping, config=narrow))

    monkeypatch.setattr(render, "task_boxes", halved)
    with pytest.raises(PlanError, match="another task could write the same file"):
        plan(make_config(tree))
