"""C3, C5, C6, C7 and C8 as laws of the field layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.field.affine import affine_field, apply_affine, compose_affine, invert_affine, rotation_about
from ssem_dask.field.compose import compose
from ssem_dask.field.extrapolate import filled
from ssem_dask.field.folding import fold_rate, jacobian_determinant, strain, without_mirroring
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import Interpolation, sample, sample_affine
from ssem_dask.field.inverse import inverse, preimages
from ssem_dask.field.warp import warp
from tests.support.strategies import MARGIN, SHAPE, SPACING, fields, images, interior

laws = settings(max_examples=30, deadline=None)
GRID = Grid(SHAPE, SPACING)


@laws
@given(
    image=images(),
    dy=st.integers(-5, 5),
    dx=st.integers(-5, 5),
    kind=st.sampled_from(["nearest", "bilinear", "bicubic", "bspline"]),
)
def test_c5_constant_whole_pixel_field_is_a_shift(image: torch.Tensor, dy: int, dx: int, kind: Interpolation) -> None:
    field = torch.tensor([dy, dx], dtype=torch.float32)[:, None, None].expand(2, *SHAPE) * SPACING
    warped, mask = warp(image, field=field, spacing=SPACING, kind=kind)
    # warp(p) = image(p + u): what is at p + u comes to p.
    expected = torch.roll(image, (-dy, -dx), dims=(1, 2))
    rows, columns = torch.arange(SHAPE[0]) + dy, torch.arange(SHAPE[1]) + dx
    inside = ((rows >= 0) & (rows < SHAPE[0]))[:, None] & ((columns >= 0) & (columns < SHAPE[1]))[None, :]
    assert torch.equal(mask, inside)
    assert torch.allclose(warped[:, inside], expected[:, inside], atol=1e-4)
    assert torch.equal(warped[:, ~inside], torch.zeros_like(warped[:, ~inside]))


@laws
@given(image=images())
def test_zero_field_is_the_identity(image: torch.Tensor) -> None:
    warped, mask = warp(image, field=torch.zeros(2, *SHAPE), spacing=SPACING)
    assert torch.allclose(warped, image, atol=1e-5)
    assert mask.all()


@laws
@given(image=images(), f=fields(), g=fields())
def test_c6_warping_by_a_composition_is_warping_twice(image: torch.Tensor, f: torch.Tensor, g: torch.Tensor) -> None:
    once, _ = warp(image, field=compose(outer=f, inner=g, spacing=SPACING), spacing=SPACING, kind="bspline")
    first, _ = warp(image, field=f, spacing=SPACING, kind="bspline")
    twice, _ = warp(first, field=g, spacing=SPACING, kind="bspline")
    assert interior(once - twice).abs().max() < 0.05


@laws
@given(f=fields(), g=fields())
def test_c6_composition_is_not_taken_the_other_way_round(f: torch.Tensor, g: torch.Tensor) -> None:
    positions = GRID.positions()
    composed = positions + compose(outer=f, inner=g, spacing=SPACING)
    # p ↦ outer(inner(p)): the inner displacement is read at p itself, with no interpolation.
    inner = positions + g
    assert torch.allclose(interior(composed - inner), interior(sampled(f, inner)), atol=1e-3)


def sampled(field: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Bilinear sampling written out, to hold against grid_sample's conventions."""
    index = positions / SPACING - 0.5
    low = index.floor().long()
    t = index - low
    out = torch.zeros_like(positions)
    for i in (0, 1):
        for j in (0, 1):
            row, column = (low[0] + i).clamp(0, SHAPE[0] - 1), (low[1] + j).clamp(0, SHAPE[1] - 1)
            weight = (t[0] if i else 1 - t[0]) * (t[1] if j else 1 - t[1])
            out += field[:, row, column] * weight
    return out


@laws
@given(f=fields(), g=fields(), h=fields())
def test_composition_is_associative(f: torch.Tensor, g: torch.Tensor, h: torch.Tensor) -> None:
    left = compose(outer=compose(outer=f, inner=g, spacing=SPACING), inner=h, spacing=SPACING)
    right = compose(outer=f, inner=compose(outer=g, inner=h, spacing=SPACING), spacing=SPACING)
    assert interior(left - right).abs().max() < 0.2  # px; the interpolation between nodes


