"""What residuals and Hessians are measured in: told, given back, and the same wherever a window lies."""

from functools import partial

import pytest
import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.gauss_newton_window import window_scales
from ssem_dask.registration.gauss_newton.scales import Scale, Scales, typical
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    feature_pyramid,
    plan_of,
    register_pairs,
)

CONFIG = GaussNewtonConfig(levels=(1, 0), node_spacing=(64, 32), iterations=(2, 1), passes=2)
IMAGE = Grid((256, 320), 1.0)


def of(*errors: float, far: tuple[float, ...] = (), confidence: float = 1.0) -> Scales:
    """Scales with these errors, Hessians ten times as large."""
    cold, warm = (tuple(Scale(error=e, hessian=10 * e) for e in some) for some in (errors, far))
    return Scales(cold=cold, warm=(warm,) if far else (), confidence=confidence)


def test_the_last_iterations_are_meant_where_coarse_levels_are_left_out() -> None:
    scales = of(4.0, 3.0, 2.0, far=(6.0, 5.0))
    assert scales.error == 2.0

    def errors(**given: int | bool) -> list[float] | None:
        found = scales.of(**given)  # type: ignore[arg-type]
        return None if found is None else [s.error for s in found]

    assert errors(distance=1, warm=False, iterations=2) == [3.0, 2.0]
    assert errors(distance=1, warm=False, iterations=4) is None
    assert errors(distance=2, warm=True, iterations=2) == errors(distance=5, warm=True, iterations=2) == [6.0, 5.0]
    assert errors(distance=3, warm=False, iterations=3) == [4.0, 3.0, 2.0]
    assert of(1.0).of(distance=2, warm=True, iterations=1) is None


def test_typical_is_the_median_over_windows() -> None:
    assert typical([]) is None
    found = typical(
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


def test_given_back_what_was_told_a_pair_is_registered_as_before(pyramid: list[FeatureLevel]) -> None:
    fixed, moving = ([level.select(torch.tensor([i])) for level in pyramid] for i in (0, 1))
    run = partial(register_pairs, fixed=fixed, moving=moving, image=IMAGE, start=None, smoothness=20.0, config=CONFIG)
    told: list[Scale] = []
    own = run(told=told.append)
    assert len(told) == sum(count for _, _, count in plan_of(CONFIG, pyramid[0].grid, warm=False))
    assert told[0].error > told[-1].error > 0
    torch.testing.assert_close(run(scales=told).values, own.values, atol=1e-4, rtol=0)
    stiff = run(scales=[Scale(error=s.error, hessian=100 * s.hessian) for s in told])
    assert float(stiff.values.diff(dim=-1).abs().max()) < 0.5 * float(own.values.diff(dim=-1).abs().max())


def test_a_window_says_them_of_every_distance() -> None:
    random = torch.Generator().manual_seed(2)
    base = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 300, 300, generator=random), 9, stride=1)[0, 0]
    images = torch.stack([base[z : z + 256, :256] for z in range(3)]) * 300 + 120
    config = GaussNewtonConfig(encoder="lcn")
    valid, grid = torch.ones_like(images, dtype=torch.bool), Grid((256, 256), 2.0)
    found = window_scales(images, valid=valid, grid=grid, neighbours=2, config=config, device="cpu")
    assert found is not None
    count = sum(n for _, _, n in plan_of(config, Grid((64, 64), 8.0), warm=False))
    assert len(found.cold) == count
    assert len(found.warm) == 1
    assert found.of(distance=1, warm=False, iterations=count) == found.cold
    empty = torch.zeros_like(valid)
    assert window_scales(images, valid=empty, grid=grid, neighbours=2, config=config, device="cpu") is None
