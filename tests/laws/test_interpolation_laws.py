"""Laws of every kind of interpolation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample, sample_known, sample_known_batch, sample_lattice
from tests.support.strategies import smooth_noise

KINDS: list[Interpolation] = ["nearest", "bilinear", "bicubic", "bspline"]
LINEAR: list[Interpolation] = ["bilinear", "bicubic", "bspline"]
REACH = 14  # nodes; the spline's response to the border has died away

laws = settings(max_examples=20, deadline=None)
shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))
spacings = st.sampled_from([1.0, 4.0, 32.0])


def random_positions(grid: Grid, *, margin: float, seed: int) -> torch.Tensor:
    """Positions at least `margin` nodes inside the outermost nodes."""
    unit = torch.rand(2, 50, generator=torch.Generator().manual_seed(seed))
    size = torch.tensor(grid.shape)[:, None]
    index = margin + unit * (size - 1 - 2 * margin)
    return torch.tensor(grid.origin)[:, None] + (index + 0.5) * grid.spacing


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(shape=shapes, spacing=spacings, seed=st.integers(0, 1000))
def test_at_a_node_the_value_is_the_nodes(
    kind: Interpolation, shape: tuple[int, int], spacing: float, seed: int
) -> None:
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    grid = Grid(shape, spacing, (3.0 * spacing, -2.0 * spacing))
    assert torch.allclose(sample(values, grid=grid, positions=grid.positions(), kind=kind), values, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(shape=shapes, spacing=spacings, seed=st.integers(0, 1000), level=st.floats(-100, 100))
def test_constants_are_kept_even_outside(
    kind: Interpolation, shape: tuple[int, int], spacing: float, seed: int, level: float
) -> None:
    grid = Grid(shape, spacing)
    positions = random_positions(grid, margin=-30.0, seed=seed)
    out = sample(torch.full((1, *shape), level), grid=grid, positions=positions, kind=kind)
    assert torch.allclose(out, torch.tensor(level, dtype=torch.float32), atol=1e-3)


@pytest.mark.parametrize("kind", ["bilinear", "bspline"])
@laws
@given(slope=st.tuples(st.floats(-2, 2), st.floats(-2, 2)), seed=st.integers(0, 1000))
def test_linear_ramps_are_kept_inside(kind: Interpolation, slope: tuple[float, float], seed: int) -> None:
    grid = Grid((40, 44), 4.0, (100.0, 200.0))
    ramp = (torch.tensor(slope)[:, None, None] * grid.positions()).sum(dim=0, keepdim=True)
    positions = random_positions(grid, margin=REACH, seed=seed)
    out = sample(ramp, grid=grid, positions=positions, kind=kind)
    assert torch.allclose(out[0], (torch.tensor(slope)[:, None] * positions).sum(dim=0), atol=1e-2)


@laws
@given(seed=st.integers(0, 1000))
def test_smoother_kinds_are_closer_to_a_smooth_function(seed: int) -> None:
    fine = smooth_noise(1, (320, 320), seed=seed, cycles=4)
    grid = Grid((40, 40), 8.0)
    values = fine.reshape(1, 40, 8, 40, 8)[:, :, 3:5, :, 3:5].mean(dim=(2, 4))  # fine's value at the node
    where = Grid((320, 320), 1.0).positions()[:, 120:200, 120:200]
    error = {
        k: (sample(values, grid=grid, positions=where, kind=k)[0] - fine[0, 120:200, 120:200]).square().mean()
        for k in KINDS
    }
    assert error["bspline"] < error["bilinear"] < error["nearest"]


@laws
@given(seed=st.integers(0, 1000))
def test_nearest_only_gives_values_that_exist(seed: int) -> None:
    labels = torch.randint(0, 9, (1, 15, 11), generator=torch.Generator().manual_seed(seed)).float()
    grid = Grid((15, 11), 4.0)
    out = sample(labels, grid=grid, positions=random_positions(grid, margin=-1.0, seed=seed), kind="nearest")
    assert torch.equal(out, out.round())
    assert set(out.unique().tolist()) <= set(labels.unique().tolist())


@pytest.mark.parametrize("kind", LINEAR)
@laws
@given(seed=st.integers(0, 1000), a=st.floats(-3, 3))
def test_sampling_is_linear_in_the_values(kind: Interpolation, seed: int, a: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    f, g = torch.randn(1, 12, 14, generator=generator), torch.randn(1, 12, 14, generator=generator)
    grid = Grid((12, 14), 8.0)
    positions = random_positions(grid, margin=0.0, seed=seed)
    one = sample(f + a * g, grid=grid, positions=positions, kind=kind)
    parts = [sample(v, grid=grid, positions=positions, kind=kind) for v in (f, g)]
    assert torch.allclose(one, parts[0] + a * parts[1], atol=1e-3)


@laws
@given(seed=st.integers(0, 1000))
def test_unknown_nodes_are_left_out_and_unknown_positions_stay_unknown(seed: int) -> None:
    field = torch.full((2, 10, 10), 3.0)
    field[:, 4:6, 4:6] = torch.nan
    grid = Grid((10, 10), 4.0)
    positions = random_positions(grid, margin=0.0, seed=seed)
    positions[:, 0] = torch.nan
    out = sample_known(field, grid=grid, positions=positions)
    assert torch.isnan(out[:, 0]).all()
    known = torch.isfinite(out[0])
    assert torch.allclose(out[:, known], torch.tensor(3.0), atol=1e-4)
    index = grid.index(positions)
    in_hole = ((index - 4.5).abs() < 0.5).all(dim=0)  # all four nodes about it are unknown
    clear = ((index - 4.5).abs() > 1.5).any(dim=0)
    assert not known[in_hole].any()
    assert known[clear].all()


def test_resampling_onto_a_shifted_crop_reads_the_same_nodes() -> None:
    field = smooth_noise(2, (20, 24), seed=0, cycles=2)
    field[:, 3, 3] = torch.nan
    crop = Grid((6, 5), 16.0, (2 * 16.0, 3 * 16.0))
    out = sample_known(field, grid=Grid((20, 24), 16.0), positions=crop.positions())
    assert torch.allclose(out, field[:, 2:8, 3:8], atol=1e-5, equal_nan=True)


def test_sampling_a_lattice_is_sampling_its_points() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 7, 9, generator=random)
    grid = Grid((7, 9), 32.0, (-16.0, 8.0))
    rows, columns = torch.arange(-40, 260, 7, dtype=torch.float32) + 0.5, torch.arange(-9, 400, dtype=torch.float32)
    points = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    expected = sample(values, grid=grid, positions=points, kind="bilinear")
    assert torch.allclose(sample_lattice(values, grid=grid, rows=rows, columns=columns), expected, atol=2e-5)


def test_sampling_a_batch_of_fields_with_holes_is_sampling_each() -> None:
    random = torch.Generator().manual_seed(1)
    fields = torch.randn(3, 2, 8, 10, generator=random)
    fields[0, :, 2:4, 3:5] = torch.nan
    fields[2] = torch.nan
    grid = Grid((8, 10), 16.0)
    positions = torch.rand(3, 2, 20, 21, generator=random) * 200 - 20
    positions[1, :, 3] = torch.nan
    found = sample_known_batch(fields, grid=grid, positions=positions)
    for field, where, own in zip(fields, positions, found, strict=True):
        torch.testing.assert_close(own, sample_known(field, grid=grid, positions=where), equal_nan=True)
