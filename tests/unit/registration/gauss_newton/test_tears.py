"""Smoothness that is cut across tears."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.regularisation import CurvatureWeights, curvature
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    PairBatch,
    feature_pyramid,
    register_pairs,
)
from ssem_dask.registration.gauss_newton.tears import Tears, curvature_weights

PIXELS = Grid((96, 96), 4.0)
NODES = Grid((12, 12), 32.0)


def _tear(columns: slice) -> Tears:
    mask = torch.zeros(1, *PIXELS.shape)
    mask[:, :, columns] = 1.0
    return Tears(mask, PIXELS)


def test_only_differences_that_a_tear_crosses_are_cut() -> None:
    weights = curvature_weights(_tear(slice(47, 49)), nodes=NODES)  # between columns 5 and 6
    assert bool((weights.yy == 1).all())
    assert [i for i in range(10) if weights.xx[0, 0, 0, i] < 1] == [4, 5]
    assert [i for i in range(11) if weights.yx[0, 0, 0, i] < 1] == [5]


def test_weights_of_1_are_the_plain_curvature_and_weighted_is_symmetric() -> None:
    u, v = torch.randn(2, 1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    ones = CurvatureWeights(torch.ones(1, 1, 10, 12), torch.ones(1, 1, 12, 10), torch.ones(1, 1, 11, 11))
    torch.testing.assert_close(curvature(u, ones), curvature(u), rtol=0, atol=0)
    weights = curvature_weights(_tear(slice(47, 49)), nodes=NODES)
    torch.testing.assert_close((v * curvature(u, weights)).sum(), (u * curvature(v, weights)).sum())
    assert float((u * curvature(u, weights)).sum()) > 0


def _sampled(shift: torch.Tensor) -> FeatureLevel:
    """Features that a smooth random function has, displaced by `shift` px of the features per column along y."""
    generator = torch.Generator().manual_seed(3)
    waves = torch.rand(24, 2, generator=generator) * 0.8 - 0.4
    phases = torch.rand(4, 24, generator=generator) * 6.3
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    y = y + shift[None, :]
    angles = waves[:, 0, None, None] * y + waves[:, 1, None, None] * x
    values = torch.cos(angles[None] + phases[:, :, None, None]).sum(dim=1)[None] / 5
    return FeatureLevel(values, torch.ones(1, 96, 96), PIXELS)


def test_a_jump_across_a_tear_is_found_only_if_smoothness_is_cut_there() -> None:
    jump = torch.where(torch.arange(96) < 48, 3.0, -3.0)  # 12 px of the image, either way
    fixed, moving = _sampled(jump), _sampled(torch.zeros(96))
    gap = torch.ones(1, 96, 96)
    gap[:, :, 45:51] = 0
    fixed = FeatureLevel(fixed.features * gap[:, None], gap, PIXELS)
    errors = []
    for tears in (None, _tear(slice(46, 50))):
        batch = PairBatch(
            fixed=feature_pyramid(fixed, levels=4),
            moving=feature_pyramid(moving, levels=4),
            image_grid=Grid((384, 384), 1.0),
            tears=tears,
        )
        found = register_pairs(batch, start=None, smoothness=40.0, config=GaussNewtonConfig()).fields
        wanted = 4.0 * jump
        missed = (found.on(PIXELS)[0, 0] - wanted[None, :]).abs()
        beside = torch.cat([missed[8:-8, 36:44], missed[8:-8, 52:60]], dim=1)
        errors.append(float(beside.mean()))
    assert errors[1] < 1.5
    assert errors[1] < 0.5 * errors[0]
