import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.errors import ConfigError
from ssem_dask.field.grid import Grid
from ssem_dask.registration.vector_map import Interpolator, MapInterpolation, VectorMap, covering_nodes

KINDS: tuple[MapInterpolation, ...] = ("bilinear", "bicubic", "bspline", "tps")
INTERPOLATING: tuple[MapInterpolation, ...] = ("bilinear", "bicubic", "tps")

grids = st.builds(
    Grid,
    st.tuples(st.integers(5, 60), st.integers(5, 60)),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.tuples(st.integers(-500, 500).map(float), st.integers(-500, 500).map(float)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    image=grids, spacing=st.sampled_from([16.0, 33.0, 64.0]), constant=st.tuples(st.floats(-50, 50), st.floats(-50, 50))
)
def test_a_constant_is_reproduced(kind, image, spacing, constant):
    nodes = covering_nodes(image, spacing=spacing)
    values = torch.tensor(constant, dtype=torch.float32)[:, None, None].expand(2, *nodes.shape)
    field = VectorMap(values, nodes, kind).on(image)
    assert field.shape == (2, *image.shape)
    torch.testing.assert_close(field, values[:, :1, :1].expand_as(field), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", INTERPOLATING)
def test_a_node_has_its_own_value(kind):
    nodes = Grid((6, 5), 32.0, (10.0, -20.0))
    values = torch.randn(2, *nodes.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(VectorMap(values, nodes, kind).on(nodes), values, atol=1e-4, rtol=0)


def test_the_b_spline_approximates():
    nodes = Grid((5, 5), 32.0)
    values = torch.zeros(2, 5, 5)
    values[:, 2, 2] = 9.0
    at_node = VectorMap(values, nodes, "bspline").on(nodes)
    torch.testing.assert_close(at_node[:, 2, 2], torch.full((2,), 9.0 * 4 / 9))
    torch.testing.assert_close(at_node[:, 1, 1], torch.full((2,), 9.0 / 36))


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_ramp_is_reproduced_inside(kind):
    nodes = Grid((10, 9), 20.0)
    image = Grid((110, 90), 1.0, (45.0, 45.0))

    def ramp(grid: Grid) -> torch.Tensor:
        y, x = grid.positions()
        return torch.stack([0.1 * y - 0.2 * x + 3, 0.05 * x + 0.3 * y - 1])

    torch.testing.assert_close(VectorMap(ramp(nodes), nodes, kind).on(image), ramp(image), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_gets_a_gradient(kind):
    image = Grid((64, 48), 2.0)
    nodes = covering_nodes(image, spacing=32.0)
    values = torch.zeros(2, *nodes.shape, requires_grad=True)
    field = Interpolator(nodes=nodes, onto=image, kind=kind, device="cpu")(values)
    field.square().add(field).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad[:, 1:-1, 1:-1].abs() > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_refining_keeps_the_map(kind):
    image = Grid((128, 128), 1.0)
    coarse = VectorMap(
        torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(2)), covering_nodes(image, spacing=32.0), kind
    )
    nodes = covering_nodes(image, spacing=8.0)
    difference = (coarse.refined(nodes).on(nodes) - coarse.on(nodes)).abs()
    assert float(difference[:, 2:-2, 2:-2].max()) < 0.02
    assert float(coarse.on(nodes).abs().max()) > 0.5


@settings(max_examples=30, deadline=None)
@given(image=grids, spacing=st.floats(8, 100))
def test_nodes_cover_the_image_with_a_row_to_spare(image, spacing):
    nodes = covering_nodes(image, spacing=spacing)
    for axis in (0, 1):
        first = nodes.origin[axis] + 0.5 * nodes.spacing
        last = nodes.origin[axis] + (nodes.shape[axis] - 0.5) * nodes.spacing
        assert first <= image.origin[axis] + 1e-3
        assert last >= image.origin[axis] + image.shape[axis] * image.spacing - 1e-3


def test_too_many_nodes_for_the_thin_plate_spline_is_one_clear_sentence():
    with pytest.raises(ConfigError, match=r"'tps' solves one dense system .* wider node_spacing"):
        Interpolator(nodes=Grid((80, 80), 8.0), onto=Grid((64, 64), 1.0), kind="tps", device="cpu")