@laws
@given(f=fields())
def test_zero_is_the_identity_of_composition(f: torch.Tensor) -> None:
    zero = torch.zeros_like(f)
    assert torch.allclose(compose(outer=zero, inner=f, spacing=SPACING), f)
    assert torch.allclose(compose(outer=f, inner=zero, spacing=SPACING), f, atol=1e-4)


@laws
@given(f=fields())
def test_c7_inverse_undoes_on_both_sides(f: torch.Tensor) -> None:
    back = inverse(f, spacing=SPACING)
    left = compose(outer=f, inner=back, spacing=SPACING)
    assert interior(torch.linalg.vector_norm(left, dim=0)).max() < 1e-3
    assert interior(compose(outer=back, inner=f, spacing=SPACING)).abs().max() < 0.2


@laws
@given(f=fields(), g=fields(), h=fields())
def test_unknown_stays_unknown_and_does_not_spread_far(f: torch.Tensor, g: torch.Tensor, h: torch.Tensor) -> None:
    row, column = SHAPE[0] // 2, SHAPE[1] // 2
    g = g.clone()
    g[:, row, column] = torch.nan
    out = compose(outer=f, inner=g, spacing=SPACING)
    assert torch.isnan(out[:, row, column]).all()
    assert int(torch.isnan(out[0]).sum()) == 1
    f = f.clone()
    f[:, row : row + 4, column : column + 4] = torch.nan
    out = compose(outer=f, inner=h, spacing=SPACING)
    unknown = int(torch.isnan(out[0]).sum())
    assert 4 <= unknown <= 49
    assert torch.isfinite(inverse(f, spacing=SPACING)[0]).sum() >= SHAPE[0] * SHAPE[1] - 64


@laws
@given(
    f=fields(),
    angle=st.floats(-3, 3),
    shift=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    scale=st.floats(0.97, 1.03),
)
def test_affine_fields_compose_as_affine_maps_do(
    f: torch.Tensor, angle: float, shift: tuple[float, float], scale: float
) -> None:
    centre = (SHAPE[0] * SPACING / 2, SHAPE[1] * SPACING / 2)
    a = rotation_about(degrees=angle, centre=centre, shift=shift, scale=scale)
    b = rotation_about(degrees=-angle / 2, centre=(0.0, 0.0), shift=(shift[1] / 2, shift[0] / 2))
    both = affine_field(compose_affine(outer=a, inner=b), grid=GRID)
    composed = compose(outer=affine_field(a, grid=GRID), inner=affine_field(b, grid=GRID), spacing=SPACING)
    assert interior(both - composed).abs().max() < 1e-2
    undone = compose(outer=affine_field(invert_affine(a), grid=GRID), inner=affine_field(a, grid=GRID), spacing=SPACING)
    assert interior(undone).abs().max() < 1e-2
    # An affine outer map needs no grid: the two ways to apply it to a field agree.
    positions = GRID.positions()
    analytic = apply_affine(a, positions + f) - positions
    assert interior(analytic - compose(outer=affine_field(a, grid=GRID), inner=f, spacing=SPACING)).abs().max() < 1e-2


@laws
@given(scale_y=st.floats(0.5, 1.5), scale_x=st.floats(0.5, 1.5), angle=st.floats(-180, 180))
def test_area_and_strain_of_an_affine_field_are_its_stretches(scale_y: float, scale_x: float, angle: float) -> None:
    affine = rotation_about(degrees=angle, centre=(160.0, 190.0))
    affine[:, :2] = affine[:, :2] @ torch.diag(torch.tensor([scale_y, scale_x], dtype=torch.float64)).numpy()
    field = affine_field(affine, grid=GRID)
    determinant = jacobian_determinant(field, spacing=SPACING)
    assert torch.allclose(determinant, torch.tensor(scale_y * scale_x, dtype=torch.float32), atol=1e-3)
    largest = max(abs(scale_y - 1), abs(scale_x - 1))
    assert torch.allclose(strain(field, spacing=SPACING), torch.tensor(largest, dtype=torch.float32), atol=1e-3)
    assert fold_rate(field, spacing=SPACING) == 0.0


