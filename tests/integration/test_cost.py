"""`plan --cluster`: a sample that is timed foretells what the run takes, and leaves nothing behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver.cost import Cost, StageCost, choose_crop, copy_crop, measure_cost
from ssem_dask.driver.pipeline import plan, run
from ssem_dask.errors import ConfigError
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.clusters.local import start_on_gpus
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.volume import Volume, create_volume
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import SEPARATE, to_toml

SETTINGS: dict[str, Any] = {**SEPARATE, "register": {**SEPARATE["register"], "window": 128, "halo": 32}}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 sections of 384 × 384 px: nine windows, where a sample is one."""
    url = str(tmp_path_factory.mktemp("volume") / "observed.zarr")
    phantom = PhantomConfig(seed=4, shape=(16, 384, 384), oblique=0.0)
    simulate_phantom(phantom, url, seed=4, deformation=DeformationConfig(elastic=2.0), damage=DamageConfig())
    return url


def cost_of(source: str, output: Path, executor: Any, workers: int | None = None) -> Cost:
    planned = plan(make_config({"source": source, "output": str(output), **SETTINGS}))
    return measure_cost(planned, executor=executor, workers=lambda _stage: workers, note=lambda _told: None)


@pytest.mark.no_cover
def test_a_sample_foretells_what_the_run_takes(larger: str, tmp_path: Path) -> None:
    cost = cost_of(larger, tmp_path / "out.zarr", SerialExecutor())
    assert list(tmp_path.iterdir()) == []  # what it wrote is gone
    planned = plan(make_config({"source": larger, "output": str(tmp_path / "out.zarr"), **SETTINGS}))
    assert run(planned, executor=SerialExecutor(), observer=SilentObserver()).state == "complete"
    took = sum(report.seconds for report in open_ledger(str(tmp_path / "out.zarr")).reports(None))
    foretold = 3600 * cost.hours(gpu=False)
    assert took / 3 < foretold < took * 3, (took, foretold)
    assert cost.hours(gpu=True) == 0
    assert {c.stage: c.tasks for c in cost.stages} == {name: e.tasks for name, e in planned.estimates.items()}
    assert all(c.timed for c in cost.stages)
    assert cost.crop.shape == (8, 192, 192)
    assert "8 sections of 192 × 192 px" in cost.remarks[0]


def test_the_command_times_a_sample_on_the_cluster(larger: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    table = {"cluster": {"stage_workers": {"register": 9}}}
    config.write_text(to_toml({"source": larger, "output": str(tmp_path / "out.zarr"), **SETTINGS}))
    with config.open("a") as file:
        file.write(f"[cluster]\nstage_workers = {{ register = {table['cluster']['stage_workers']['register']} }}\n")
    printed = ssem_dask("plan", str(config), "--cluster", "local", "--workers", "2", "--json")
    assert printed.returncode == 0, printed.stderr
    cost = json.loads(printed.stdout)["cost"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.toml"]
    assert {stage: c["workers"] for stage, c in cost["stages"].items() if c["workers"] != 2} == {"register": 9}
    for stage in cost["stages"].values():
        assert 0 < stage["wall_seconds"] <= 3600 * stage["worker_hours"] * 1.001
    assert cost["cpu_worker_hours"] == pytest.approx(sum(c["worker_hours"] for c in cost["stages"].values()))


@pytest.fixture
def on_gpus() -> Iterator[Any]:
    with start_on_gpus(["0", "1"]) as executor:
        executor.client.wait_for_workers(3, timeout=60)
        yield executor


def test_time_on_gpus_is_counted_apart(larger: str, tmp_path: Path, on_gpus: Any) -> None:
    cost = cost_of(larger, tmp_path / "out.zarr", on_gpus)
    assert {c.stage for c in cost.stages if c.gpu} == {stage.name for stage in STAGES if stage.uses_gpu}
    assert {c.workers for c in cost.stages if c.gpu} == {2}
    assert min(cost.hours(gpu=True), cost.hours(gpu=False)) > 0


def test_the_table_says_what_it_is_based_on(observed: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": str(tmp_path / "out.zarr"), **SETTINGS}))
    printed = ssem_dask("plan", str(config), "--cluster", "serial")
    assert printed.returncode == 0, printed.stderr
    for words in ("CPU worker-hours", "GPU worker-hours", "wall time"):
        assert words.split()[-1] in printed.stdout
    assert "Based on" in printed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.toml"]
    assert_one_sentence(ssem_dask("plan", str(config), "--cluster", "cloud"), naming="unknown cluster")


def test_a_sample_that_fails_is_one_sentence_and_leaves_nothing(larger: str, tmp_path: Path) -> None:
    class Failing(SerialExecutor):
        """The arrays that render reads are gone when it begins."""

        def map(self, work: Any, tasks: Any) -> Any:
            def broken(task: Any) -> Any:
                if task.stage == "render":
                    (Path(task.output) / "fields" / "section" / "zarr.json").unlink(missing_ok=True)
                return work(task)

            return super().map(broken, tasks)

    with pytest.raises(ConfigError, match=r"sample cannot be timed, since render/.* failed \(bad_input: "):
        cost_of(larger, tmp_path / "out.zarr", Failing())
    assert list(tmp_path.iterdir()) == []


def test_the_crop_is_the_source_at_every_mip(larger: str, tmp_path: Path) -> None:
    pyramid, info = str(tmp_path / "pyramid.zarr"), Volume.open(larger).info
    made = create_volume(pyramid, info=info, chunk=(1, 64, 64), shard=(16, 384, 384), mips=3)
    random = np.random.default_rng(0)
    for mip in made.mips:
        shape = made.shape_at(mip)
        made.write(Box((0, 0, 0), shape, mip), random.integers(0, 255, shape, dtype=np.uint8))
    job = plan(make_config({"source": pyramid, "output": str(tmp_path / "again.zarr"), **SETTINGS})).job
    crop = choose_crop(job)
    made = copy_crop(job, crop, str(tmp_path / "crop.zarr"))
    source = Volume.open(pyramid)
    assert made.mips == source.mips
    assert made.mips == (0, 1, 2)
    for mip in made.mips:
        z, y, x = crop.start[0], crop.start[1] >> mip, crop.start[2] >> mip
        shape = made.shape_at(mip)
        wanted = source.read(Box((z, y, x), (z + shape[0], y + shape[1], x + shape[2]), mip))
        np.testing.assert_array_equal(made.read(Box((0, 0, 0), shape, mip)), wanted)


def stage_cost(**changed: Any) -> StageCost:
    given: dict[str, Any] = {"tasks": 100, "parallel_seconds": 1000.0, "serial_seconds": 50.0, "workers": 10, **changed}
    fixed: dict[str, Any] = {"stage": "register", "timed": 2, "timed_seconds": 20.0, "factor": 50.0, "gpu": False}
    return StageCost(**fixed, **given)


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({}, 150.0),
        ({"workers": 1}, 1050.0),
        ({"workers": 1000}, 60.0),  # no task is shorter for there being more workers than tasks
        ({"serial_seconds": 0.0}, 100.0),
    ],
)
def test_only_tasks_that_can_run_abreast_gain_by_workers(changed: dict[str, Any], seconds: float) -> None:
    assert stage_cost(**changed).wall_seconds == pytest.approx(seconds)
    assert stage_cost(**changed).worker_hours == pytest.approx((1000 + changed.get("serial_seconds", 50)) / 3600)
