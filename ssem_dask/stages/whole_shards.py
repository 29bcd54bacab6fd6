"""One task, whole shards: checked when a run is planned, on the arrays as they will be laid out.

A partial write reads, changes and rewrites a file; two tasks that write into one lose data silently. So the arrays are
made in memory, metadata alone, and what the first tasks of each generation say that they write is compared with their
shards. The tasks of a generation tile the volume evenly, so what holds of the first holds of all.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from ssem_dask.errors import PlanError
from ssem_dask.stages.files import owns_whole_files
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Stage
from ssem_dask.storage.location import delete

_LOOKED_AT = 4
"""Tasks of each generation."""


def refuse_shared_shards(job: Job, stages: Sequence[Stage]) -> None:
    """PlanError where a task would write a part of a shard only; touches nothing."""
    trial = replace(job, output=f"memory://ssem-dask-plan-{uuid.uuid4().hex}.zarr")
    try:
        for stage in stages:
            stage.prepare(trial)
            for generation in stage.generations(trial):
                for task in islice(generation, _LOOKED_AT):
                    for region in stage.footprint(task).writes:
                        if not owns_whole_files(trial, region):
                            raise PlanError(
                                f"{task.key}: would write {region.box.start} to {region.box.stop} of {region.name}, "
                                "which is not made of whole shards, so that another task could write the same file; "
                                "choose windows and shards that are multiples of each other."
                            )
    finally:
        delete(trial.output, recursive=True)
