"""The same code on CPU and GPU: the same fields and losses within a stated tolerance."""

import numpy as np
import pytest
import torch

from ssem_dask.evaluation.damage import DamageConfig
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.registration.metric_train import MetricTrainConfig, train_metric
from ssem_dask.registration.register import RegisterConfig, register_window, resolve
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHAPE = (5, 256, 256)


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


@pytest.mark.parametrize(("method", "worst"), [("gauss_newton", 0.05), ("ssemnet", 0.5)])
def test_pair_fields_are_the_same(sections: AnyArray, method: str, worst: float) -> None:
    """Adam divides by small numbers, so ssemnet's rounding errors grow further than Gauss-Newton's."""
    images = torch.from_numpy(sections.astype(np.float32))
    found = [
        register_window(
            images,
            valid=torch.ones_like(images, dtype=torch.bool),
            grid=Grid(SHAPE[1:], 1.0),
            nodes=Grid.of_section(SHAPE[1:], spacing=16),
            core=range(SHAPE[0]),
            neighbours=3,
            config=resolve(RegisterConfig(method=method), pixel_size=5.0),
            device=device,
        )
        for device in ("cpu", "cuda")
    ]
    here, there = found[0].fields, found[1].fields.cpu()
    known = torch.isfinite(here) & torch.isfinite(there)
    assert float(known.float().sum()) > 0.98 * float(torch.isfinite(here).float().sum())
    difference = (here - there)[known].abs()
    assert float(difference.median()) < 0.01
    assert float(difference.quantile(0.99)) < worst
    confidence = (found[0].confidence - found[1].confidence.cpu()).abs()
    assert float(confidence.quantile(0.99)) < 0.05


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
            progress=lambda _step, loss, found=found: found.append(loss),
        )
    np.testing.assert_allclose(losses["cuda"][:5], losses["cpu"][:5], rtol=0.02)
    assert np.mean(losses["cuda"][-5:]) < np.mean(losses["cuda"][:5])
