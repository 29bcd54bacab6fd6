"""Names of the jobs of a SLURM cluster, and the modules that their workers load; no job is submitted."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed.security import Security

from ssem_dask.runtime.clusters import slurm_cluster
from ssem_dask.runtime.clusters.cluster_config import SlurmConfig


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **table: Any) -> dict[str, Any]:
    """Settings of the cluster."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(slurm_cluster, "ReplacingCluster", lambda **options: given.update(options))
    config = SlurmConfig.model_validate({"cores": 4, "memory": "8 GB", **table})
    slurm_cluster.make_cluster(config, name="ssem-run-7", security=Security(), logs=tmp_path)
    return given


@pytest.mark.parametrize("table", [{}, {"gpus": 1}])
def test_jobs_bear_the_name_that_they_are_found_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: dict[str, Any]
) -> None:
    """`squeue` and `scancel` are asked by it."""
    given = asked(monkeypatch, tmp_path, **table)
    assert (given["name"], given["job_name"]) == ("ssem-run-7", "ssem-run-7")


def test_workers_with_a_gpu_take_one_and_then_load_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = asked(monkeypatch, tmp_path, gpus=2)["worker_extra_args"]
    loaded = [value for option, value in pairwise(arguments) if option == "--preload"]
    assert loaded == [f"ssem_dask.runtime.clusters.{name}" for name in ("assign_gpu", "warm_gpu")]
    assert "--preload" not in asked(monkeypatch, tmp_path)["worker_extra_args"]
