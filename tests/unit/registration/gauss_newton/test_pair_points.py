"""Points of a person as observations of a pair field."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.pair_points import PairPoints, PointBatch
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    NodeFields,
    PairBatch,
    feature_pyramid,
    register_pairs,
)

PIXELS = Grid((96, 96), 4.0)
PERIOD_PX = 48.0
"""Matches repeat along y every 48 px of the working image."""


def _periodic() -> FeatureLevel:
    y, x = torch.meshgrid(torch.arange(96.0) * 4, torch.arange(96.0) * 4, indexing="ij")
    phases = torch.tensor([0.0, 1.1, 2.3, 4.0])[:, None, None]
    values = torch.cos(2 * torch.pi * y / PERIOD_PX + phases) + 0.5 * torch.cos(0.11 * x + 2 * phases)
    return FeatureLevel(values[None], torch.ones(1, 96, 96), PIXELS)


def _points(*rows: tuple[float, float, float, float], sd: float) -> PairPoints:
    values = torch.tensor(rows)
    return PairPoints(values[:, :2], values[:, 2:], torch.full((len(rows),), sd))


def _registered(points: PairPoints | None) -> NodeFields:
    pyramid = feature_pyramid(_periodic(), levels=4)
    batch = PairBatch(
        fixed=pyramid,
        moving=pyramid,
        image_grid=Grid((384, 384), 1.0),
        points=None if points is None else PointBatch.of([points], device="cpu"),
    )
    return register_pairs(batch, start=None, smoothness=22.6, config=GaussNewtonConfig()).fields


def _at(fields: NodeFields, y: float, x: float) -> torch.Tensor:
    where = Grid((1, 1), 1.0, (y - 0.5, x - 0.5))
    return fields.on(where)[0, :, 0, 0]


def test_a_point_wins_against_a_wrong_match_and_fades() -> None:
    plain = _registered(None)
    assert float(plain.values.abs().max()) < 0.1
    fields = _registered(_points((192.0, 192.0, PERIOD_PX, 0.0), sd=2.0))
    near, far = _at(fields, 192, 192), _at(fields, 20, 20)
    assert abs(float(near[0]) - PERIOD_PX) < 4
    assert float(far.abs().max()) < 1


def test_an_exact_point_counts_more_than_a_vague_one() -> None:
    """Where the images say that nothing moves, a point pulls the field by its standard deviation."""
    moved = [float(_at(_registered(_points((192, 192, 6.0, 0.0), sd=sd)), 192, 192)[0]) for sd in (0.5, 2.0, 20.0)]
    assert moved[0] > moved[1] > moved[2]
    assert moved[0] > 3
    assert moved[2] < 0.5


def test_points_are_observed_as_their_gradient_says() -> None:
    """B is the derivative of the points' energy by the nodes, and the diagonal that of b where nodes are alone."""
    nodes = Grid((4, 5), 8.0, (-2.0, 1.0))
    points = PointBatch.of([_points((7.0, 11.0, 1.0, -2.0), (22.0, 30.0, 0.5, 3.0), sd=1.5)], device="cpu")
    u = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    u.requires_grad_(True)
    where = points.positions.transpose(1, 2)[..., None]
    from ssem_dask.field.interpolate import sample_batch

    error = sample_batch(u, grid=nodes, positions=where)[..., 0].transpose(1, 2) - points.displacements / 2.0
    weight = (2.0 / 1.5) ** 2 * 10.0
    (0.5 * weight * error.square().sum()).backward()
    diagonal, b = points.observe(u.detach(), nodes=nodes, unit=2.0, match=torch.tensor([10.0]), pixel=1.0)
    torch.testing.assert_close(b, u.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(diagonal.sum(), torch.tensor(2 * weight), rtol=1e-5, atol=0)


def test_the_reverse_of_points_leads_back() -> None:
    points = _points((10.0, 20.0, 3.0, -4.0), sd=1.0)
    torch.testing.assert_close(points.reversed.reversed.positions, points.positions)
    field = torch.tensor([-3.0, 4.0])[:, None, None].expand(2, 8, 8)
    assert float(points.reversed.residuals(field, Grid((8, 8), 8.0)).max()) < 1e-5
