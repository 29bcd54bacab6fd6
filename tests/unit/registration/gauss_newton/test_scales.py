"""Units of residuals and Hessians: measured, passed back, and the same wherever a window is."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.gauss_newton_window import measure_scales
from ssem_dask.registration.gauss_newton.scales import ResidualScale, ResidualScales, median_scales
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    PairBatch,
    feature_pyramid,
    plan_steps,
    register_pairs,
)
from ssem_dask.registration.registration_method import WindowImages

CONFIG = GaussNewtonConfig(levels=(1, 0), node_spacing=(64, 32), iterations=(2, 1), passes=2)
IMAGE = Grid((256, 320), 1.0)


def of(*errors: float, far: tuple[float, ...] = (), confidence: float = 1.0) -> ResidualScales:
    """Scales with these errors, Hessians ten times as large."""
    cold, warm = (tuple(ResidualScale(error=e, hessian=10 * e) for e in values) for values in (errors, far))
    return ResidualScales(cold=cold, warm=(warm,) if far else (), confidence=confidence)


def test_the_last_iterations_are_meant_where_coarse_levels_are_left_out() -> None:
    scales = of(4.0, 3.0, 2.0, far=(6.0, 5.0))
    assert scales.error == 2.0

    def errors(**given: int | bool) -> list[float] | None:
        found = scales.select(**given)  # type: ignore[arg-type]
        return None if found is None else [s.error for s in found]

    assert errors(distance=1, warm=False, iterations=2) == [3.0, 2.0]
    assert errors(distance=1, warm=False, iterations=4) is None
    assert errors(distance=2, warm=True, iterations=2) == errors(distance=5, warm=True, iterations=2) == [6.0, 5.0]
    assert errors(distance=3, warm=False, iterations=3) == [4.0, 3.0, 2.0]
    assert of(1.0).select(distance=2, warm=True, iterations=1) is None


def test_median_scales_are_the_median_over_windows() -> None:
    assert median_scales([]) is None
    found = median_scales(
        [of(1.0, 8.0, confidence=3.0), of(2.0, 4.0, far=(7.0,), confidence=1.0), of(9.0, 5.0, confidence=2.0)]
    )
    assert found == of(2.0, 5.0, far=(7.0,), confidence=2.0)


@pytest.fixture(scope="module")
def pyramid() -> list[FeatureLevel]:
    """Two sections, moved by (2, 4) px; the right half of both changes twice as much from px to px."""
    random = torch.Generator().manual_seed(1)
    base = torch.nn.functional.avg_pool2d(torch.randn(1, 4, 76, 92, generator=random), 5, stride=1)[0] * 5
    base[:, :, 44:] *= 2
    sections = torch.stack([base[:, y : y + 64, x : x + 80] for y, x in ((0, 0), (1, 1))])
    return feature_pyramid(FeatureLevel(sections, torch.ones(2, 64, 80), Grid((64, 80), 4.0)), levels=2)


def test_a_pair_that_is_given_its_own_scales_is_registered_as_before(pyramid: list[FeatureLevel]) -> None:
    fixed, moving = ([level.select(torch.tensor([i])) for level in pyramid] for i in (0, 1))
    batch = PairBatch(fixed=fixed, moving=moving, image_grid=IMAGE)
    run = partial(register_pairs, batch, start=None, smoothness=20.0, config=CONFIG)
    own = run(measure_scales=True)
    assert len(own.scales) == sum(count for _, _, count in plan_steps(CONFIG, pyramid[0].grid, warm=False))
    assert own.scales[0].error > own.scales[-1].error > 0
    torch.testing.assert_close(run(scales=own.scales).fields.values, own.fields.values, atol=1e-4, rtol=0)
    stiff = run(scales=[ResidualScale(error=s.error, hessian=100 * s.hessian) for s in own.scales])
    assert float(stiff.fields.values.diff(dim=-1).abs().max()) < 0.5 * float(own.fields.values.diff(dim=-1).abs().max())


def test_a_window_measures_scales_of_every_distance() -> None:
    random = torch.Generator().manual_seed(2)
    base = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 300, 300, generator=random), 9, stride=1)[0, 0]
    images = torch.stack([base[z : z + 256, :256] for z in range(3)]) * 300 + 120
    config = GaussNewtonConfig(encoder="lcn")
    window = WindowImages(images=images, valid=torch.ones_like(images, dtype=torch.bool), grid=Grid((256, 256), 2.0))
    found = measure_scales(window, neighbours=2, config=config, device="cpu")
    assert found is not None
    count = sum(n for _, _, n in plan_steps(config, Grid((64, 64), 8.0), warm=False))
    assert len(found.cold) == count
    assert len(found.warm) == 1
    assert found.select(distance=1, warm=False, iterations=count) == found.cold
    empty = replace(window, valid=torch.zeros_like(window.valid))
    assert measure_scales(empty, neighbours=2, config=config, device="cpu") is None
