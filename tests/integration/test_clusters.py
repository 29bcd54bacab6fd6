"""Clusters: who has no certificate is refused, and a cluster that cannot do a run says so before the run begins."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import requests

from ssem_dask.config.schema import cluster_settings, make_config
from ssem_dask.errors import ConfigError
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.assign_gpu import assign_gpu
from ssem_dask.runtime.clusters.certificates import make_certificates
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.clusters.local import start_on_gpus
from ssem_dask.runtime.clusters.scheduler_address import check_versions
from ssem_dask.runtime.clusters.security import VARIABLE
from ssem_dask.runtime.distributed import DaskExecutor
from ssem_dask.runtime.execute import execute
from ssem_dask.task import Outcome, Result, Task
from tests.support.cli import assert_one_sentence, ssem_dask, ssem_dask_process
from tests.support.dask_tasks import until_there_are
from tests.support.function_tasks import FunctionTask, running
from tests.support.runs import SMALL, to_toml


class Cluster:
    """A scheduler and a worker as a user starts them: two commands, and the certificates of one folder."""

    def __init__(self, folder: Path, tls: str) -> None:
        files = ["--tls-ca-file", f"{tls}/ca.pem", "--tls-cert", f"{tls}/cert.pem", "--tls-key", f"{tls}/key.pem"]
        self.port = free_port()
        self.address = f"tls://127.0.0.1:{self.port}"
        self.tls = tls
        self._folder = folder
        self._files = files
        self._processes = [self._start("scheduler", "--protocol", "tls", "--port", str(self.port), "--no-dashboard")]

    def add_worker(self, *words: str) -> None:
        place = ("--local-directory", str(self._folder), "--nthreads", "1", "--no-dashboard")
        self._processes.append(self._start("worker", self.address, *place, *words))

    def _start(self, role: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", role, *words, "--host", "127.0.0.1", *self._files]
        with (self._folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    make_certificates(str(folder / "tls"), days=1)
    started = Cluster(folder, str(folder / "tls"))
    started.add_worker("--memory-limit", "2GB", "--resources", "GPU=1")
    yield started
    started.stop()


def count(task: Task) -> Result:
    return Result(bytes_written=task.pixels)


def ran(executor: Any, output: Path, tasks: int = 3) -> int:
    given = [FunctionTask(key=f"count/{i}", output=str(output), digest="d", pixels=i) for i in range(tasks)]
    with executor:
        return sum(report.outcome is Outcome.OK for report in executor.map(execute, running(count, given)))


def test_with_the_certificates_tasks_run_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    settings = ClusterConfig(tls=cluster.tls, resources={"GPU": 1}, wait_minutes=1)
    assert ran(open_cluster(cluster.address, workers=None, settings=settings), tmp_path) == 3


def test_a_client_without_certificates_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="needs certificates"):
        open_cluster(cluster.address, workers=None)


def test_a_client_with_certificates_of_another_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    make_certificates(str(tmp_path / "other"), days=1)
    with pytest.raises(ConfigError, match="same certificates"):
        open_cluster(cluster.address, workers=None, settings=ClusterConfig(tls=str(tmp_path / "other")))


def test_without_tls_nothing_is_answered(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=rf"speaks TLS; write tls://127\.0\.0\.1:{cluster.port}"):
        open_cluster(f"tcp://127.0.0.1:{cluster.port}", workers=None)


def test_a_server_that_is_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssem_dask.runtime.clusters.scheduler_address.CONNECT_SECONDS", 1)
    make_certificates(str(tmp_path / "tls"), days=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tls://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="sent nothing for 1 s"):
            open_cluster(address, workers=None, settings=ClusterConfig(tls=str(tmp_path / "tls")))


def test_a_local_cluster_refuses_other_users_of_the_machine(tmp_path: Path) -> None:
    with open_cluster("local", workers=1) as executor:
        assert isinstance(executor, DaskExecutor)
        addresses = [executor.client.scheduler.address, *executor.client.scheduler_info()["workers"]]
        assert all(re.match(r"tls://127\.0\.0\.1:", address) for address in addresses), addresses
        assert executor.dashboard is not None
        for address in (*addresses, executor.dashboard):
            with pytest.raises(ConnectionRefusedError):  # a socket on all addresses of this machine would take it
                socket.create_connection(("127.0.0.2", urlparse(address).port or 0), timeout=5)
        for route in ("api/v1/retire_workers", "api/v1/get_workers", "jupyter", "jupyter/lab"):
            for ask in (requests.get, requests.post):
                answer = ask(executor.dashboard.replace("status", route), timeout=20)
                assert answer.status_code in (404, 405), route
        metrics = executor.dashboard.replace("status", "metrics")
        for header, status in (
            ({"Host": "localhost:8787"}, 200),  # through a tunnel
            ({"Host": "evil.example"}, 404),  # a name that resolves to 127.0.0.1
            ({"Host": "127.0.0.1.evil.example"}, 404),
            ({"Origin": "https://evil.example"}, 404),  # as of a web socket that another page opens
            ({"Origin": "null"}, 404),
            ({"Origin": metrics.removesuffix("/metrics")}, 200),
        ):
            assert requests.get(metrics, headers=header, timeout=20).status_code == status, header
        page = executor.dashboard.replace("status", "status/ws")
        assert requests.get(page, headers={"Origin": "https://evil.example"}, timeout=20).status_code == 404
        make_certificates(str(tmp_path), days=1)
        settings = ClusterConfig(tls=str(tmp_path))
        for address in addresses:
            with pytest.raises(ConfigError, match="refuses our certificates"):
                open_cluster(address, workers=None, settings=settings)


def test_a_cluster_without_the_labels_is_named(cluster: Cluster) -> None:
    settings = ClusterConfig(tls=cluster.tls, resources={"GPU": 1, "FPGA": 2}, wait_minutes=0.02)
    with pytest.raises(ConfigError, match=r"none with GPU = 1, FPGA = 2"):
        open_cluster(cluster.address, workers=None, settings=settings)


def test_workers_that_cannot_hold_a_task_are_named(cluster: Cluster) -> None:
    settings = ClusterConfig(tls=cluster.tls)
    with pytest.raises(ConfigError, match=r"2\.00 GB .* needs 3\.00 GB"):
        open_cluster(cluster.address, workers=None, settings=settings, task_memory=3_000_000_000)


def test_waiting_for_workers_has_a_limit(tmp_path: Path) -> None:
    make_certificates(str(tmp_path / "tls"), days=1)
    empty = Cluster(tmp_path, str(tmp_path / "tls"))
    try:
        settings = ClusterConfig(tls=empty.tls, wait_minutes=0.03)
        with pytest.raises(ConfigError, match=r"no workers after 0\.03 min"):
            open_cluster(empty.address, workers=None, settings=settings)
    finally:
        empty.stop()


def versions(**changed: str | None) -> dict[str, Any]:
    packages = {"ssem_dask": "0.1.0", "dask": "2026.8.0", "distributed": "2026.8.0"}
    same = {"host": {"python": "3.11.2.final.0"}, "packages": packages}
    python = changed.pop("python", "3.11.9.final.0")
    return {
        "client": same,
        "scheduler": same,
        "workers": {"tls://10.0.0.7:1": {"host": {"python": python}, "packages": {**packages, **changed}}},
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ssem_dask": "0.0.9"}, r"ssem_dask 0\.0\.9, but this client has ssem_dask 0\.1\.0"),
        ({"ssem_dask": None}, "ssem_dask missing"),
        ({"python": "3.12.1.final.0"}, r"python 3\.12, but"),
    ],
)
def test_other_versions_are_named(changed: dict[str, str | None], named: str) -> None:
    check_versions(versions(), "tls://x:1")
    with pytest.raises(ConfigError, match=rf"worker tls://10\.0\.0\.7:1 has {named}"):
        check_versions(versions(**changed), "tls://x:1")


@pytest.fixture(scope="module")
def on_gpus() -> Iterator[DaskExecutor]:
    """A worker for each of two made-up GPUs, and one without; the names are all that is made up."""
    with start_on_gpus(["0", "GPU-5f3a"]) as executor:
        executor.client.wait_for_workers(3, timeout=60)
        yield executor


def test_each_gpu_has_a_worker_that_sees_no_other(on_gpus: DaskExecutor) -> None:
    client = on_gpus.client
    seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    workers = client.scheduler_info(n_workers=-1)["workers"]
    gpus = {seen[address]: worker for address, worker in workers.items() if worker["resources"] == {"GPU": 1}}
    assert sorted(gpus) == ["0", "GPU-5f3a"]
    assert {worker["nthreads"] for worker in gpus.values()} == {3}
    others = [address for address, worker in workers.items() if not worker["resources"]]
    assert {seen[address] for address in others} == {""}
    assert len(others) == max(1, len(os.sched_getaffinity(0)) - 6)


def tell_gpu(task: Task) -> Result:
    """Which GPU it sees."""
    time.sleep(0.3)
    return Result(message=os.environ["CUDA_VISIBLE_DEVICES"])


def gpus_seen(executor: DaskExecutor, stage: str, tmp_path: Path, tasks: int, *, uses_gpu: bool) -> set[str]:
    fields: dict[str, Any] = {"output": str(tmp_path), "digest": "d", "pixels": 1, "uses_gpu": uses_gpu}
    given = [FunctionTask(key=f"{stage}/{i}", **fields) for i in range(tasks)]
    reports = list(executor.map(execute, running(tell_gpu, given)))
    assert len(reports) == tasks
    return {report.message for report in reports}


def test_tasks_that_compute_on_a_gpu_go_where_one_is_and_others_anywhere(on_gpus: DaskExecutor, tmp_path: Path) -> None:
    assert gpus_seen(on_gpus, "register", tmp_path, 18, uses_gpu=True) == {"0", "GPU-5f3a"}
    assert gpus_seen(on_gpus, "downsample", tmp_path, 18, uses_gpu=False) == {"", "0", "GPU-5f3a"}


_inside: set[int] = set()
"""Threads of this process that run `meet_two_others` now."""
_MET = threading.Event()


def meet_two_others(task: Task) -> Result:
    """Ends at once when three are inside of the same process, else after a while."""
    _inside.add(threading.get_ident())
    deadline = time.monotonic() + 30
    while not _MET.is_set() and time.monotonic() < deadline:
        if len(_inside) >= 3:
            _MET.set()
        time.sleep(0.01)
    _inside.discard(threading.get_ident())
    return Result(message=f"{os.environ['CUDA_VISIBLE_DEVICES']} {_MET.is_set()}")


def test_tasks_of_one_gpu_overlap(on_gpus: DaskExecutor, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"output": str(tmp_path), "digest": "d", "pixels": 1, "uses_gpu": True}
    given = [FunctionTask(key=f"register/{i}", **fields) for i in range(18)]
    reports = list(on_gpus.map(execute, running(meet_two_others, given)))
    assert {report.message for report in reports} == {"0 True", "GPU-5f3a True"}


def test_workers_of_local_see_no_gpu() -> None:
    with open_cluster("local", workers=1) as executor:
        assert isinstance(executor, DaskExecutor)
        assert set(executor.client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values()) == {""}


def wait(task: Task) -> Result:
    time.sleep(0.2)
    return Result()


def test_a_stage_may_have_more_workers(tmp_path: Path) -> None:
    with open_cluster("local", workers=1, settings=ClusterConfig(stage_workers={"register": 3})) as executor:
        assert isinstance(executor, DaskExecutor)
        for stage, wanted in (("coarse", 1), ("register", 3), ("compose", 1)):
            tasks = until_there_are(wanted, executor, stage=stage, output=tmp_path)
            reports = list(executor.map(execute, running(wait, tasks)))
            assert {report.outcome for report in reports} == {Outcome.OK}
            assert executor.load().workers == wanted


def test_what_cannot_be_resized_is_one_sentence(cluster: Cluster) -> None:
    for name in ("serial", "local-gpu", cluster.address):
        with pytest.raises(ConfigError, match="cannot be resized"):
            open_cluster(name, workers=None, settings=ClusterConfig(stage_workers={"register": 3}))


def test_stages_with_workers_are_those_of_the_pipeline() -> None:
    with pytest.raises(ConfigError, match="stage_workers names no stage by 'rigister'"):
        make_config({"source": "a", "output": "b", "cluster": {"stage_workers": {"rigister": 3}}})


def test_local_gpu_without_a_gpu_is_one_sentence() -> None:
    import torch

    if torch.cuda.device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        open_cluster("local-gpu", workers=None)


def test_a_file_describes_the_cluster(cluster: Cluster, observed: str, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(f'[cluster]\nname = "{cluster.address}"\ntls = "{cluster.tls}"\n')
    run = tmp_path / "run.toml"
    run.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SMALL}))
    ended = ssem_dask_process("run", str(run), "--cluster", str(site))
    assert ended.returncode == 0, ended.stderr


def test_a_cluster_file_with_a_misspelt_key_is_one_sentence(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[cluster]\nname = "local"\nworker = 2\n')
    with pytest.raises(ConfigError, match="did you mean 'workers'"):
        cluster_settings(str(site), workers=None, table=ClusterConfig())


def test_certs_is_a_command_and_its_mistakes_are_one_sentence(
    observed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ssem_dask("certs", str(tmp_path / "tls"), "--days", "3", "--json")
    assert made.returncode == 0, made.stderr
    assert_one_sentence(ssem_dask("certs", str(tmp_path / "tls")), naming="already")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    asked = ssem_dask("align", observed, str(tmp_path / "out.zarr"), "--cluster", "tls://127.0.0.1:9")
    assert_one_sentence(asked, naming="ca.pem is not there")


@pytest.mark.parametrize(
    ("worker", "gpus", "own"),
    [("job-3-1", ["0", "1"], "1"), ("alone", ["GPU-5f3a"], "GPU-5f3a"), ("2", ["4", "5", "6"], "6")],
)
def test_workers_that_share_gpus_take_one_each(worker: str, gpus: list[str], own: str) -> None:
    assert assign_gpu(worker, gpus) == own


def test_a_worker_without_a_gpu_of_its_own_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="GPU number 2, but only 2"):
        assign_gpu("job-3-2", ["0", "1"])


def test_slurm_where_there_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch, squeue, scancel not found"):
        open_cluster("slurm", workers=None)
