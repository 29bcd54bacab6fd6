"""The kernels for GPUs give what the plain code gives; without a GPU they run in Triton's interpreter."""

import os
from collections.abc import Sequence

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
pytest.importorskip("triton")

from ssem_dask.field.grid import Grid  # noqa: E402
from ssem_dask.registration.encoders.local_contrast import normalise_contrast, normalise_contrast_on_gpu  # noqa: E402
from ssem_dask.registration.gauss_newton.confidence import measure_match  # noqa: E402
from ssem_dask.registration.gauss_newton.scales import ResidualScale  # noqa: E402
from ssem_dask.registration.gauss_newton.solver import (  # noqa: E402
    FeatureLevel,
    GaussNewtonConfig,
    NodeFields,
    PairBatch,
    feature_pyramid,
    plan_steps,
    register_pairs,
)
from ssem_dask.registration.triton.contrast_launch import block_moments  # noqa: E402
from ssem_dask.registration.triton.match_launch import measure_match_fused  # noqa: E402
from ssem_dask.registration.triton.pair_solver import forget_solvers, register_fused, suits  # noqa: E402

pytestmark = pytest.mark.slow

# 4 feature px to a cell on one level, 8 on the other; sides that are no multiple of anything.
SHAPE = (27, 33)
IMAGE = Grid((SHAPE[0] * 4 - 2, SHAPE[1] * 4 - 1), 2.0)
CONFIG = GaussNewtonConfig(levels=(1, 0), node_spacing=(32, 32), iterations=(1, 1), passes=2)


@pytest.fixture(scope="module")
def pyramid() -> list[FeatureLevel]:
    """Three sections, the second moved by (2, 4) px, with a hole in the first."""
    h, w = SHAPE
    random = torch.Generator().manual_seed(1)
    noise = torch.nn.functional.avg_pool2d(torch.randn(1, 4, h + 24, w + 24, generator=random), 5, stride=1) * 5
    base = noise[0, :, 10:, 10:]
    sections = torch.stack([base[:, y : y + h, x : x + w] for y, x in ((0, 0), (2, 4), (1, 0))])
    valid = torch.ones(3, h, w)
    valid[0, :5, :8] = 0
    finest = FeatureLevel((sections * valid[:, None]).to(DEVICE), valid.to(DEVICE), Grid(SHAPE, 8.0))
    return feature_pyramid(finest, levels=2)


PAIRS = [(0, 1), (2, 0)]


def _reference(
    pyramid: list[FeatureLevel],
    *,
    start: NodeFields | None,
    smoothness: float,
    scales: Sequence[ResidualScale] | None = None,
) -> NodeFields:
    index = torch.tensor(PAIRS, device=DEVICE)
    fixed, moving = ([level.select(index[:, side]) for level in pyramid] for side in (0, 1))
    batch = PairBatch(fixed=fixed, moving=moving, image_grid=IMAGE)
    return register_pairs(batch, start=start, smoothness=smoothness, config=CONFIG, scales=scales).fields


# Without a GPU features stay in single precision, so only rounding differs; px of mip 0.
TOLERANCE = 0.05 if DEVICE.type == "cuda" else 1e-3


def test_pairs_are_registered_as_by_the_plain_code(pyramid: list[FeatureLevel]) -> None:
    assert suits(pyramid, image_grid=IMAGE, config=CONFIG)
    expected = _reference(pyramid, start=None, smoothness=20.0)
    found = register_fused(pyramid, PAIRS, image_grid=IMAGE, start=None, smoothness=20.0, config=CONFIG)
    assert found.nodes == expected.nodes
    assert float(expected.values.abs().max()) > 4.0
    torch.testing.assert_close(found.values, expected.values, atol=TOLERANCE, rtol=0)
    # From there, smooth in what is added.
    expected = _reference(pyramid, start=found, smoothness=14.0)
    warm = register_fused(pyramid, PAIRS, image_grid=IMAGE, start=found, smoothness=14.0, config=CONFIG)
    assert float((expected.values - found.values).abs().max()) > 0.1
    torch.testing.assert_close(warm.values, expected.values, atol=TOLERANCE, rtol=0)
    forget_solvers()


@pytest.mark.no_cover  # which makes the interpreter of Triton take twice as long
def test_given_scales_are_taken_as_by_the_plain_code(pyramid: list[FeatureLevel]) -> None:
    iterations = sum(count for _, _, count in plan_steps(CONFIG, pyramid[0].grid, warm=False))
    scales = [ResidualScale(error=4.0 + i, hessian=0.5 + 0.1 * i) for i in range(iterations)]
    expected = _reference(pyramid, start=None, smoothness=20.0, scales=scales)
    found = register_fused(pyramid, PAIRS, image_grid=IMAGE, start=None, smoothness=20.0, config=CONFIG, scales=scales)
    own = register_fused(pyramid, PAIRS, image_grid=IMAGE, start=None, smoothness=20.0, config=CONFIG)
    assert float((own.values - found.values).abs().max()) > 0.2
    torch.testing.assert_close(found.values, expected.values, atol=TOLERANCE, rtol=0)
    forget_solvers()


def test_only_what_the_kernels_can_do_is_theirs(pyramid: list[FeatureLevel]) -> None:
    assert not suits(pyramid, image_grid=IMAGE, config=CONFIG.model_copy(update={"interpolation": "bspline"}))
    assert not suits(pyramid, image_grid=IMAGE, config=CONFIG.model_copy(update={"node_spacing": (32, 24)}))


@pytest.mark.parametrize("mean_residual", [None, 0.3])
def test_match_measures_are_those_of_the_plain_code(pyramid: list[FeatureLevel], mean_residual: float | None) -> None:
    fields = _reference(pyramid, start=None, smoothness=20.0)
    nodes = Grid.of_section((SHAPE[0] * 8, SHAPE[1] * 8), spacing=32)
    index = torch.tensor(PAIRS, device=DEVICE)
    fixed, moving = (pyramid[0].select(index[:, side]) for side in (0, 1))
    expected = measure_match(
        fields.on(fixed.grid), fixed=fixed, moving=moving, nodes=nodes, cutoff=2.0, mean_residual=mean_residual
    )
    found = measure_match_fused(pyramid[0], PAIRS, fields=fields, nodes=nodes, cutoff=2.0, mean_residual=mean_residual)
    assert 0.0 < float(expected.tissue.min()) < float(expected.tissue.max())
    for name in ("hessian", "correlation", "tissue"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 30_000.0])
def test_contrast_is_that_of_the_plain_code(offset: float) -> None:
    random = torch.Generator().manual_seed(2)
    images = torch.randn(2, 61, 83, generator=random) * 20 + torch.linspace(0, 90, 83) + offset
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, 20:45, 10:30] = False
    valid[1] = False
    expected = normalise_contrast(images, valid=valid, window=32)
    found = normalise_contrast_on_gpu(images.to(DEVICE), valid.to(DEVICE), 4).cpu()
    assert float(expected[0].std()) > 0.5
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    count, mean, _ = block_moments(images.to(DEVICE), valid=valid.to(DEVICE), side=4).cpu()
    assert float(count.sum()) == float(valid.sum())
    assert float(mean[0, 0, 0]) == pytest.approx(float(images[0, :4, :4].mean()), rel=1e-5)
