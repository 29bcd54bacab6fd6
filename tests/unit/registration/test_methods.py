from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssem_dask.errors import ConfigError, WeightsError
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample, sample_known
from ssem_dask.registration.encoders.encoder import load_encoder
from ssem_dask.registration.gauss_newton.gauss_newton_window import GaussNewton
from ssem_dask.registration.gauss_newton.solver import GaussNewtonConfig
from ssem_dask.registration.methods import METHODS, RegisterConfig, encoder_digest, register_window, resolve
from ssem_dask.registration.registration_method import PairFields, PairRequest, WindowImages
from ssem_dask.registration.ssemnet.aligned_pairs import correlate_locally, covering_lattice
from ssem_dask.registration.ssemnet.optimise import SsemnetConfig
from ssem_dask.registration.vector_map import MapInterpolation
from tests.support.textures import deformed_sections, texture

pytestmark = pytest.mark.slow

SIDE = 192
FAST = SsemnetConfig(encoder="lcn", node_spacing=48.0, scales=(4, 2, 1), iterations=(30, 20, 10))


def _register(images, *, config=None, valid=None, neighbours=1, core=None, spacing=8, mip=0):
    extent = (images.shape[1] * 2**mip, images.shape[2] * 2**mip)
    valid = torch.ones_like(images, dtype=torch.bool) if valid is None else valid
    nodes = Grid.of_section(extent, spacing=spacing)
    core = range(len(images)) if core is None else core
    return register_window(
        WindowImages(images=images, valid=valid, grid=Grid((images.shape[1], images.shape[2]), float(2**mip))),
        PairRequest(nodes=nodes, core=core, neighbours=neighbours),
        config=RegisterConfig(method="ssemnet", ssemnet=config or FAST),
        device="cpu",
    )


def _error(pair: torch.Tensor, *, moving: torch.Tensor, fixed: torch.Tensor, spacing: int = 8, margin: int = 24):
    """Distance between y + d_fixed(y) and where the pair leads, in truth px; identical sections, so both are equal."""
    side = fixed.shape[-1]
    grid, nodes = Grid((side, side), 1.0), Grid.of_section((side, side), spacing=spacing)
    at = Grid(((side - 2 * margin) // 4, (side - 2 * margin) // 4), 4.0, (margin, margin)).positions()
    end = at + sample_known(pair, grid=nodes, positions=at)
    reached = end + sample_known(moving, grid=grid, positions=end)
    wanted = at + sample(fixed, grid=grid, positions=at, kind="bilinear")
    return torch.linalg.vector_norm(reached - wanted, dim=0)


def test_every_method_finds_a_known_deformation_and_names_its_encoder():
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=3.0)
    valid = torch.ones_like(observed, dtype=torch.bool)
    for method in METHODS:
        config = RegisterConfig(method=method, ssemnet=FAST)
        found = register_window(
            WindowImages(images=observed, valid=valid, grid=Grid((SIDE, SIDE), 1.0)),
            PairRequest(nodes=Grid.of_section((SIDE, SIDE), spacing=8), core=range(2), neighbours=1),
            config=config,
            device="cpu",
        )
        before = _error(torch.zeros_like(found.fields[0, 1]), moving=bends[0], fixed=bends[1])
        after = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
        assert float(after.nanmedian()) < 0.25 * float(before.nanmedian())
        own = config.ssemnet.encoder if method == "ssemnet" else config.gauss_newton.encoder
        assert encoder_digest(config) == load_encoder(own, digest=None).digest


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "bspline", "tps"])
def test_a_known_deformation_comes_back(kind: MapInterpolation):
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=3.0)
    found = _register(observed, config=FAST.model_copy(update={"interpolation": kind}))
    before = _error(torch.zeros_like(found.fields[0, 1]), moving=bends[0], fixed=bends[1])
    after = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
    assert float(after.nanmedian()) < 0.25 * float(before.nanmedian())
    assert float(found.confidence[0, 1].median()) > 0.8


