"""Runs on small spoilt stacks, with fixes of a user."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.methods import SectionFields
from benchmarks.spoilt.stacks import DeformedStack
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import Plan, plan, run
from ssem_dask.driver.rerun import RerunPlan, Selection, execute_rerun, plan_rerun
from ssem_dask.driver.run_fixes import GivenFixes
from ssem_dask.driver.run_status import Summary
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import Observer, SilentObserver
from ssem_dask.runtime.executor import Executor, SerialExecutor
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import RunArray
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray

SHALLOW: dict[str, Any] = {"render": {"chunk": (1, 64, 64), "shard": (1, 256, 256)}}
"""Shards one section deep, so that it shows which sections are written again."""


def write_stack(url: Path, images: AnyArray, *, pixel_size: float = 8.0, section_thickness: float = 50.0) -> str:
    """Write sections (z, y, x) as a volume."""
    z, y, x = images.shape
    info = VolumeInfo(
        shape=(z, y, x), dtype=np.dtype("uint8"), pixel_size=pixel_size, section_thickness=section_thickness
    )
    side = -(-max(y, x) // 64) * 64
    volume = create_volume(str(url), info=info, chunk=(1, side, side), shard=(1, side, side), mips=1)
    for n, image in enumerate(images):
        volume.write(Box((n, 0, 0), (n + 1, y, x)), image[None])
    return str(url)


@dataclass
class FixedRun:
    """A run in this process, whose fixes can be changed."""

    folder: Path
    images: AnyArray
    stack: DeformedStack | None = None
    config: dict[str, Any] = field(default_factory=dict)
    planned: Plan | None = None

    @property
    def output(self) -> str:
        return str(self.folder / "run.zarr")

    @property
    def job(self) -> Job:
        assert self.planned is not None
        return self.planned.job

    def align(self, fixes: str | None = None) -> Summary:
        """Align from the start."""
        torch.set_num_threads(1)
        sizes = {}
        if self.stack is not None:
            sizes = {"pixel_size": self.stack.pixel_size, "section_thickness": self.stack.section_thickness}
        source = write_stack(self.folder / "source.zarr", self.images, **sizes)
        config = make_config({"source": source, "output": self.output, **self.config})
        self.planned = plan(config, fixes=None if fixes is None else self.given(fixes))
        return run(self.planned, executor=SerialExecutor(), observer=SilentObserver())

    def given(self, fixes: str) -> GivenFixes:
        path = self.folder / "fixes.toml"
        path.write_text(fixes)
        return GivenFixes.read(str(path))

    def plan_fix(self, fixes: str, *, refit: bool = False) -> RerunPlan:
        return plan_rerun(self.output, Selection(), fixes=self.given(fixes), refit=refit)

    def fix(
        self,
        fixes: str,
        *,
        refit: bool = False,
        executor: Executor | None = None,
        observer: Observer | None = None,
    ) -> Summary:
        """Change the fixes and compute what follows."""
        planned = self.plan_fix(fixes, refit=refit)
        self.planned = planned.plan
        return execute_rerun(planned, executor=executor or SerialExecutor(), observer=observer or SilentObserver())

    def resume(self) -> Summary:
        """Compute what is missing, with the fixes that the run has."""
        planned = plan_rerun(self.output, Selection())
        self.planned = planned.plan
        return execute_rerun(planned, executor=SerialExecutor(), observer=SilentObserver())

    def read(self, array: RunArray, **index: Any) -> AnyArray:
        return array.read(self.job, **index)

    def fields(self) -> SectionFields:
        return SectionFields(np.asarray(self.read(SECTION), dtype=np.float32), self.job.spacing)

    def pixels(self) -> AnyArray:
        volume = Volume.open(f"{self.output}/aligned")
        return volume.read(Box((0, 0, 0), volume.info.shape))

    def ended(self) -> dict[str, str]:
        """Time at which each task started, by its key."""
        return {report.key: report.started for report in open_ledger(self.output).reports(None)}
