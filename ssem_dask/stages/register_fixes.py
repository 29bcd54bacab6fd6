"""Pair fields that fixes have changed since the fit: of changed sections, and of pairs with points.

They are registered like all others, in the same windows of y and x, but no other pair of the window is. Pairs of
sections that are left out become unknown.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssem_dask.field.grid import node_count
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Footprint
from ssem_dask.geometry.windows import Window
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_INVERTED, COARSE_STATE
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, DAMAGE, PAIRS
from ssem_dask.stages.coarse_parts import part_regions
from ssem_dask.stages.fix_clusters import FixCluster, fix_clusters
from ssem_dask.stages.fixed_rows import fixed_regions
from ssem_dask.stages.fixed_sections import fitted_rows
from ssem_dask.stages.job import Job
from ssem_dask.stages.registered_window import describe_faults, nodes_of, register_images
from ssem_dask.stages.run_arrays import CALIBRATION
from ssem_dask.stages.stage import FIX_TASKS, JobTask, Stage
from ssem_dask.task import Outcome, Result, box_name

_DEPTH = 8
"""Sections whose pairs one task registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFixesTask(JobTask):
    """Changed pair fields of one window of y and x."""

    window: Window
    """Sections of the pairs, those before them, and the window's place."""
    cluster: FixCluster
    pairs: tuple[tuple[int, int], ...]
    """(k, z) of each."""

    def run(self) -> Result:
        """Register the pairs whose sections take part; write them, and the others as unknown."""
        job, core, excluded = self.job, self.window.core, self.cluster.fixes.excluded
        wanted = frozenset((k, z) for k, z in self.pairs if not excluded((z, z - k)))
        rows, columns = nodes_of(core, job, corner=(0, 0))
        shape = node_count(core.shape[1], spacing=job.spacing), node_count(core.shape[2], spacing=job.spacing)
        found = None
        if wanted:
            found = register_images(job, self.window, fixes=self.cluster.fixes, clusters=[self.cluster], only=wanted)
        written, lost = 0, 0
        for k, z in self.pairs:
            field = np.full((2, *shape), np.nan, dtype=np.float32)
            confidence = np.zeros(shape, dtype=np.float32)
            if found is not None and found.pairs is not None and (k, z) in wanted:
                at = k - 1, z - core.start[0]
                field, confidence = found.pairs.fields[at].cpu().numpy(), found.pairs.confidence[at].cpu().numpy()
                lost += not np.isfinite(field).any()
            for array, values in ((PAIRS, field), (CONFIDENCE, confidence)):
                written += FIXED[array].write(job, values, k=k - 1, z=z, y=rows, x=columns)
        remarks = [] if found is None else [*found.remarks, *describe_faults(found.faults)]
        return Result(
            outcome=Outcome.LOW_QUALITY if remarks else Outcome.OK,
            message="; ".join(remarks),
            bytes_read=0 if found is None else found.bytes_read,
            bytes_written=written,
        )

    def footprint(self) -> Footprint:
        """Read the sections and their places, wherever these lead; write the changed pairs of the window."""
        job, z = self.job, self.window.read.sections
        arrays = COARSE, COARSE_INVERTED, COARSE_STATE
        reads = [
            *job.source_regions(z.start, z.stop, fixes=self.cluster.fixes),
            *(array.region(job, z.start, z.stop) for array in arrays),
            *fixed_regions(job, *arrays, start=z.start, stop=z.stop),
            *part_regions(job, z.start, z.stop, fixes=self.cluster.fixes),
        ]
        if job.mask.active:
            rows = fitted_rows(job, z, self.cluster.fixes)
            reads += [DAMAGE.region(job, z.start, z.stop), *(DAMAGE.region(job, n, n + 1) for n in rows if n not in z)]
        if job.register.registration_method.needs_calibration:
            reads.append(CALIBRATION.region(job))
        core = self.window.core.clipped(job.shape)
        boxes = [
            Box((section, *core.start_yx), (section + 1, core.stop[1], core.stop[2]))
            for section in sorted({section for _, section in self.pairs})
        ]
        writes = tuple(FIXED[array].region_of(box) for array in (PAIRS, CONFIDENCE) for box in boxes)
        return Footprint(reads=tuple(reads), writes=writes)


def register_fix_tasks(stage: Stage, job: Job, places: list[Window]) -> Iterator[RegisterFixesTask]:
    """Yield the tasks of all clusters.

    Args:
        stage: stage register.
        job: the run.
        places: windows that cover a section, of any sections.
    """
    for cluster in fix_clusters(job):
        blocks: dict[int, list[tuple[int, int]]] = {}
        for k, z in cluster.pairs(steps=job.register.neighbours, count=job.shape[0]):
            blocks.setdefault(z // _DEPTH * _DEPTH, []).append((k, z))
        for start, pairs in sorted(blocks.items()):
            sections = range(min(z - k for k, z in pairs), max(z for _, z in pairs) + 1)
            first = min(z for _, z in pairs)
            for place in places:
                core = Box((first, *place.core.start_yx), (sections.stop, *place.core.stop[1:]))
                read = Box((sections.start, *place.read.start_yx), (sections.stop, *place.read.stop[1:]))
                yield RegisterFixesTask(
                    **stage.task_fields(
                        job,
                        f"{FIX_TASKS}-{box_name((start, *place.core.start_yx))}",
                        pixels=core.size,
                        clusters=[cluster],
                    ),
                    window=Window(core, read),
                    cluster=cluster,
                    pairs=tuple(sorted(pairs)),
                )