def test_the_shipped_autoencoder_finds_it_too():
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=3.0)
    found = _register(observed, config=FAST.model_copy(update={"encoder": "autoencoder"}))
    before = _error(torch.zeros_like(found.fields[0, 1]), moving=bends[0], fixed=bends[1])
    after = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
    assert float(after.nanmedian()) < 0.25 * float(before.nanmedian())


def test_equal_sections_stay_where_they_are():
    found = _register(texture(2).expand(3, -1, -1).clone(), neighbours=2)
    assert float(found.fields[0, 1:].abs().max()) < 0.05
    assert float(found.fields[1, 2:].abs().max()) < 0.05


def test_pairs_of_k_2_are_what_two_of_k_1_make():
    observed, bends = deformed_sections(texture(3).expand(3, -1, -1), rms=2.0)
    found = _register(observed, neighbours=2)
    direct = _error(found.fields[1, 2], moving=bends[0], fixed=bends[2])
    assert float(direct.nanmedian()) < 0.6


def test_what_does_not_exist_is_unknown():
    observed, _ = deformed_sections(texture(1).expand(2, -1, -1), rms=1.0)
    found = _register(observed, neighbours=3)
    assert found.fields.shape == (3, 2, 2, SIDE // 8, SIDE // 8)
    assert found.fields.dtype == found.confidence.dtype == torch.float32
    assert found.fields[:, 0].isnan().all()
    assert found.fields[1:].isnan().all()
    assert (found.confidence[found.fields.isnan().any(dim=2)] == 0).all()
    assert found.fields[0, 1].isfinite().all()


def test_core_names_the_sections_whose_pairs_are_wanted():
    observed, _ = deformed_sections(texture(1).expand(4, -1, -1), rms=1.0)
    whole, part = _register(observed), _register(observed, core=range(2, 4))
    torch.testing.assert_close(part.fields, whole.fields[:, 2:], equal_nan=True)
    torch.testing.assert_close(part.confidence, whole.confidence[:, 2:])


def test_a_section_without_tissue_breaks_nothing():
    observed, bends = deformed_sections(texture(1).expand(4, -1, -1), rms=2.0)
    observed[1] = 0.0
    valid = torch.ones_like(observed, dtype=torch.bool)
    valid[1] = False
    found = _register(observed, valid=valid, neighbours=2)
    assert found.fields[:, 1].isnan().all()
    assert found.fields[0, 2].isnan().all()
    assert float(_error(found.fields[1, 2], moving=bends[0], fixed=bends[2]).nanmedian()) < 0.6
    assert float(_error(found.fields[0, 3], moving=bends[2], fixed=bends[3]).nanmedian()) < 0.6


def test_all_blank_is_all_unknown():
    found = _register(torch.zeros(3, 64, 64), valid=torch.zeros(3, 64, 64, dtype=torch.bool))
    assert found.fields.isnan().all()
    assert (found.confidence == 0).all()


def test_empty_space_is_unknown_and_does_not_disturb_the_tissue():
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=2.0)
    valid = torch.ones_like(observed, dtype=torch.bool)
    valid[1, :, :64] = False
    observed = torch.where(valid, observed, torch.zeros_like(observed))
    found = _register(observed, valid=valid)
    assert found.fields[0, 1, :, :, :7].isnan().all()
    assert found.fields[0, 1, :, :, 9:].isfinite().all()
    error = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
    assert float(error[:, 12:].nanmedian()) < 0.6


def test_junk_lowers_the_confidence_and_not_the_rest():
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=2.0)
    observed[1, 100:160, 100:160] = texture(99)[:60, :60]
    found = _register(observed)
    error = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
    assert float(error[:12].nanmedian()) < 0.6
    confidence = found.confidence[0, 1]
    assert float(confidence[14:18, 14:18].mean()) < 0.5 * float(confidence[2:8, 2:8].mean())


