from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from pydantic import ValidationError

from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_batch, sample_known
from ssem_dask.registration.gauss_newton.gauss_newton_window import GaussNewton
from ssem_dask.registration.gauss_newton.normal_equations import NodeBasis, assemble, solve_step
from ssem_dask.registration.gauss_newton.regularisation import CosineBasis, curvature
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    NodeFields,
    PairBatch,
    feature_pyramid,
    register_pairs,
)
from ssem_dask.registration.registration_method import PairRequest, WindowImages
from ssem_dask.registration.vector_map import covering_nodes

SIDE = 256


def _texture(seed: int, side: int = SIDE) -> torch.Tensor:
    noise = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.avg_pool2d(noise[:1], 9, stride=1, padding=4)
    wide = torch.nn.functional.avg_pool2d(noise[1:], 31, stride=1, padding=15)
    return (fine / fine.std() + wide / wide.std())[0, 0] * 25 + 128


def _deformed(truth: torch.Tensor, *, seeds, kind="smooth", side: int = SIDE):
    """Sections observed(p) = truth(p + d(p)), and the d."""
    grid = Grid((truth.shape[-1], truth.shape[-1]), 1.0)
    config = DeformationConfig.preset(kind)
    bends = [draw_deformation(config, seed=s, z=0, shape_yx=(side, side)) for s in seeds]
    corner = (truth.shape[-1] - side) / 2
    at = Grid((side, side), 1.0).positions()
    observed = [sample(truth[None], grid=grid, positions=at + corner + d.at(at), kind="bicubic")[0] for d in bends]
    return torch.stack(observed), bends


def _register(images, *, config=None, valid=None, neighbours=1, core=None, spacing=16):
    shape = (images.shape[1], images.shape[2])
    valid = torch.ones_like(images, dtype=torch.bool) if valid is None else valid
    nodes = Grid.of_section(shape, spacing=spacing)
    core = range(len(images)) if core is None else core
    return GaussNewton().register(
        WindowImages(images=images, valid=valid, grid=Grid(shape, 1.0)),
        PairRequest(nodes=nodes, core=core, neighbours=neighbours),
        config=config or GaussNewtonConfig(),
        device="cpu",
    )


def _register_features(fixed, moving, *, side=(256, 256)) -> NodeFields:
    batch = PairBatch(fixed=fixed, moving=moving, image_grid=Grid(side, 1.0))
    return register_pairs(batch, start=None, smoothness=24.0, config=GaussNewtonConfig()).fields


