"""Stage register: pair fields from overlapping windows of neighbour sections.

A task reads a window (core and halo, in z and in y, x) of coarse-aligned sections, registers it, and writes the pair
fields and confidences of its core: exactly one shard of each array.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.field.grid import node_count
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.region import Footprint
from ssem_dask.geometry.windows import Window, read_sizes, tile_windows
from ssem_dask.registration.checked_window import PairFault
from ssem_dask.registration.methods import METHODS
from ssem_dask.stages.array_rows.coarse_arrays import COARSE, COARSE_INVERTED, COARSE_STATE
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, DAMAGE, PAIRS
from ssem_dask.stages.coarse_parts import part_regions
from ssem_dask.stages.configs import RegisterStageConfig
from ssem_dask.stages.fix_clusters import fix_clusters
from ssem_dask.stages.fixed_rows import create_fixed
from ssem_dask.stages.job import Job
from ssem_dask.stages.register_choices import resolve_register
from ssem_dask.stages.register_fixes import register_fix_tasks
from ssem_dask.stages.registered_window import describe_faults, nodes_of, register_images
from ssem_dask.stages.run_arrays import CALIBRATION
from ssem_dask.stages.stage import TASK_OVERHEAD_BYTES, Estimate, JobTask, Stage, with_fix_tasks
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.task import Outcome, Result, box_name
from ssem_dask.types import ConfigBase, ShapeZYX

_NOTHING = "No node of the window could be registered."


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTask(JobTask):
    """Pair fields of one window."""

    window: Window

    def run(self) -> Result:
        """Read the window's sections, register them, write the core's pair fields.

        If an override for this task makes windows smaller (to save memory), its window is registered in parts and
        written as a whole, since it is one shard.
        """
        job, core = self.job, self.window.core
        y, x = node_count(core.shape[1], spacing=job.spacing), node_count(core.shape[2], spacing=job.spacing)
        fields = np.full((job.register.neighbours, core.shape[0], 2, y, x), np.nan, dtype=np.float32)
        confidence = np.zeros((job.register.neighbours, core.shape[0], y, x), dtype=np.float32)
        bytes_read, has_tissue, faults, remarks = 0, False, list[PairFault](), list[str]()
        for window in _parts(self):
            registered = register_images(job, window, fixes=job.fitted_fixes)
            bytes_read += registered.bytes_read
            faults += registered.faults
            remarks += registered.remarks
            if registered.pairs is None:
                continue
            has_tissue = True
            rows, columns = nodes_of(window.core, job, corner=core.start_yx)
            fields[:, :, :, rows, columns] = registered.pairs.fields.cpu().numpy()
            confidence[:, :, rows, columns] = registered.pairs.confidence.cpu().numpy()
        if not has_tissue:
            return Result(
                outcome=Outcome.NO_TISSUE, message="The window is empty in every section.", bytes_read=bytes_read
            )
        rows, columns = nodes_of(core, job, corner=(0, 0))
        written = PAIRS.write(job, fields, z=core.sections, y=rows, x=columns)
        written += CONFIDENCE.write(job, confidence, z=core.sections, y=rows, x=columns)
        # Any distance counts: if every second section is blank, sections two apart are registered. A core of the
        # volume's first section alone has no neighbour before it.
        any_known = bool(np.isfinite(fields).any()) or core.stop[0] == 1
        all_recovered = all(fault.recovered for fault in faults)
        return Result(
            outcome=Outcome.OK if any_known and all_recovered and not remarks else Outcome.LOW_QUALITY,
            message="; ".join([*remarks, *describe_faults(faults)] if any_known else [_NOTHING]),
            bytes_read=bytes_read,
            bytes_written=written,
        )

    def footprint(self) -> Footprint:
        """Read the sections of core and halo, wherever the coarse affine leads; write the pair fields of the core."""
        job, z = self.job, self.window.read.sections
        arrays = COARSE, COARSE_INVERTED, COARSE_STATE
        reads = [*job.source_regions(z.start, z.stop), *(array.region(job, z.start, z.stop) for array in arrays)]
        reads += part_regions(job, z.start, z.stop)
        if job.mask.active:
            reads.append(DAMAGE.region(job, z.start, z.stop))
        if job.register.registration_method.needs_calibration:
            reads.append(CALIBRATION.region(job))
        core = self.window.core.clipped(job.shape)
        return Footprint(reads=tuple(reads), writes=(PAIRS.region_of(core), CONFIDENCE.region_of(core)))


class RegisterStage(Stage):
    """Pair fields from overlapping windows of neighbour sections."""

    name = "register"
    upstream = ("coarse", "mask", "calibrate")
    config_type = RegisterStageConfig
    layout_keys = ("neighbours", "spacing", "sections")
    uses_gpu = True

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Choose mip, spacing, window and halo; see `stages.register_choices`."""
        assert isinstance(config, RegisterStageConfig)
        return resolve_register(config, info)

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return the settings without those of unused methods, and the encoder."""
        register = job.register.model_dump(mode="json")
        unused = METHODS.keys() - {job.register.method}
        return {key: value for key, value in register.items() if key not in unused} | {"weights": job.encoder_digest}

    def prepare(self, job: Job) -> None:
        """Create pair fields and confidences; one window is one shard."""
        PAIRS.create(job)
        CONFIDENCE.create(job)
        create_fixed(job, PAIRS, CONFIDENCE)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield all windows; they are independent."""
        fixes, depth = job.fitted_fixes.matching(), job.window_core[0]  # once, not for each of a million windows
        yield (
            RegisterTask(
                **self.task_fields(
                    job,
                    box_name(window.core.start),
                    pixels=window.core.size,
                    fixes=fixes.within(window.read.sections),
                    stop=window.core.start[0] + depth,
                ),
                window=window,
            )
            for window in windows(job)
        )
        yield self._fix_tasks(job)

    def _fix_tasks(self, job: Job) -> Iterator[JobTask]:
        if fix_clusters(job):
            yield from register_fix_tasks(self, job, [window for window in windows(job) if window.core.start[0] == 0])

    def estimate(self, job: Job) -> Estimate:
        """Return the cost. Each task reads its window with halo and writes a shard of pairs and one of confidence."""
        count, read, largest = read_sizes(job.shape, **_tiling(job))
        mip = job.register.mip
        nodes = math.prod(job.grid.shape)
        itemsize = job.info.dtype.itemsize
        estimate = Estimate(
            tasks=count,
            pixels=job.size,
            bytes_read=job.source_bytes(read, mip=mip),
            bytes_written=nodes * job.shape[0] * job.register.neighbours * 3 * 4,
            files=2 * count,
            # Bytes per working px, measured (`benchmarks.memory`): 6 for images and masks of the window, 4 * 52 for one
            # section's activations and gradients of the network; the source as it is read.
            memory=TASK_OVERHEAD_BYTES
            + largest // 4**mip * 6
            + largest // job.register.sections // 4**mip * 4 * 52
            + largest * itemsize,
            # Measured too: images, features and masks of the window; per section the solver's buffers for 32 pairs.
            gpu_memory=largest // 4**mip * 12 + largest // job.register.sections // 4**mip * 160,
        )
        return with_fix_tasks(estimate, self._fix_tasks(job))


def windows(job: Job) -> Iterator[Window]:
    """Yield the windows of a run."""
    return tile_windows(job.shape, **_tiling(job))


def _tiling(job: Job) -> dict[str, ShapeZYX]:
    """Return core and halos of the windows."""
    halo = job.register.halo
    return {
        "core": job.window_core,
        "halo_before": (job.register.neighbours, halo, halo),
        "halo_after": (0, halo, halo),
    }


def _parts(task: RegisterTask) -> list[Window]:
    """Return the task's window, or the smaller windows that its configuration wants, all sections deep."""
    job, whole = task.job, task.window
    side, halo = job.register.window, job.register.halo
    if max(whole.core.shape_yx) <= side:
        return [whole]
    parts = []
    for box in chunk_boxes(whole.core.shape, chunk=(whole.core.shape[0], side, side)):
        core = box.shifted(whole.core.start)
        read = core.grown(before=(0, halo, halo), after=(0, halo, halo)).clipped(job.shape)
        parts.append(Window(core, Box((whole.read.start[0], *read.start[1:]), (whole.read.stop[0], *read.stop[1:]))))
    return parts
