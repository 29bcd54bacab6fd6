"""Digests cover what determines a stage's results, and nothing else."""

from typing import Any

import numpy as np
import pytest

from ssem_dask.config.digest import config_digest, stored_config
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.volume import VolumeInfo, create_volume

NAMES = [stage.name for stage in STAGES]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("digest") / "source.zarr")
    info = VolumeInfo(shape=(12, 300, 400), dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    return create_volume(url, info=info, chunk=(1, 128, 128), shard=(4, 256, 256), mips=1).url


def job_of(source: str, **tables: Any) -> Job:
    job, _ = resolve(make_config({"source": source, "output": "memory://unused", **tables}))
    return job


def downstream(first: str) -> set[str]:
    """The stage and all that read its results, directly or not."""
    found = {first}
    for stage in STAGES:
        if found.intersection(stage.upstream):
            found.add(stage.name)
    return found


def test_a_stage_reads_earlier_ones_only() -> None:
    for stage in STAGES:
        assert set(stage.upstream) <= set(NAMES[: NAMES.index(stage.name)]), stage.name


@pytest.mark.parametrize(
    ("tables", "first"),
    [
        ({"coarse": {"thumbnail": 128}}, "coarse"),
        ({"mask": {"detect": True}}, "mask"),
        ({"register": {"neighbours": 1}}, "register"),
        ({"compose": {"method": "chain"}}, "compose"),
        ({"render": {"interpolation": "nearest"}}, "render"),
    ],
)
def test_a_setting_changes_the_digests_of_its_stage_and_of_those_that_read_it(
    source: str, tables: dict[str, Any], first: str
) -> None:
    before, after = job_of(source).digests, job_of(source, **tables).digests
    assert list(before) == NAMES
    changed = {name for name in NAMES if before[name] != after[name]}
    # Stage calibrate has no table: what it measures depends on some settings of stage register.
    assert changed | {"calibrate"} == downstream(first) | {"calibrate"}


@pytest.mark.parametrize(
    "tables",
    [
        {"compose": {"chain": {"block": 4}}},  # the table of a method that is not used
        {"register": {"ssemnet": {"node_spacing": 96.0}}},
    ],
)
def test_a_setting_that_determines_no_result_changes_no_digest(source: str, tables: dict[str, Any]) -> None:
    assert job_of(source, **tables).digests == job_of(source).digests


def test_a_level_changes_digests_only_if_stage_render_writes_it(source: str) -> None:
    small: dict[str, Any] = {"chunk": (4, 64, 64), "shard": (4, 128, 128)}
    for render, first in ((small, None), ({}, "render")):
        before = job_of(source, render=render, downsample={"smallest": 256}).digests
        after = job_of(source, render=render, downsample={"smallest": 64}).digests
        assert {name for name in NAMES if before[name] != after[name]} == (downstream(first) if first else set())


def test_every_digest_covers_the_source(source: str) -> None:
    before = job_of(source)
    after = job_of(source, volume={"pixel_size": 4.0})
    assert all(before.digests[name] != after.digests[name] for name in NAMES)
    assert config_digest(before) != config_digest(after)


def test_the_output_is_in_no_digest(source: str) -> None:
    here, there = (resolve(make_config({"source": source, "output": url}))[0] for url in ("memory://a", "memory://b"))
    assert here.digests == there.digests
    assert config_digest(here) == config_digest(there)


@pytest.mark.parametrize(
    "tables", [{}, {"compose": {"method": "chain"}, "register": {"method": "ssemnet", "window": 256}}]
)
def test_a_stored_configuration_resolves_to_itself(source: str, tables: dict[str, Any]) -> None:
    """So that a run that resumes finds its own digests, whatever would be chosen today."""
    job = job_of(source, **tables)
    again = job_of(source, **stored_config(job))
    assert stored_config(again) == stored_config(job)
    assert again.digests == job.digests
    assert config_digest(again) == config_digest(job)