def _error(pair, *, fixed, moving, spacing=16, margin=32):
    """Distance between where the pair leads and where it should, truth px, for sections of one and the same truth."""
    side = pair.shape[-1] * spacing
    at = Grid(((side - 2 * margin) // 4, (side - 2 * margin) // 4), 4.0, (margin, margin)).positions()
    end = at + sample_known(pair, grid=Grid.of_section((side, side), spacing=spacing), positions=at)
    return torch.linalg.vector_norm(end + moving.at(torch.nan_to_num(end)) - at - fixed.at(at), dim=0)


def _batch(seed: int, n: int = 2, c: int = 3, side: int = 24):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, n, c, side + 8, side + 8, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(values.flatten(0, 1), 9, stride=1) * 9
    return smooth.unflatten(0, (2, n))


# The linear algebra.


def test_curvature_is_symmetric_positive_and_blind_to_affine_fields():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 2, 7, 9, generator=generator, dtype=torch.float64)
    assert torch.allclose((a * curvature(b)).sum(), (b * curvature(a)).sum())
    assert float((a * curvature(a)).sum()) > 0
    y, x = Grid((7, 9), 1.0).positions().double()
    assert float(curvature(2.0 + 0.3 * y - 0.7 * x).abs().max()) < 1e-12
    for shape in ((1, 1), (2, 2), (1, 5)):
        assert curvature(torch.randn(1, 2, *shape)).isfinite().all()


def test_curvature_is_the_gradient_of_the_bending_energy():
    u = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    yy, xx = u.diff(n=2, dim=1), u.diff(n=2, dim=2)
    yx = u.diff(dim=1).diff(dim=2)
    energy = 0.5 * (yy.square().sum() + xx.square().sum() + 2 * yx.square().sum())
    (gradient,) = torch.autograd.grad(energy, u)
    torch.testing.assert_close(curvature(u.detach()), gradient)


def test_the_preconditioner_inverts_what_it_claims():
    basis = CosineBasis.of((6, 8), device="cpu")
    eye = torch.eye(6)
    torch.testing.assert_close(basis.y @ basis.y.T, eye, atol=1e-5, rtol=0)
    u = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    diagonal, smoothness = torch.rand(3, 2, 1, 1) + 0.5, torch.rand(3, 1, 1, 1)
    solved = basis.solve(u, diagonal=diagonal, smoothness=smoothness)
    back = diagonal * solved + smoothness * (basis.y.T @ ((basis.y @ solved @ basis.x.T) * basis.spectrum) @ basis.x)
    torch.testing.assert_close(back, u, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bilinear", "bspline"])
def test_gather_is_the_transpose_of_spread(kind):
    pixels = Grid((24, 20), 4.0)
    nodes = covering_nodes(pixels, spacing=32.0)
    basis = NodeBasis.between(nodes=nodes, pixels=pixels, kind=kind, device="cpu")
    u, v = torch.randn(2, *nodes.shape), torch.randn(2, *pixels.shape)
    torch.testing.assert_close((basis.spread(u) * v).sum(), (u * basis.gather(v)).sum(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(basis.spread(torch.ones(nodes.shape)), torch.ones(pixels.shape))


def test_b_is_the_derivative_of_the_squared_residual():
    """With w = 1 (an endless cutoff) and g = ∇(B ∘ T): b = d/du ½ Σ r², by central differences in float64."""
    fixed, moving = (f.double() for f in _batch(1, n=1))
    grid = Grid((24, 24), 1.0)
    nodes = covering_nodes(grid, spacing=8.0)
    basis = NodeBasis.between(nodes=nodes, pixels=grid, kind="bilinear", device="cpu")
    basis = NodeBasis(basis.y.double(), basis.x.double(), basis.cell)
    # A plane wave: its interpolation is equally smooth, so that differences of samples are its derivative.
    y, x = grid.positions().double()
    moving = torch.stack([torch.sin(y / 4 + x / 5), torch.cos(x / 6 - y / 7)])[None]
    fixed = fixed[:, :2] * 0.1 + moving

    def wave(u):
        at = grid.positions().double() + basis.spread(u)[0]
        return torch.stack([torch.sin(at[0] / 4 + at[1] / 5), torch.cos(at[1] / 6 - at[0] / 7)])[None]

    def slope(u):
        at = grid.positions().double() + basis.spread(u)[0]
        first, second = torch.cos(at[0] / 4 + at[1] / 5), -torch.sin(at[1] / 6 - at[0] / 7)
        return torch.stack([first / 4, -second / 7])[None], torch.stack([first / 5, second / 6])[None]

    u = torch.randn(1, 2, *nodes.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.3
    gy, gx = slope(u)
    equations = assemble(
        residual=wave(u) - fixed,
        gradient_y=gy,
        gradient_x=gx,
        valid=torch.ones(1, 24, 24, dtype=torch.float64),
        cutoff=1e6,
        basis=basis,
    )
    for axis, i, j in ((0, 2, 2), (1, 1, 3), (0, 3, 1)):
        step = torch.zeros_like(u)
        step[0, axis, i, j] = 1e-4
        ahead, behind = (0.5 * (wave(u + s * step) - fixed).square().sum() for s in (1, -1))
        numeric = float((ahead - behind) / 2e-4)
        assert float(equations.b[0, axis, i, j]) == pytest.approx(numeric, rel=1e-4)
        # Lumped rows sum to those of the full matrix: a uniform step changes b by T times it.
        everywhere = torch.zeros_like(u)
        everywhere[0, axis] = 1.0
        full = basis.gather((gy if axis == 0 else gx).square().sum(dim=1))
        lumped = equations.yy if axis == 0 else equations.xx
        torch.testing.assert_close(lumped, full)


def test_conjugate_gradients_solve_the_system():
    fixed, moving = _batch(3)
    grid = Grid((24, 24), 1.0)
    nodes = covering_nodes(grid, spacing=6.0)
    basis = NodeBasis.between(nodes=nodes, pixels=grid, kind="bilinear", device="cpu")
    gy, gx = torch.gradient(moving, dim=(-2, -1))
    valid = torch.ones(2, 24, 24)
    equations = assemble(residual=moving - fixed, gradient_y=gy, gradient_x=gx, valid=valid, cutoff=2.0, basis=basis)
    cosines, u = CosineBasis.of(nodes.shape, device="cpu"), torch.zeros(2, 2, *nodes.shape)
    exact = solve_step(equations, u=u, smoothness=0.3, basis=cosines, iterations=40)
    left = -equations.b - torch.stack(
        [
            equations.yy * exact[:, 0] + equations.yx * exact[:, 1],
            equations.yx * exact[:, 0] + equations.xx * exact[:, 1],
        ],
        dim=1,
    )
    left = left - equations.stiffness * (0.3 * curvature(exact) + 1e-3 * exact)
    assert float(left.norm() / equations.b.norm()) < 1e-3
    few = solve_step(equations, u=u, smoothness=0.3, basis=cosines, iterations=4)
    assert float((few - exact).norm() / exact.norm()) < 0.1


# Pairs.


def _levels(values: torch.Tensor, valid: torch.Tensor | None = None) -> list[FeatureLevel]:
    n, _, h, w = values.shape
    mask = torch.ones(n, h, w) if valid is None else valid
    return feature_pyramid(FeatureLevel(values * mask[:, None], mask, Grid((h, w), 4.0)), levels=4)


def test_a_batch_gives_what_single_pairs_give():
    a, b = _batch(4, n=3, c=2, side=64)
    together = _register_features(_levels(a), _levels(b))
    for i in range(3):
        alone = _register_features(_levels(a[i : i + 1]), _levels(b[i : i + 1]))
        torch.testing.assert_close(alone.values[0], together.values[i], atol=1e-3, rtol=1e-3)


def test_a_pair_without_data_stays_at_zero_and_does_not_disturb_the_others():
    a, b = _batch(4, n=2, c=2, side=64)
    valid = torch.ones(2, 64, 64)
    valid[1] = 0.0
    with_empty = _register_features(_levels(a, valid), _levels(b))
    alone = _register_features(_levels(a[:1]), _levels(b[:1]))
    assert float(with_empty.values[1].abs().max()) == 0.0
    torch.testing.assert_close(with_empty.values[0], alone.values[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 40)])
def test_any_size_gives_finite_fields(shape):
    a = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    levels = feature_pyramid(FeatureLevel(a, torch.ones(1, *shape), Grid(shape, 4.0)), levels=4)
    found = _register_features(levels, levels, side=(shape[0] * 4, shape[1] * 4))
    assert isinstance(found, NodeFields)
    assert found.values.isfinite().all()
    assert float(found.values.abs().max()) < 1e-3


def test_sampling_a_batch_is_sampling_each():
    values = torch.randn(3, 2, 8, 9)
    grid = Grid((8, 9), 4.0, (-3.0, 5.0))
    positions = torch.rand(3, 2, 5, 6) * 60 - 10
    together = sample_batch(values, grid=grid, positions=positions)
    for i in range(3):
        torch.testing.assert_close(together[i], sample(values[i], grid=grid, positions=positions[i], kind="bilinear"))


# Windows.


@pytest.mark.parametrize("encoder", ["metric", "lcn"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bspline"])
def test_a_known_smooth_warp_comes_back(encoder, interpolation):
    observed, bends = _deformed(_texture(1, SIDE + 64), seeds=(1, 2))
    found = _register(observed, config=GaussNewtonConfig(encoder=encoder, interpolation=interpolation))
    error = _error(found.fields[0, 1], fixed=bends[1], moving=bends[0])
    assert float(error.nanmedian()) < 0.5
    assert float(found.fields[0, 1].isfinite().float().mean()) > 0.9


def test_a_known_smooth_warp_of_real_tissue_comes_back(real_sections: Callable[[str], Path]) -> None:
    path = real_sections("flyem_fibsem/images.tif")
    plane = torch.from_numpy(tifffile.imread(path, key=100).astype(np.float32))
    truth = torch.nn.functional.interpolate(plane[None, None], scale_factor=2, mode="bicubic", align_corners=False)
    observed, bends = _deformed(truth[0, 0], seeds=(3, 4), side=416)
    found = _register(observed)
    error = _error(found.fields[0, 1], fixed=bends[1], moving=bends[0])
    assert float(error.nanmedian()) < 0.5
    assert float(error.nan_to_num(0.0).quantile(0.95)) < 1.5


def test_a_shift_of_20_px_is_found():
    truth = _texture(5, SIDE + 64)
    observed = torch.stack([truth[32 : 32 + SIDE, 32 : 32 + SIDE], truth[12 : 12 + SIDE, 46 : 46 + SIDE]])
    found = _register(observed)
    # The point y of section 1 is the truth at y + (12, 46), which section 0 shows at y + (-20, 14).
    inner = found.fields[0, 1][:, 3:-3, 3:-3]
    assert float(inner[0].nanmedian()) == pytest.approx(-20.0, abs=0.2)
    assert float(inner[1].nanmedian()) == pytest.approx(14.0, abs=0.2)
    assert float((inner[0] + 20).abs().nan_to_num(0.0).quantile(0.9)) < 1.0


def test_far_neighbours_are_found_from_near_ones_and_across_an_empty_section():
    truth = _texture(6, SIDE + 64)
    observed, bends = _deformed(truth, seeds=(1, 2, 3, 4))
    found = _register(observed, neighbours=3)
    for k in (1, 2, 3):
        error = _error(found.fields[k - 1, 3], fixed=bends[3], moving=bends[3 - k])
        assert float(error.nanmedian()) < 0.5
    valid = torch.ones_like(observed, dtype=torch.bool)
    valid[2] = False
    observed[2] = 0.0
    found = _register(observed, neighbours=3, valid=valid)
    assert found.fields[0, 2:].isnan().all()
    assert float(found.confidence[0, 2:].max()) == 0.0
    error = _error(found.fields[1, 3], fixed=bends[3], moving=bends[1])
    assert float(error.nanmedian()) < 0.5


@pytest.mark.parametrize(("seed", "largest"), [(50, 4.5), (70, 8.0)])  # without a start, 7.9 and 16.4
def test_pairs_across_a_missing_section_start_from_the_sections_around_it(seed, largest):
    parts = [_texture(seed + i, SIDE + 64) - 128 for i in range(8)]
    # Half of what two sections show is the same if one is between them, a quarter if there are two.
    truths = [128 + torch.stack(parts[z : z + 4]).sum(dim=0) / 2 for z in range(5)]
    observed, bends = zip(*(_deformed(truth, seeds=(z + 1,)) for z, truth in enumerate(truths)), strict=True)
    images = torch.cat(observed)
    valid = torch.ones_like(images, dtype=torch.bool)
    images[2], valid[2] = 0.0, False
    found = _register(images, neighbours=3, valid=valid)
    error = _error(found.fields[2, 4], fixed=bends[4][0], moving=bends[1][0])
    assert float(error.nanmedian()) < largest


def test_empty_areas_are_unknown_and_do_not_pull():
    truth = _texture(7, SIDE + 64)
    observed, bends = _deformed(truth, seeds=(5, 6))
    whole = _register(observed)
    valid = torch.ones_like(observed, dtype=torch.bool)
    valid[0, :, :96] = False
    observed[0, :, :96] = float("nan")
    found = _register(observed, valid=valid)
    assert found.fields[0, 1, :, :, :4].isnan().all()
    assert float(found.confidence[0, 1, :, :4].max()) == 0.0
    error = _error(found.fields[0, 1], fixed=bends[1], moving=bends[0])
    assert float(error.nanmedian()) < 0.6
    far = (found.fields[0, 1] - whole.fields[0, 1])[:, :, 9:]
    assert float(far.abs().nanmedian()) < 0.2


def test_confidence_tells_alike_from_unrelated():
    observed, _ = _deformed(_texture(8, SIDE + 64), seeds=(1, 2, 3))
    observed = torch.cat([observed, _texture(99)[None]])
    found = _register(observed)
    sure, unsure = found.confidence[0, 1:3], found.confidence[0, 3]
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    assert float(sure.median()) > 0.3
    assert float(unsure.mean()) < 0.1


def test_the_core_alone_gives_the_same_fields():
    observed, _ = _deformed(_texture(9, SIDE + 64), seeds=(1, 2, 3))
    whole = _register(observed, neighbours=2)
    part = _register(observed, neighbours=2, core=range(2, 3))
    torch.testing.assert_close(part.fields[:, 0], whole.fields[:, 2], atol=1e-3, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"levels": (3, 2), "node_spacing": (128,), "iterations": (3, 3)},
        {"levels": (0, 3, 2, 1)},
        {"smoothness": ()},
        {"iterations": (3, 2, 2, -1)},
        {"cutoff": 0.0},
    ],
)
def test_bad_configurations_are_refused(bad):
    with pytest.raises(ValidationError):
        GaussNewtonConfig(**bad)
