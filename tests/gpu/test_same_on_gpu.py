"""CPU and GPU give the same fields and losses within a stated tolerance."""

from functools import partial

import numpy as np
import pytest
import torch

from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_known
from ssem_dask.field.warp import warp
from ssem_dask.geometry.box import Box
from ssem_dask.image.similarity import normalised_correlation
from ssem_dask.registration.encoders.train_metric import MetricTrainConfig, train_metric
from ssem_dask.registration.methods import RegisterConfig, register_window, resolve
from ssem_dask.registration.registration_method import PairFields, PairRequest, WindowImages
from ssem_dask.runtime.clusters.warm_gpu import warm
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHAPE = (5, 256, 256)
GRID = Grid(SHAPE[1:], 1.0)
NODES = Grid.of_section(SHAPE[1:], spacing=16)


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> AnyArray:
    """A bent phantom."""
    url = str(tmp_path_factory.mktemp("gpu") / "phantom.zarr")
    simulate_phantom(
        PhantomConfig(seed=5, shape=SHAPE, oblique=0.0),
        url,
        seed=5,
        deformation=DeformationConfig.preset("rough"),
        damage=DamageConfig(),
    )
    return Volume.open(url).read(Box((0, 0, 0), SHAPE))


def _found(images: torch.Tensor, method: str, device: str) -> PairFields:
    return register_window(
        WindowImages(images=images, valid=torch.ones_like(images, dtype=torch.bool), grid=GRID),
        PairRequest(nodes=NODES, core=range(SHAPE[0]), neighbours=3),
        config=resolve(RegisterConfig(method=method), pixel_size=5.0),
        device=device,
    )


def test_gauss_newton_finds_the_same_fields(sections: AnyArray) -> None:
    """On the GPU by its own kernels, from features in half precision."""
    images = torch.from_numpy(sections.astype(np.float32))
    here, there = (_found(images, "gauss_newton", device) for device in ("cpu", "cuda"))
    known = torch.isfinite(here.fields) & torch.isfinite(there.fields.cpu())
    assert float(known.float().sum()) > 0.98 * float(torch.isfinite(here.fields).float().sum())
    difference = (here.fields - there.fields.cpu())[known].abs()
    assert float(difference.median()) < 0.01
    assert float(difference.quantile(0.99)) < 0.05
    assert float((here.confidence - there.confidence.cpu()).abs().quantile(0.99)) < 0.05


def test_the_same_again_is_the_same_to_the_bit(sections: AnyArray) -> None:
    images = torch.from_numpy(sections.astype(np.float32))
    first, second = (_found(images, "gauss_newton", "cuda") for _ in range(2))
    assert torch.equal(first.fields.nan_to_num(), second.fields.nan_to_num())
    assert torch.equal(first.confidence, second.confidence)


def test_ssemnet_finds_fields_as_good(sections: AnyArray) -> None:
    """Adam divides by small numbers: rounding grows until fields differ by fractions of a pixel, and none is better."""
    images = torch.from_numpy(sections.astype(np.float32))
    alike = []
    for device in ("cpu", "cuda"):
        field = _found(images, "ssemnet", device).fields[0, 2].cpu()
        dense = sample_known(field, grid=NODES, positions=GRID.positions())
        warped, mask = warp(images[1][None], field=dense, spacing=1.0)
        alike.append(normalised_correlation(images[2].numpy(), warped[0].numpy(), valid=mask.numpy()))
    still = normalised_correlation(images[2].numpy(), images[1].numpy(), valid=np.ones(SHAPE[1:], dtype=bool))
    assert min(alike) > still + 0.1
    assert alike[0] == pytest.approx(alike[1], abs=0.02)


def _add_loss(losses: list[float], _step: int, loss: float) -> None:
    losses.append(loss)


def test_training_goes_the_same_way(sections: AnyArray) -> None:
    config = MetricTrainConfig(
        width=8, pixels=(8.0,), crop=96, patches=(8, 12), search=6, batch=4, steps=30, held_out=0.0
    )
    losses: dict[str, list[float]] = {"cpu": [], "cuda": []}
    for device, found in losses.items():
        train_metric(
            [image.repeat(2, axis=0).repeat(2, axis=1) for image in sections],
            pixel_size=8.0,
            section_thickness=45.0,
            command="ssem-dask train …",
            config=config,
            seed=0,
            device=device,
            progress=partial(_add_loss, found),
        )
    np.testing.assert_allclose(losses["cuda"][:5], losses["cpu"][:5], rtol=0.02)
    assert np.mean(losses["cuda"][-5:]) < np.mean(losses["cuda"][:5])


def test_a_worker_that_is_warm_has_compiled_its_kernels() -> None:
    """So that its first window waits for none."""
    solver = pytest.importorskip("ssem_dask.registration.triton.pair_solver")
    solver.forget_solvers()
    warm(torch.device("cuda"))
    assert {key.warm for key in solver._SOLVERS} == {False, True}
