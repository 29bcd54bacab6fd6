"""The table of a run's arrays against the arrays on disk, and against the page that lists them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ssem_dask.cli.arrays_page import arrays_markdown, page_with_arrays
from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.errors import PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.array_rows.pair_arrays import PAIRS
from ssem_dask.stages.job import Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.stages.run_arrays import ARRAYS, array_at
from ssem_dask.storage.run_group import create_run
from tests.support.runs import SETTINGS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=sorted(SETTINGS))
def job(request: pytest.FixtureRequest, observed: str, tmp_path: Path) -> Job:
    """Every array of a run by some method, all unknown."""
    tree = {"source": observed, "output": str(tmp_path / "out.zarr"), **SETTINGS[request.param]}
    job, _ = resolve(make_config(tree))
    create_run(job.output, attributes={"state": "running"})
    for stage in STAGES:
        stage.prepare(job)
    return job


def stored(job: Job) -> dict[str, dict[str, Any]]:
    """Metadata of every array of the run, by path."""
    root = Path(job.output)
    metadata = {str(p.parent.relative_to(root)): json.loads(p.read_text()) for p in root.rglob("zarr.json")}
    return {path: document for path, document in metadata.items() if document["node_type"] == "array"}


def test_every_stored_array_has_a_row_with_its_axes_shape_and_dtype(job: Job) -> None:
    arrays = stored(job)
    assert len(arrays) > 10
    for path, metadata in arrays.items():
        row = array_at(path)
        names = tuple(axis.dimension or axis.name for axis in row.axes_in(job))
        assert tuple(metadata["dimension_names"]) == names, path
        assert tuple(metadata["shape"]) == tuple(axis.size(job) for axis in row.axes_in(job)), path
        assert metadata["data_type"] == (row.dtype or job.info.dtype.name), path


def test_steps_of_axes_are_those_that_attributes_state(job: Job) -> None:
    checked = 0
    for path, metadata in stored(job).items():
        attributes = metadata["attributes"]
        step = attributes.get("spacing") or (1 << attributes["mip"] if path.startswith("masks/") else None)
        for axis in array_at(path).axes if step else ():
            if axis.follows in ("y", "x"):
                assert axis.step(job) == step, path
                checked += 1
    assert checked > 4


def test_a_region_covers_the_elements_that_hold_some_of_it(job: Job) -> None:
    spacing = job.spacing
    region = SECTION.region_of(Box((2, spacing + 1, 0), (5, 2 * spacing + 1, spacing)))
    assert SECTION.extents(job, region) == [(2, 5), (0, 2), (1, 3), (0, 1)]
    with pytest.raises(PlanError, match="has axes"):
        PAIRS.read(job, section=3)


def test_paths_are_unique() -> None:
    assert len({row.path for row in ARRAYS}) == len(ARRAYS)
    with pytest.raises(KeyError):
        array_at("fields/no_such_array")


def test_the_page_lists_the_rows() -> None:
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    assert page_with_arrays(page) == page, "run make docs"
    assert all(row.path in arrays_markdown() for row in ARRAYS)
