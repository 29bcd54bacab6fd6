"""Jitter, drift, recovery, consistency: known answers, and independence of the gauge."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.metrics.alignment_error import alignment_map, inner_nodes, margin_of
from ssem_dask.evaluation.metrics.consistency import two_step_difference
from ssem_dask.evaluation.metrics.distribution import Distribution
from ssem_dask.evaluation.metrics.drift import Drift, DriftMeter
from ssem_dask.evaluation.metrics.jitter import Jitter, JitterMeter
from ssem_dask.evaluation.metrics.recovery import RecoveryMeter, gauge_between
from ssem_dask.evaluation.metrics.tissue_change import TissueChangeMeter
from ssem_dask.field.affine import affine_field, rotation_about
from ssem_dask.field.compose import compose
from ssem_dask.field.grid import Grid
from ssem_dask.field.inverse import inverse
from tests.support.deformations import section_deformation

SHAPE = (448, 480)
GRID = Grid.of_section(SHAPE, spacing=4)
SOUND = torch.zeros(GRID.shape, dtype=torch.bool)
NOTHING = torch.zeros(2, *GRID.shape)


def deformed(z: int) -> torch.Tensor:
    return section_deformation(DeformationConfig(), seed=5, z=z, shape_yx=SHAPE, grid=GRID)


def constant(y: float, x: float) -> torch.Tensor:
    return torch.tensor([y, x])[:, None, None].expand(2, *GRID.shape).clone()


def error_of(truth: torch.Tensor, recovered: torch.Tensor, damage: torch.Tensor = SOUND) -> torch.Tensor:
    return alignment_map(truth=truth, recovered=recovered, damage=damage, shape_yx=SHAPE)


def jitter_of(errors: list[torch.Tensor]) -> Jitter:
    meter = JitterMeter()
    for error in errors:
        meter.add(error)
    return meter.result()


def drift_of(errors: list[torch.Tensor], *, sections: list[int] | None = None) -> Drift:
    meter = DriftMeter()
    for z, error in zip(sections or range(len(errors)), errors, strict=True):
        meter.add(z, error)
    return meter.result()


def test_the_exact_inverse_leaves_no_jitter_and_no_drift() -> None:
    truths = [deformed(z) for z in range(4)]
    errors = [error_of(d, inverse(d, spacing=4.0)) for d in truths]
    assert jitter_of(errors).p99 < 0.01
    assert drift_of(errors).maximum < 0.01
    # … while leaving the sections as they are keeps all of it.
    plain = [error_of(d, NOTHING) for d in truths]
    assert jitter_of(plain).median > 5
    assert drift_of(plain).maximum > 5


def test_an_inverse_in_the_wrong_direction_is_seen() -> None:
    truths = [deformed(z) for z in range(3)]
    assert jitter_of([error_of(d, d) for d in truths]).median > 10


def test_any_common_gauge_leaves_jitter_and_drift_at_zero() -> None:
    gauge = affine_field(rotation_about(degrees=1.5, centre=(200.0, 250.0), shift=(7.0, -4.0)), grid=GRID)
    errors = [
        error_of(d, compose(outer=inverse(d, spacing=4.0), inner=gauge, spacing=4.0))
        for d in (deformed(z) for z in range(3))
    ]
    assert jitter_of(errors).p99 < 0.02
    assert drift_of(errors).maximum < 0.02


def test_one_section_shifted_by_three_px_has_a_jitter_of_three_px() -> None:
    errors = [error_of(NOTHING, NOTHING), error_of(NOTHING, constant(0.0, 3.0)), error_of(NOTHING, NOTHING)]
    jitter = jitter_of(errors)
    assert jitter.median == pytest.approx(3.0, rel=2e-3)
    assert jitter.p99 == pytest.approx(3.0, rel=2e-3)
    assert jitter.rms_over_root2 == pytest.approx(3.0 / math.sqrt(2))
    assert drift_of(errors).maximum == pytest.approx(3.0)


def test_jitter_is_measured_in_truth_px() -> None:
    """Half the size in the observed section: 3 observed px are 6 px of truth."""
    doubling = affine_field(np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), grid=GRID)
    errors = [error_of(doubling, NOTHING), error_of(doubling, constant(3.0, 0.0))]
    assert jitter_of(errors).median == pytest.approx(6.0, rel=2e-3)


def test_the_margin_is_96_px_and_shrinks_in_small_sections() -> None:
    assert margin_of((4000, 1000)) == 96
    assert margin_of((400, 1000)) == 96
    assert margin_of((200, 1000)) == 48
    y, x = GRID.positions()[:, inner_nodes(SHAPE)]
    assert y.min() == 98
    assert y.max() == 350
    assert x.max() == 382


def test_damaged_and_unknown_and_outside_nodes_do_not_count() -> None:
    damage = SOUND.clone()
    damage[50:60, 50:60] = True
    error = error_of(NOTHING, constant(8.0, 0.0), damage)  # node i looks at observed node i + 2
    assert bool(torch.isnan(error[:, 48:58, 50:60]).all())
    assert int(torch.isnan(error[0]).sum()) == int((~inner_nodes(SHAPE)).sum()) + 100
    unknown = NOTHING.clone()
    unknown[:, 50:60, 50:60] = torch.nan
    assert bool(torch.isnan(error_of(NOTHING, unknown)[:, 50:60, 50:60]).all())
    assert bool(torch.isnan(error_of(NOTHING, constant(500.0, 0.0))).all())


def test_drift_tells_tilt_and_affine_motion_from_the_rest() -> None:
    tilted = [constant(0.5 * z, 0.0) for z in range(9)]
    drift = drift_of(tilted)
    assert drift.maximum == pytest.approx(2.0)
    assert drift.trend_removed == pytest.approx(0.0, abs=1e-5)
    assert drift.affine_removed == pytest.approx(0.0, abs=1e-5)
    assert drift.slope == pytest.approx(1.0, abs=1e-3)
    turning = [affine_field(rotation_about(degrees=z**2 / 10, centre=(200.0, 200.0)), grid=GRID) for z in range(7)]
    drift = drift_of(turning)
    assert drift.maximum > 1
    assert drift.affine_removed < 1e-3
    assert drift.trend_removed > 0.1


def test_drift_of_a_random_walk_has_slope_one_half_and_bounded_drift_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(400, 2, 8, 8, generator=generator)
    assert drift_of(list(steps.cumsum(dim=0))).slope == pytest.approx(0.5, abs=0.12)
    assert drift_of(list(steps)).slope == pytest.approx(0.0, abs=0.05)


def test_drift_copes_with_missing_sections() -> None:
    drift = drift_of([constant(0.5 * z, 0.0) for z in (0, 1, 4, 7, 8)], sections=[0, 1, 4, 7, 8])
    assert drift.maximum == pytest.approx(2.0)
    assert drift.trend_removed == pytest.approx(0.0, abs=1e-5)
    assert math.isnan(drift_of([NOTHING]).maximum)


def bent(z: int) -> torch.Tensor:
    """Field of a method for undeformed section z: it bends tissue that runs obliquely."""
    return section_deformation(DeformationConfig.preset("smooth"), seed=9, z=z, shape_yx=SHAPE, grid=GRID) * 0.5


GAUGES = {
    "none": NOTHING,
    "shift": constant(6.0, -9.0),
    "rotation": affine_field(rotation_about(degrees=2.0, centre=(220.0, 240.0), shift=(5.0, 3.0)), grid=GRID),
    "elastic": deformed(99),
}


@pytest.mark.parametrize("gauge", GAUGES.values(), ids=GAUGES.keys())
def test_recovery_is_zero_for_a_method_that_only_bends_tissue(gauge: torch.Tensor) -> None:
    """C_z = F0_z∘G with any G: the deformation was undone, and what is left is what the method does anyway."""
    errors = [
        error_of(d, compose(outer=inverse(d, spacing=4.0), inner=after, spacing=4.0))
        for d, after in ((deformed(z), compose(outer=bent(z), inner=gauge, spacing=4.0)) for z in range(4))
    ]
    errors[2][:, 55:60, 55:65] = torch.nan
    found = gauge_between(error=errors[2], undeformed=bent(2))
    meter = RecoveryMeter(found)
    for z, error in enumerate(errors):
        meter.add(error=error, undeformed=bent(z))
    inner = torch.isfinite(errors[2])
    torch.testing.assert_close(found[inner], gauge[inner], atol=0.05, rtol=0)
    assert meter.result().p99 < 0.05
    assert jitter_of(errors).median > 2  # the bending itself is jitter, not a lack of recovery


def test_recovery_sees_what_was_not_undone() -> None:
    """One section is left 3 px off."""
    meter = RecoveryMeter(NOTHING)
    for z in range(3):
        after = compose(outer=bent(z), inner=NOTHING, spacing=4.0) + (constant(0.0, 3.0) if z == 1 else NOTHING)
        error = error_of(deformed(z), compose(outer=inverse(deformed(z), spacing=4.0), inner=after, spacing=4.0))
        meter.add(error=error, undeformed=bent(z))
    assert meter.result().median == pytest.approx(3.0, abs=0.02)


def test_recovery_of_doing_nothing_is_the_jitter_of_the_deformation() -> None:
    meter = RecoveryMeter(NOTHING)
    errors = [error_of(deformed(z), NOTHING) for z in range(3)]
    for error in errors:
        meter.add(error=error, undeformed=NOTHING)
    assert meter.result() == jitter_of(errors)


def test_two_steps_that_agree_are_consistent() -> None:
    near, before = bent(0), bent(1)
    far = compose(outer=before, inner=near, spacing=4.0)
    assert float(two_step_difference(near=near, before=before, far=far, spacing=4.0).max()) == 0.0
    off = two_step_difference(near=near, before=before, far=far + constant(3.0, 4.0), spacing=4.0)
    torch.testing.assert_close(off, torch.full_like(off, 5.0), atol=1e-4, rtol=0)
    swapped = two_step_difference(near=before, before=near, far=far, spacing=4.0)
    assert float(swapped.median()) > 0.01


def test_tissue_change_of_known_fields() -> None:
    meter = TissueChangeMeter()
    meter.add(affine_field(np.array([[1.1, 0.0, 0.0], [0.0, 1.0, 5.0]]), grid=GRID), spacing=4.0)
    change = meter.result()
    assert change.strain_p99 == pytest.approx(0.1, rel=5e-3)
    assert change.fold_rate == 0.0
    assert change.known == 1.0
    assert change.elastic_median < 1e-3
    assert change.displacement_median > 5
    meter = TissueChangeMeter()
    mirrored = affine_field(np.array([[-1.0, 0.0, 400.0], [0.0, 1.0, 0.0]]), grid=GRID)
    mirrored[:, :56] = torch.nan
    meter.add(mirrored, spacing=4.0)
    assert meter.result().fold_rate == 1.0
    assert meter.result().known == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=60), share=st.sampled_from([0.5, 0.95, 0.99]))
def test_distribution_agrees_with_sorting(values: list[float], share: float) -> None:
    distribution = Distribution()
    for value in values:
        distribution.add(torch.tensor([value, torch.nan]))
    expected = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert distribution.quantile(share) == pytest.approx(expected, rel=1.5e-3)
    assert distribution.rms == pytest.approx(math.sqrt(np.mean(np.square(values))), rel=1e-5)
    assert distribution.count == len(values)


def test_an_empty_distribution_knows_nothing() -> None:
    distribution = Distribution()
    distribution.add(torch.tensor([torch.nan]))
    assert math.isnan(distribution.median)
    assert math.isnan(distribution.rms)
    with pytest.raises(ValueError, match="negative"):
        distribution.add(torch.tensor([-1.0]))
