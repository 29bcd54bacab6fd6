"""Metrics on fields: jitter, drift, recovery, the null test, held-out consistency and the change of tissue.

All are computed section by section in order of z. One section is in memory, and a subsampled one per z for drift.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssem_dask.evaluation.candidates import Candidate, EvaluatedRun
from ssem_dask.evaluation.error_curves import ErrorCurveMeter
from ssem_dask.evaluation.metrics.alignment_error import SPACING, alignment_map, inner_nodes
from ssem_dask.evaluation.metrics.consistency import two_step_difference
from ssem_dask.evaluation.metrics.distribution import Distribution
from ssem_dask.evaluation.metrics.drift import DriftMeter
from ssem_dask.evaluation.metrics.jitter import JitterMeter
from ssem_dask.evaluation.metrics.recovery import RecoveryMeter, gauge_between
from ssem_dask.evaluation.metrics.tissue_change import TissueChangeMeter
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.grid import Grid
from ssem_dask.stages.array_rows.pair_arrays import PAIRS
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import exists
from ssem_dask.types import ShapeYX

_LEAST_NEIGHBOURS = 2
"""Neighbours that held-out consistency needs."""


def alignment_error(candidate: Candidate, *, truth: Truth, z: int) -> Tensor:
    """Return c_z of a candidate on the 4-px grid; NaN at nodes that do not count (see `alignment_map`)."""
    shape_yx: ShapeYX = (truth.shape[1], truth.shape[2])
    return alignment_map(
        truth=truth.field(z),
        recovered=candidate.displacements(z, Grid.of_section(shape_yx, spacing=SPACING)),
        damage=truth.damaged_nodes(z),
        shape_yx=shape_yx,
    )


def measure_alignment(
    candidate: Candidate, *, truth: Truth, sections: Iterable[int], curve: ErrorCurveMeter | None = None
) -> Mapping[str, float]:
    """Return jitter and drift against the truth; if sections are damaged, also jitter between undamaged ones.

    Args:
        candidate: alignment to measure.
        truth: truth to measure it against.
        sections: z of the compared sections, in order.
        curve: meter that also gets the error of every section, which is expensive to compute.
    """
    jitter, sound, drift = JitterMeter(), JitterMeter(), DriftMeter()
    for z in sections:
        error = alignment_error(candidate, truth=truth, z=z)
        jitter.add(error)
        drift.add(z, error)
        if curve is not None:
            curve.add(z, error)
        if z in truth.damaged:
            sound.skip()
        else:
            sound.add(error)
    jitter_result, drift_result = jitter.result(), drift.result()
    sound_values = {}
    if truth.damaged - truth.missing:
        sound_values = {"jitter_sound_median": sound.result().median, "jitter_sound_p95": sound.result().p95}
    return {
        **sound_values,
        "jitter_median": jitter_result.median,
        "jitter_p95": jitter_result.p95,
        "jitter_p99": jitter_result.p99,
        "jitter_rms": jitter_result.rms_over_root2,
        "drift_max": drift_result.maximum,
        "drift_affine_removed": drift_result.affine_removed,
        "drift_trend_removed": drift_result.trend_removed,
        "drift_slope": drift_result.slope,
    }


def measure_null_test(candidate: Candidate, *, shape_yx: ShapeYX, sections: Iterable[int]) -> Mapping[str, float]:
    """Return the null test: jitter and drift that a method injects into undeformed sections.

    There d_z = 0, so that c_z = f_z.
    """
    grid = Grid.of_section(shape_yx, spacing=SPACING)
    inner = inner_nodes(shape_yx)
    jitter, drift = JitterMeter(), DriftMeter()
    for z in sections:
        error = torch.where(inner, candidate.displacements(z, grid), torch.nan)
        jitter.add(error)
        drift.add(z, error)
    jitter_result = jitter.result()
    return {
        "injected_jitter_median": jitter_result.median,
        "injected_jitter_p95": jitter_result.p95,
        "injected_drift_max": drift.result().maximum,
    }


def measure_recovery(
    candidate: Candidate, *, undeformed: Candidate, truth: Truth, sections: list[int]
) -> Mapping[str, float]:
    """Return the recovery error against the same candidate of the run on the undeformed sections."""
    grid = Grid.of_section((truth.shape[1], truth.shape[2]), spacing=SPACING)
    middle = sections[len(sections) // 2]
    gauge = gauge_between(
        error=alignment_error(candidate, truth=truth, z=middle), undeformed=undeformed.displacements(middle, grid)
    )
    meter = RecoveryMeter(gauge)
    for z in sections:
        error = alignment_error(candidate, truth=truth, z=z)
        meter.add(error=error, undeformed=undeformed.displacements(z, grid))
    result = meter.result()
    return {"recovery_median": result.median, "recovery_p95": result.p95}


def measure_tissue_change(candidate: Candidate, *, run: EvaluatedRun, sections: Iterable[int]) -> Mapping[str, float]:
    """Return folds, strain and displacement of a candidate's fields, on the nodes of the run's fields."""
    grid = Grid.of_section((run.shape[1], run.shape[2]), spacing=run.info.spacing)
    meter = TissueChangeMeter()
    for z in sections:
        meter.add(candidate.displacements(z, grid), spacing=run.info.spacing)
    change = meter.result()
    return {
        "fold_rate": change.fold_rate,
        "strain_p99": change.strain_p99,
        "displacement_median": change.displacement_median,
        "elastic_median": change.elastic_median,
        "known": change.known,
    }


def measure_held_out(run: EvaluatedRun) -> Mapping[str, float]:
    """Return the consistency of the k = 2 pair fields with the composition of the k = 1 fields.

    Empty if the run has no pair fields with k = 2.
    """
    url = PAIRS.at(run.url)
    if not exists(url):
        return {}
    pairs, info = open_field(url)
    if pairs.ndim != 5 or pairs.shape[0] < _LEAST_NEIGHBOURS:
        return {}
    differences = Distribution()
    for z in range(_LEAST_NEIGHBOURS, run.shape[0]):
        differences.add(
            two_step_difference(
                near=_pair(pairs, k=1, z=z),
                before=_pair(pairs, k=1, z=z - 1),
                far=_pair(pairs, k=2, z=z),
                spacing=info.spacing,
            )
        )
    return {"held_out_median": differences.median, "held_out_p95": differences.quantile(0.95)}


def _pair(pairs: ZarrArray, *, k: int, z: int) -> Tensor:
    """Read the pair field `(2, y, x)` with fixed z and moving z - k; the array's first index is k - 1."""
    return torch.from_numpy(np.asarray(pairs[k - 1, z], dtype=np.float32))