@laws
@given(image=images(), angle=st.floats(-180, 180), dy=st.floats(-20, 20), origin=st.sampled_from([0.0, 96.0]))
def test_sampling_by_an_affine_map_is_sampling_at_its_positions(
    image: torch.Tensor, angle: float, dy: float, origin: float
) -> None:
    grid = Grid(SHAPE, SPACING, (origin, -origin))
    affine = rotation_about(degrees=angle, centre=(40.0, 50.0), shift=(dy, 3.0), scale=1.1)
    positions = apply_affine(affine, grid.positions())
    values, inside = sample_affine(image, grid=grid, affine=affine)
    assert torch.allclose(values, sample(image, grid=grid, positions=positions, kind="bilinear"), atol=1e-2)
    index = grid.index(positions)
    at_border = ((index + 0.5).abs() < 1e-3) | ((index - index.new_tensor(SHAPE)[:, None, None] + 0.5).abs() < 1e-3)
    assert torch.equal(inside | at_border.any(dim=0), grid.contains(positions) | at_border.any(dim=0))


def test_mirroring_is_taken_out_and_folds_stay() -> None:
    field = torch.zeros(2, *SHAPE)
    field[0, 10:20] = 3 * SPACING
    mirrored = without_mirroring(field, spacing=SPACING)
    assert fold_rate(mirrored, spacing=SPACING) > 0.9
    assert torch.allclose(without_mirroring(mirrored, spacing=SPACING), field)
    assert fold_rate(without_mirroring(mirrored, spacing=SPACING), spacing=SPACING) == fold_rate(field, spacing=SPACING)


def test_folded_nodes_are_counted() -> None:
    field = torch.zeros(2, *SHAPE)
    field[0, 10:20] = 3 * SPACING  # the rows behind jump back over the rows before them
    assert fold_rate(field, spacing=SPACING) == pytest.approx(1 / (SHAPE[0] - 1))


@laws
@given(origin=st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), spacing=st.sampled_from([1.0, 8.0, 32.0]))
def test_c3_nodes_lie_at_cell_centres_and_index_inverts_positions(origin: tuple[int, int], spacing: float) -> None:
    grid = Grid((7, 5), spacing, (float(origin[0]), float(origin[1])))
    positions = grid.positions()
    assert positions[0, 3, 0] == origin[0] + 3.5 * spacing
    assert positions[1, 0, 4] == origin[1] + 4.5 * spacing
    index = grid.index(positions)
    assert torch.allclose(index[0, :, 0], torch.arange(7.0), atol=1e-3)
    assert torch.allclose(index[1, 0], torch.arange(5.0), atol=1e-3)
    moved = grid.relative_to((float(origin[0]), float(origin[1])))
    assert torch.allclose(moved.positions(), positions - torch.tensor(origin)[:, None, None], atol=1e-3)
    assert grid.contains(positions).all()
    assert not grid.contains(positions + 7 * spacing).any()
    assert not grid.contains(torch.full((2, 3), torch.nan)).any()


def test_margin_leaves_an_interior() -> None:
    assert min(SHAPE) > 2 * MARGIN + 10


@laws
@given(f=fields(), unknown=st.integers(0, 2**32 - 1))
def test_filling_keeps_what_is_known_and_restores_affine_fields(f: torch.Tensor, unknown: int) -> None:
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(unknown)) < 0.4
    whole = filled(torch.where(mask, torch.nan, f), grid=GRID)
    assert torch.equal(whole[:, ~mask], f[:, ~mask])
    assert torch.isfinite(whole).all()
    affine = affine_field(rotation_about(degrees=170, centre=(40, 30), shift=(3, 4), scale=1.1), grid=GRID)
    assert torch.allclose(filled(torch.where(mask, torch.nan, affine), grid=GRID), affine, atol=1e-3)


@laws
@given(f=fields(), degrees=st.sampled_from([0, 90, 180, 251]))
def test_preimages_lead_back(f: torch.Tensor, degrees: float) -> None:
    field = f + affine_field(rotation_about(degrees=degrees, centre=(160, 192)), grid=GRID)
    targets = GRID.positions().double() + 1.25
    found = preimages(field, grid=GRID, targets=targets)
    back = found + sample(field, grid=GRID, positions=found.float(), kind="bilinear")
    known = torch.isfinite(found).all(dim=0)
    assert known.float().mean() > 0.5
    assert (back - targets)[:, known].abs().max() < 0.02
