"""Records of the slabs of a run."""

import numpy as np

from ssem_dask.composition.lost_tissue import lost_tissue
from ssem_dask.composition.relax.relax_report import Displacement, SlabRecord
from ssem_dask.composition.relax.slab_levels import JoinedLevels
from ssem_dask.stages.array_rows.coarse_arrays import COARSE_SIMILARITY
from ssem_dask.stages.job import Job


def slab_records(job: Job, joined: JoinedLevels) -> tuple[SlabRecord, ...]:
    """Return one record per slab; none without borders."""
    if not joined.borders:
        return ()
    lost = lost_tissue(COARSE_SIMILARITY.read(job), [jump.z for jump in joined.borders])
    return tuple(
        SlabRecord(
            start=slab.start,
            stop=slab.stop,
            certainty=level.certainty,
            # From z to z-1; what the user sees is where the later sections are.
            displacement=None
            if jump is None or not np.isfinite(jump.step).all()
            else Displacement.of(-jump.step, shape_yx=job.shape_yx),
            lost=tissue,
        )
        for slab, level, jump, tissue in zip(
            joined.slabs, joined.levels, (None, *joined.borders), (None, *lost), strict=True
        )
    )
