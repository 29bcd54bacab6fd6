"""A batch costs the same whatever is done before it: tasks that run, and pages of the ledger that are read."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import make_config
from ssem_dask.driver.invalidation import find_stale
from ssem_dask.driver.pipeline import Plan
from ssem_dask.driver.run_extent import locked_sections
from ssem_dask.driver.run_fixes import RunFixes
from ssem_dask.stages.job import Growth, Job
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.ledger import Ledger, page_of
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.task import Outcome, TaskReport

FITTED = 64


class MadeUpLedger:
    """A ledger in which all tasks of a job are done; counts the pages that are read."""

    def __init__(self, job: Job) -> None:
        self.read = 0
        self._pages: dict[str, dict[str, TaskReport | None]] = {}
        for key, digest in tasks_of(job).items():
            report = TaskReport(key=key, digest=digest, outcome=Outcome.OK)
            self._pages.setdefault(page_of(key), {})[key] = report

    def pages(self, stage: str) -> list[str]:
        return sorted(page for page in self._pages if page.split("/")[0] == stage)

    def entries(self, page: str) -> dict[str, TaskReport | None]:
        self.read += 1
        return dict(self._pages.get(page, {}))


def tasks_of(job: Job) -> dict[str, str]:
    """Return the digest of each task by its key."""
    return {task.key: task.digest for stage in STAGES for generation in stage.generations(job) for task in generation}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    info = VolumeInfo(shape=(1024, 64, 64), dtype=np.dtype("uint8"), pixel_size=8.0, section_thickness=40.0)
    url = str(tmp_path_factory.mktemp("source") / "volume.zarr")
    create_volume(url, info=info, chunk=(1, 64, 64), shard=(8, 64, 64), mips=1)
    return url


def job_of(source: str, sections: int) -> Job:
    config = make_config({"source": source, "output": str(Path(source).parent / "run.zarr")}, where="test")
    return resolve(config, growth=Growth(FITTED), sections=sections)[0]


def cost(source: str, *, before: int, batch: int) -> tuple[int, int]:
    """Return the tasks of a batch, and the pages of the ledger that are read to find them."""
    old, job = job_of(source, before), job_of(source, before + batch)
    ledger = MadeUpLedger(old)
    planned = Plan(
        job=job, choices=[], estimates={}, digest="", given={}, fixes=RunFixes(), locked=locked_sections(before)
    )
    stale = find_stale(job, stages=STAGES, ledger=cast(Ledger, cast(Any, ledger)), is_live=planned.is_live)
    assert not stale.obsolete
    assert not any(key.startswith("calibrate/") for key in (*stale.changed, *stale.dependent))
    assert "compose/affines-all" not in stale.dependent
    done = tasks_of(old)
    new = [key for key in tasks_of(job) if key not in done]
    return len({*stale.changed, *stale.dependent, *new}), ledger.read


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_a_batch_costs_the_same_at_any_length(source: str, batch: int) -> None:
    early, late = (cost(source, before=before, batch=batch) for before in (104, 1000))
    assert early == late
    assert early[0] < 40 + 6 * batch