@pytest.mark.parametrize("change", [lambda i: 255 - i, lambda i: i * 200 + 5000, lambda i: i / 255])
def test_polarity_and_bit_depth_do_not_matter(change):
    observed, bends = deformed_sections(texture(1).expand(2, -1, -1), rms=2.0)
    found = _register(change(observed))
    assert float(_error(found.fields[0, 1], moving=bends[0], fixed=bends[1]).nanmedian()) < 0.6


def test_displacements_are_mip_0_pixels_at_any_mip():
    observed, bends = deformed_sections(texture(1, side=256).expand(2, -1, -1), rms=3.0)
    at_mip_1 = torch.nn.functional.avg_pool2d(observed[:, None], 2)[:, 0]
    found = _register(at_mip_1, mip=1)
    error = _error(found.fields[0, 1], moving=bends[0], fixed=bends[1])
    assert float(error.nanmedian()) < 0.8


def test_a_grid_with_an_origin_gives_the_same_fields():
    observed, _ = deformed_sections(texture(1).expand(2, -1, -1), rms=2.0)
    valid = torch.ones_like(observed, dtype=torch.bool)
    at_origin = _register(observed, spacing=16)
    nodes = Grid((4, 4), 16.0, (4096.0 + 64, 8192.0 + 64))
    moved = register_window(
        WindowImages(images=observed, valid=valid, grid=Grid((SIDE, SIDE), 1.0, (4096.0, 8192.0))),
        PairRequest(nodes=nodes, core=range(2), neighbours=1),
        config=RegisterConfig(method="ssemnet", ssemnet=FAST),
        device="cpu",
    )
    torch.testing.assert_close(moved.fields[0, 1], at_origin.fields[0, 1, :, 4:8, 4:8], atol=0.1, rtol=0)


@pytest.mark.parametrize("pixel_size", [4.0, 4.6, 8.0, 10.0, 16.0, 32.0])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_resolve_leaves_nothing_to_tune(pixel_size, method):
    config = resolve(RegisterConfig(method=method), pixel_size=pixel_size)
    assert config.mip is not None
    assert 3.5 <= pixel_size * 2**config.mip <= 32.0
    assert config.spacing is not None
    assert 30 <= pixel_size * config.spacing <= 160
    assert config.ssemnet.node_spacing == pytest.approx(320 / pixel_size)
    assert resolve(config, pixel_size=1.0) == config


def test_bad_configurations_are_refused():
    with pytest.raises(ValidationError, match="one number of iterations for each scale"):
        SsemnetConfig(scales=(2, 1), iterations=(5,))
    with pytest.raises(ValidationError, match="coarse to fine"):
        SsemnetConfig(scales=(1, 2), iterations=(5, 5))
    with pytest.raises(ValidationError, match="at least one, all above 0"):
        SsemnetConfig(neighbour_weights=(1.0, 0.0))
    with pytest.raises(ValidationError, match="must not be negative"):
        SsemnetConfig(scales=(2, 1), iterations=(5, -1))
    with pytest.raises(ValidationError, match="choose one of gauss_newton, ssemnet"):
        RegisterConfig(method="ssemnot")
    with pytest.raises(ValidationError, match="extra"):
        RegisterConfig(ssemnet={"lerning_rate": 1.0})


def test_misuse_is_one_clear_sentence():
    images = torch.zeros(2, 64, 64)
    with pytest.raises(ConfigError, match="must have one shape"):
        WindowImages(images=images, valid=images.bool(), grid=Grid((32, 32), 1.0))
    with pytest.raises(ConfigError, match="resolve"):
        _register(images, config=SsemnetConfig())
    with pytest.raises(WeightsError, match="neither a built-in encoder"):
        _register(texture(1).expand(2, -1, -1), config=FAST.model_copy(update={"encoder": "none"}))


