"""A source that was changed after it was read is noticed, section by section."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.driver.source_fingerprints import (
    changed_sections,
    changed_while_read,
    distrust_changed,
    read_fingerprints,
    save_fingerprints,
)
from ssem_dask.geometry.box import Box
from ssem_dask.stages.job import Job
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume

SHAPE = (8, 64, 64)
DEPTH = 2
"""Sections that share a file."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    source = create_volume(str(tmp_path / "source.zarr"), info=info, chunk=(1, 32, 32), shard=(DEPTH, 32, 64), mips=2)
    for mip in source.mips:
        write(source, mip=mip, value=1)
    return plan(make_config({"source": source.url, "output": str(tmp_path / "out.zarr")})).job


def write(source: Volume, *, mip: int = 0, value: int, sections: range = range(SHAPE[0])) -> None:
    depth, _, _ = source.write_unit(mip)
    for start in range(sections.start, sections.stop, depth):
        box = Box((start, 0, 0), (start + depth, *source.shape_at(mip)[1:]), mip)
        source.write(box, np.full(box.shape, value, dtype=np.uint8))


def changed(job: Job) -> list[tuple[str, int, int]]:
    regions = changed_sections(job, read_fingerprints(job))
    assert all(region.box.shape_yx == SHAPE[1:] for region in regions)
    return [(region.name, region.box.start[0], region.box.stop[0]) for region in regions]


def test_an_unchanged_source_is_the_same(job: Job) -> None:
    save_fingerprints(job, read_fingerprints(job))
    assert changed(job) == []


def test_without_saved_fingerprints_nothing_is_known(job: Job) -> None:
    assert changed(job) == []


@pytest.mark.parametrize("mip", [0, 1])
def test_sections_that_were_written_are_named_with_those_of_the_same_file(job: Job, mip: int) -> None:
    save_fingerprints(job, read_fingerprints(job))
    write(Volume.open(job.source), mip=mip, value=9, sections=range(4, 6))
    assert changed(job) == [("source", 4, 6)]
    save_fingerprints(job, read_fingerprints(job))
    assert changed(job) == []


def test_a_file_that_is_gone_or_new_is_a_change(job: Job) -> None:
    shard = Path(job.source) / "0" / "c" / "3" / "0" / "0"
    content = shard.read_bytes()
    save_fingerprints(job, read_fingerprints(job))
    shard.unlink()
    assert changed(job) == [("source", 6, 8)]
    save_fingerprints(job, read_fingerprints(job))
    shard.write_bytes(content)
    assert changed(job) == [("source", 6, 8)]


@pytest.mark.parametrize(
    "content",
    [b'{"0:0:2": "12-3', b"", b"null", b"[]", b"5", b'"x"', b"\xff", b"[" * 100_000, b'{"a": "b"}', b'{"0": 1}'],
)
def test_a_record_that_cannot_be_read_counts_as_none(job: Job, content: bytes) -> None:
    save_fingerprints(job, read_fingerprints(job))
    (record,) = Path(job.output).glob("ledger/*")
    record.write_bytes(content)
    write(Volume.open(job.source), value=9, sections=range(2))
    assert changed(job) == []


def test_saving_what_is_saved_writes_nothing(job: Job) -> None:
    save_fingerprints(job, read_fingerprints(job))
    (record,) = Path(job.output).glob("ledger/*")
    before = record.stat().st_mtime_ns
    save_fingerprints(job, read_fingerprints(job))
    assert record.stat().st_mtime_ns == before


def come_and_go(job: Job, *, sections: range, at: Callable[[], object]) -> None:
    """Change sections, do something, and restore their files with their times."""
    kept = Path(job.output) / "kept"
    shutil.copytree(job.source, kept)
    write(Volume.open(job.source), value=9, sections=sections)
    at()
    shutil.rmtree(job.source)
    shutil.move(kept, job.source)


def test_sections_that_chosen_tasks_read_in_another_state_are_not_trusted_when_they_come_back(job: Job) -> None:
    save_fingerprints(job, read_fingerprints(job))
    distrust_changed(job, read_fingerprints(job))
    assert changed(job) == []
    come_and_go(job, sections=range(2, 4), at=lambda: distrust_changed(job, read_fingerprints(job)))
    assert changed(job) == [("source", 2, 4)]
    save_fingerprints(job, read_fingerprints(job))
    assert changed(job) == []


def test_sections_that_change_while_they_are_read_are_named_and_not_trusted(job: Job) -> None:
    before = read_fingerprints(job)
    save_fingerprints(job, before)
    assert changed_while_read(job, before) == ""
    reported = list[str]()
    come_and_go(job, sections=range(4, 8), at=lambda: reported.append(changed_while_read(job, before)))
    assert "sections 4:6, 6:8 were written while this command read them" in reported[0]
    assert changed(job) == [("source", 4, 6), ("source", 6, 8)]
