"""Tasks read and write what their footprints say: every file that is opened is checked."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.spoilt.stacks import load_stack
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.fixes.section_fixes import SectionFixes, VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Region
from ssem_dask.stages.array_rows.aligned_arrays import aligned_level
from ssem_dask.stages.job import Growth, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.pyramid_writer import SlabWriter
from ssem_dask.stages.run_arrays import array_at
from ssem_dask.storage.ledger import page_of
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import Volume, create_volume
from tests.support.appended_runs import QUICK
from tests.support.file_trace import trace_files
from tests.support.fixed_runs import write_stack
from tests.support.runs import SETTINGS, SMALL


class Regions:
    """Says of files which regions of a run they hold."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def of(self, paths: list[Path]) -> Iterator[Region]:
        for path in dict.fromkeys(paths):
            region = self._region(path)
            if region is not None:
                yield region

    def _region(self, path: Path) -> Region | None:
        root = Path(self._job.output)
        if "ledger" in path.parts or path.name in ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata"):
            return None
        if not path.is_relative_to(root):
            return self._chunk(path, "source", Path(self._job.source))
        if path.suffix == ".json":
            return Region(str(path.relative_to(root)), self._job.sections_box())
        return self._chunk(path, None, root)

    def _chunk(self, path: Path, name: str | None, root: Path) -> Region:
        """Return the region of a chunk or shard, by the axes of the run's table of arrays."""
        parts = path.relative_to(root).parts
        at = parts.index("c")
        array = root.joinpath(*parts[:at])
        extent = json.loads((array / "zarr.json").read_text())["chunk_grid"]["configuration"]["chunk_shape"]
        # The levels of the source are those of the aligned volume: z, and y and x at the level's mip.
        row = array_at(str(array.relative_to(root))) if name is None else aligned_level(int(array.name))
        start, stop = [0, 0, 0], list(self._job.shape)
        for axis, index, n in zip(row.axes_in(self._job), map(int, parts[at + 1 :]), extent, strict=True):
            if axis.follows is not None:
                i, step = "zyx".index(axis.follows), axis.step(self._job)
                start[i], stop[i] = index * n * step, min((index + 1) * n * step, stop[i])
        return Region(name or row.path, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))


@pytest.fixture(scope="module")
def pyramid(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The observed sections with three levels, as an import of larger ones has them."""
    url, source = str(tmp_path_factory.mktemp("volume") / "pyramid.zarr"), Volume.open(observed)
    made = create_volume(url, info=source.info, chunk=(1, 32, 32), shard=(2, 64, 64), mips=3)
    pixels = source.read(Box((0, 0, 0), source.info.shape))
    for z in range(0, len(pixels), 2):
        SlabWriter(made, sections=range(z, z + 2), labels=False).write(pixels[z : z + 2])
    return url


FIXED = VolumeFixes(
    sections={
        2: SectionFixes(fill="between"),
        4: SectionFixes(other=6, masks=(((0.0, 0.0), (0.0, 50.0), (50.0, 0.0)),)),
        5: SectionFixes(splits=(((0.0, 40.0), (200.0, 40.0)),)),
        6: SectionFixes(other=4, inverted=True),
    },
    pairs={(7, 8): ((20.0, 20.0, 21.0, 20.0, 4.0),)},
)
"""Fixes that were given after the fit."""
OF_MODE: dict[str, dict[str, Any]] = {
    "fixed": SETTINGS["relax"],
    "slabs": {**SETTINGS["relax"], "slabs": {"borders": [8]}},
    "grown": QUICK,
}


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> str:
    """More sections than an appended block reaches back."""
    stack = load_stack("phantom", sections=34, size=64, data=Path())
    return write_stack(tmp_path_factory.mktemp("tall") / "tall.zarr", stack.images)


@pytest.mark.parametrize("mode", ["chain", "relax", "wide", "pyramid", "fixed", "slabs", "grown"])
def test_tasks_touch_nothing_that_their_footprint_does_not_name(
    mode: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue({"pyramid": "pyramid", "grown": "tall"}.get(mode, "observed"))
    settings = OF_MODE.get(mode) or SETTINGS[mode]
    job, _ = resolve(
        make_config({"source": url, "output": str(tmp_path / "out.zarr"), **settings}),
        growth=Growth(32) if mode == "grown" else None,
    )
    if mode == "fixed":
        job = replace(job, fixes=FIXED)
    files = Regions(job)
    create_run(job.output, attributes={"state": "running"})
    looked_at, levels = 0, defaultdict[str, set[str]](set)
    pages: dict[str, tuple[str, int]] = {}
    for stage in STAGES:
        stage.prepare(job)
        for number, generation in enumerate(stage.generations(job)):
            for task in generation:
                assert pages.setdefault(page_of(task.key), (stage.name, number)) == (stage.name, number)
                with trace_files(url, job.output) as trace:
                    task.run()
                levels[stage.name] |= {
                    p.relative_to(url).parts[0] for p in trace.read if p.is_relative_to(url) and "c" in p.parts
                }
                footprint = task.footprint()
                # What a task writes it may read too: a shard that is there is replaced.
                allowed = (*footprint.reads, *footprint.writes)
                for region in files.of(trace.read):
                    assert any(region.overlaps(other) for other in allowed), (task.key, "reads", region)
                    looked_at += 1
                for region in files.of(trace.written):
                    assert any(region.overlaps(other) for other in footprint.writes), (task.key, "writes", region)
                assert stage.name != "render" or list(files.of(trace.written))
    assert looked_at > 100
    if mode == "pyramid":
        # Whoever sees less of the source decodes less of it.
        expected = {"coarse": "12", "mask": "1", "calibrate": "2", "register": "2", "compose": "1", "render": "0"}
        assert {name: found for name, found in levels.items() if found} == {
            name: set(found) for name, found in {**expected, "measure": "2"}.items()
        }


def test_outputs_of_a_stage_do_not_overlap(observed: str, tmp_path: Path) -> None:
    for name, settings in SETTINGS.items():
        job, _ = resolve(make_config({"source": observed, "output": str(tmp_path / f"{name}.zarr"), **settings}))
        for stage in STAGES:
            for generation in stage.generations(job):
                written = [region for task in generation for region in task.footprint().writes]
                for i, region in enumerate(written):
                    assert not any(region.overlaps(other) for other in written[i + 1 :]), region


def test_every_section_of_every_level_is_written_by_someone(observed: str, tmp_path: Path) -> None:
    job, _ = resolve(make_config({"source": observed, "output": str(tmp_path / "out.zarr"), **SMALL}))
    volume = int(np.prod(job.shape))
    for level in range(job.mips):
        covered = sum(
            region.box.size
            for stage in STAGES
            for generation in stage.generations(job)
            for task in generation
            for region in task.footprint().writes
            if region.name == f"aligned/{level}"
        )
        assert covered == volume