def test_another_method_takes_one_class_and_one_entry(monkeypatch):
    class Nothing(GaussNewton):
        name = "nothing"

        def encoder(self, config):
            return None

        def register(self, window, request, *, config, device):
            assert config == GaussNewtonConfig()
            shape = (request.neighbours, len(request.core))
            nodes = request.nodes.shape
            return PairFields(torch.full((*shape, 2, *nodes), torch.nan), torch.zeros(*shape, *nodes))

    class Config(RegisterConfig):
        nothing: GaussNewtonConfig = GaussNewtonConfig()

    monkeypatch.setitem(METHODS, "nothing", Nothing())
    config = resolve(Config(method="nothing"), pixel_size=8.0)
    images = torch.zeros(1, 8, 8)
    result = register_window(
        WindowImages(images=images, valid=images.bool(), grid=Grid((8, 8), 1.0)),
        PairRequest(nodes=Grid((1, 1), 8.0), core=range(1), neighbours=1),
        config=config,
        device="cpu",
    )
    assert result.fields.isnan().all()
    assert encoder_digest(config) == ""


@settings(max_examples=50, deadline=None)
@given(
    top=st.integers(-5, 5),
    left=st.integers(-5, 5),
    ny=st.integers(1, 9),
    nx=st.integers(1, 9),
    side=st.integers(20, 90),
)
def test_the_lattice_holds_the_nodes_and_surrounds_the_image(top, left, ny, nx, side):
    nodes = Grid((ny, nx), 8.0, (top * 8.0, left * 8.0))
    image = Grid((side, side), 1.0, (3.0, -2.0))
    lattice = covering_lattice(nodes, image=image)
    for axis in (0, 1):
        offset = (nodes.origin[axis] - lattice.origin[axis]) / 8.0
        assert offset == int(offset) >= 1
        assert lattice.shape[axis] >= offset + nodes.shape[axis] + 1
        assert lattice.origin[axis] <= image.origin[axis]
        assert lattice.origin[axis] + lattice.shape[axis] * 8.0 >= image.origin[axis] + side
    values = torch.rand(2, *lattice.shape, generator=torch.Generator().manual_seed(1))
    assert sample_known(values, grid=lattice, positions=nodes.positions()).shape == (2, ny, nx)


def test_local_correlation_knows_equal_from_unrelated():
    a = torch.randn(4, 40, 40, generator=torch.Generator().manual_seed(1))
    b = torch.randn(4, 40, 40, generator=torch.Generator().manual_seed(2))
    mask, grid = torch.ones(40, 40), Grid((40, 40), 4.0)
    assert float(correlate_locally(a, 3 * a + 1, mask=mask, grid=grid, side=9).values.min()) > 0.999
    assert float(correlate_locally(a, b, mask=mask, grid=grid, side=9).values.mean()) < 0.1
    assert (correlate_locally(a, a, mask=0 * mask, grid=grid, side=9).values == 0).all()


def test_real_sections_come_back(real_sections: Callable[[str], Path]) -> None:
    """Planes 40 nm apart: a deformed run against a run on the undeformed planes, which holds the natural motion."""
    planes = tifffile.imread(real_sections("flyem_fibsem/images.tif"))[:9:4]
    truth = torch.from_numpy(planes.astype(np.float32))
    observed, bends = deformed_sections(truth, rms=4.0)
    config = resolve(RegisterConfig(), pixel_size=10.0).ssemnet
    natural = _register(truth, config=config)
    found = _register(observed, config=config)
    grid, nodes = Grid((250, 250), 1.0), Grid.of_section((250, 250), spacing=8)
    at = Grid((48, 48), 4.0, (28.0, 28.0)).positions()
    errors, identity = [], []
    for z in (1, 2):
        end = at + sample_known(found.fields[0, z], grid=nodes, positions=at)
        reached = end + sample_known(bends[z - 1], grid=grid, positions=end)
        start = at + sample(bends[z], grid=grid, positions=at, kind="bilinear")
        wanted = start + sample_known(natural.fields[0, z], grid=nodes, positions=start)
        errors.append(torch.linalg.vector_norm(reached - wanted, dim=0))
        still = at + sample(bends[z - 1], grid=grid, positions=at, kind="bilinear")
        identity.append(torch.linalg.vector_norm(still - start, dim=0))
    assert float(torch.stack(errors).nanmedian()) < float(torch.stack(identity).median()) / 3
