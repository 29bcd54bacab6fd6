"""The metrics of a cell: every method's fields go through the very same functions of `ssem_dask.evaluation`.

Names are those of `evaluation.metric_table`, and: `injected_elastic_drift`, drift in undeformed sections with the best
affine map of each section removed; `recovery_sound_*` and `recovery_damaged_*`, the recovery error between two
undamaged sections, and where at least one of the two is damaged; `ncc` over the pixels that both the method and the
undeformed sections show, and `ncc_truth`, the undeformed sections' own over the same pixels.
"""

import itertools
import math

import torch

from benchmarks.accuracy.methods import SectionFields
from benchmarks.accuracy.scenes import PreparedScene
from ssem_dask.evaluation.appearance import View, measure_appearance
from ssem_dask.evaluation.candidates import Candidate, zero_displacements
from ssem_dask.evaluation.geometric import (
    alignment_error,
    measure_alignment,
    measure_null_test,
    measure_recovery,
)
from ssem_dask.evaluation.metrics.alignment_error import SPACING, inner_nodes
from ssem_dask.evaluation.metrics.drift import DriftMeter
from ssem_dask.evaluation.metrics.jitter import JitterMeter
from ssem_dask.evaluation.metrics.recovery import gauge_between
from ssem_dask.evaluation.metrics.tissue_change import TissueChangeMeter
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.storage.volume import Volume


def measure(fields: SectionFields, *, scene: PreparedScene, undeformed: SectionFields | None) -> dict[str, float]:
    """All metrics of one cell; those that are not known are left out.

    Args:
        fields: what the method found.
        scene: that it found them on.
        undeformed: what the same method found on the undeformed sections.
    """
    candidate = fields.candidate("aligned")
    volume = Volume.open(scene.url)
    count, height, width = volume.info.shape
    truth = scene.truth
    sections = [z for z in range(count) if truth is None or z not in truth.missing]
    values: dict[str, float] = {}
    if truth is None:
        values |= measure_null_test(candidate, shape_yx=(height, width), sections=sections)
        values["injected_elastic_drift"] = _elastic_drift(candidate, shape_yx=(height, width), sections=sections)
    else:
        values |= measure_alignment(candidate, truth=truth, sections=sections)
        if undeformed is not None:
            plain = undeformed.candidate("undeformed")
            values |= measure_recovery(candidate, undeformed=plain, truth=truth, sections=sections)
            if truth.damaged:
                values |= _recovery_by_damage(candidate, undeformed=plain, truth=truth, sections=sections)
    values |= _tissue_change(fields, shape_yx=(height, width))
    shown = View(candidate, image=volume, labels=None, damage=None if truth is None else truth.damage)
    ideal = View(
        Candidate("truth", zero_displacements), image=Volume.open(scene.undeformed_url), labels=None, damage=None
    )
    seen, best = measure_appearance([shown, ideal], sections=sections)
    values |= {"ncc": seen["ncc"], "ncc_truth": best["ncc"]}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _elastic_drift(candidate: Candidate, *, shape_yx: tuple[int, int], sections: list[int]) -> float:
    grid = Grid.of_section(shape_yx, spacing=SPACING)
    inner = inner_nodes(shape_yx)
    meter = DriftMeter()
    for z in sections:
        meter.add(z, torch.where(inner, candidate.displacements(z, grid), torch.nan))
    return meter.result().affine_removed


def _recovery_by_damage(
    candidate: Candidate, *, undeformed: Candidate, truth: Truth, sections: list[int]
) -> dict[str, float]:
    grid = Grid.of_section((truth.shape[1], truth.shape[2]), spacing=SPACING)
    middle = sections[len(sections) // 2]
    gauge = gauge_between(
        error=alignment_error(candidate, truth=truth, z=middle), undeformed=undeformed.displacements(middle, grid)
    )
    left = {}
    for z in sections:
        plain = sample_known(undeformed.displacements(z, grid), grid=grid, positions=grid.positions() + gauge)
        left[z] = alignment_error(candidate, truth=truth, z=z) - plain
    meters = {"sound": JitterMeter(), "damaged": JitterMeter()}
    for before, after in itertools.pairwise(sections):
        meter = meters["damaged" if truth.damaged & {before, after} else "sound"]
        meter.add(left[before])
        meter.add(left[after])
        meter.skip()
    found = {name: meter.result() for name, meter in meters.items()}
    return {f"recovery_{name}_median": jumps.median for name, jumps in found.items()} | {
        f"recovery_{name}_p95": jumps.p95 for name, jumps in found.items()
    }


def _tissue_change(fields: SectionFields, *, shape_yx: tuple[int, int]) -> dict[str, float]:
    meter = TissueChangeMeter()
    for field in fields.values:
        meter.add(torch.from_numpy(field), spacing=fields.spacing)
    change = meter.result()
    return {"fold_rate": change.fold_rate, "strain_p99": change.strain_p99, "known": change.known}
