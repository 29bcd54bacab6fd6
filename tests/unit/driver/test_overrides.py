"""Overrides of configuration values: what is read, what is refused, and which tasks they reach."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver.overrides import TaskOverrides, parse_overrides, refuse_layout_overrides, with_overrides
from ssem_dask.driver.pipeline import Plan, plan
from ssem_dask.errors import ConfigError
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.stage import JobTask
from ssem_dask.storage.volume import VolumeInfo, create_volume

TREE = {"source": "source.zarr", "output": "out.zarr", "register": {"window": 512}}


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    info = VolumeInfo(shape=(16, 256, 256), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    create_volume(str(tmp_path / "source.zarr"), info=info, chunk=(1, 64, 64), shard=(4, 128, 128), mips=1)
    return plan(make_config(tree_of(tmp_path)))


def tree_of(folder: Path) -> dict[str, Any]:
    return {**TREE, "source": str(folder / "source.zarr"), "output": str(folder / "out.zarr")}


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["register.window=1024"], {"register.window": 1024}),
        (
            ["render.shard=[4, 64, 64]", "coarse.sections=match"],
            {"render.shard": [4, 64, 64], "coarse.sections": "match"},
        ),
        (["mask.detect = true"], {"mask.detect": True}),
        (['compose.method="relax"'], {"compose.method": "relax"}),
        (
            ["register.gauss_newton.encoder=/a b/w=1.safetensors"],
            {"register.gauss_newton.encoder": "/a b/w=1.safetensors"},
        ),
        (["register.window=1", "register.window=2"], {"register.window": 2}),
    ],
)
def test_words_are_read_as_toml_or_as_text(words: list[str], overrides: dict[str, Any]) -> None:
    assert parse_overrides(words) == overrides


@pytest.mark.parametrize("word", ["register.window", "=3", "register..window=3", ".window=3", "register.=3"])
def test_words_of_another_form_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"must have the form table\.key=value"):
        parse_overrides([word])


@pytest.mark.parametrize("key", ["source", "output", "cluster.name"])
def test_keys_that_name_another_run_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be changed in an existing run"):
        parse_overrides([f"{key}=other"])


def test_a_configuration_is_overridden_in_a_copy() -> None:
    config = with_overrides(TREE, {"register.window": 1024, "render.interpolation": "bilinear"})
    for table, key, value in (("register", "window", 1024), ("render", "interpolation", "bilinear")):
        assert config.table(table).model_dump()[key] == value
    assert TREE["register"] == {"window": 512}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"register.windw": 64}, "did you mean 'window'"),
        ({"register.window": -1}, "window = -1"),
        ({"register.window.side": 64}, "'window' is a value, not a table"),
    ],
)
def test_overrides_that_fit_no_configuration_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides(TREE, overrides)


@pytest.mark.parametrize(
    "key",
    [
        "volume.pixel_size",
        *(f"{stage.name}.{key}" for stage in STAGES for key in stage.layout_keys),
        *(f"{stage.name}.anything" for stage in STAGES if stage.config_type is not None and not stage.layout_keys),
    ],
)
def test_the_layout_cannot_differ_between_tasks(key: str) -> None:
    with pytest.raises(ConfigError, match="where results are stored"):
        refuse_layout_overrides({key: 1})


def test_how_tasks_compute_can_differ() -> None:
    refuse_layout_overrides({"register.window": 64, "render.interpolation": "bilinear", "compose.relax.rounds": 1})


def tasks(planned: Plan, stage: str) -> Iterable[JobTask]:
    return (task for s in STAGES if s.name == stage for g in s.generations(planned.job) for task in g)


def test_a_task_gets_the_overrides_of_its_entry_and_keeps_its_digest(planned: Plan, tmp_path: Path) -> None:
    apply = TaskOverrides(planned.job, tree_of(tmp_path))
    first, second, *_ = tasks(planned, "render")
    changed = replace(first, changes=(("render.interpolation", "nearest"),))
    applied = apply(changed)
    assert isinstance(applied, JobTask)
    assert applied.job.render.interpolation == "nearest"
    assert applied.job.digests == planned.job.digests
    assert (applied.key, applied.digest, applied.footprint()) == (first.key, first.digest, first.footprint())
    assert apply(second) is second
    again = apply(replace(second, changes=changed.changes))
    assert isinstance(again, JobTask)
    assert again.job is applied.job  # resolved once


def test_overrides_that_no_longer_fit_the_run_are_refused(planned: Plan, tmp_path: Path) -> None:
    apply = TaskOverrides(planned.job, tree_of(tmp_path))
    task = next(iter(tasks(planned, "register")))
    with pytest.raises(ConfigError, match="unknown key"):
        apply(replace(task, changes=(("register.former", 3),)))
