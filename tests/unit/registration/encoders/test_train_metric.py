import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.errors import SourceError, WeightsError
from ssem_dask.registration.encoders.encoder import load_encoder
from ssem_dask.registration.encoders.metric import MetricNetwork, build_metric
from ssem_dask.registration.encoders.stored_autoencoder import build_autoencoder
from ssem_dask.registration.encoders.train_metric import (
    MetricTrainConfig,
    correlation_surface,
    neighbour_distances,
    train_metric,
)
from ssem_dask.registration.encoders.weights_file import read_weights, write_weights

pytestmark = pytest.mark.slow

CONFIG = MetricTrainConfig(
    width=8, pixels=(8.0,), crop=96, patches=(8, 12), search=6, batch=4, steps=60, held_out=0.3, learning_rate=1e-2
)


def _stack(n: int = 20, side: int = 128, *, alike: bool = True) -> list[np.ndarray]:
    """Blobs that change slowly along z under fresh noise, uint8; or blobs that have nothing in common."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n + 8, 1, side, side, generator=generator)
    blobs = torch.nn.functional.avg_pool2d(noise, 15, stride=1, padding=7)[:, 0]
    if alike:
        blobs = torch.stack([blobs[z : z + 8].sum(dim=0) for z in range(n)]) / 8**0.5
    worn = blobs[:n] * 600 + 25 * torch.randn(n, side, side, generator=generator) + 128
    return [np.clip(s.numpy(), 0, 255).astype(np.uint8) for s in worn]


def _train(seed: int, config: MetricTrainConfig = CONFIG, *, alike: bool = True):
    losses: list[float] = []
    weights = train_metric(
        _stack(alike=alike),
        pixel_size=8.0,
        section_thickness=45.0,
        command="ssem-dask train …",
        config=config,
        seed=seed,
        device="cpu",
        progress=lambda step, loss: losses.append(loss),
    )
    return weights, losses


def test_training_learns_to_find_patches_again_and_only_where_there_is_something_to_find():
    weights, losses = _train(seed=1)
    assert len(losses) == CONFIG.steps
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    found = weights.metadata["training"]["matching"]["held_out"]["found"]
    chance = 9 / (2 * CONFIG.search + 1) ** 2
    assert found > 8 * chance
    nothing, _ = _train(seed=1, alike=False)
    assert nothing.metadata["training"]["matching"]["held_out"]["found"] < 3 * chance


def test_the_same_seed_gives_the_same_file_and_another_one_does_not(tmp_path):
    short = CONFIG.model_copy(update={"steps": 3})
    torch.manual_seed(7)
    first = _train(3, short)[0].save(tmp_path / "a.safetensors")
    torch.manual_seed(8)
    again = _train(3, short)[0].save(tmp_path / "b.safetensors")
    other = _train(4, short)[0].save(tmp_path / "c.safetensors")
    assert first == again != other


def test_weights_survive_the_file_and_are_an_encoder(tmp_path):
    weights, _ = _train(1, CONFIG.model_copy(update={"steps": 2}))
    path = tmp_path / "m.safetensors"
    digest = weights.save(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert build_metric(read_weights(path, digest=digest)).metadata == weights.metadata
    encoder = load_encoder(str(path), digest=digest)
    assert encoder.spacing == 4
    images = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.encode(images), weights.model.encode(images))
    with pytest.raises(WeightsError, match=r"of the kind 'ssem_dask\.metric/1'"):
        build_autoencoder(read_weights(path, digest=None))


def test_wrong_metric_weights_are_one_clear_sentence(tmp_path):
    model = MetricNetwork(width=4, channels=2)
    metadata = {"format": "ssem_dask.metric/1", "width": 5, "channels": 2, "normalisation": {"window": 64}}
    write_weights(model.state_dict(), metadata, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="do not fit the network"):
        load_encoder(str(tmp_path / "m.safetensors"), digest=None)
    with pytest.raises(WeightsError, match="0000 is wanted"):
        load_encoder(str(tmp_path / "m.safetensors"), digest="0000")


@pytest.mark.parametrize(("sections", "side"), [(3, 128), (0, 0), (20, 40)])
def test_too_little_to_learn_from_is_one_clear_sentence(sections, side):
    with pytest.raises(SourceError, match="give a larger stack"):
        train_metric(
            _stack(sections, side) if sections else [],
            pixel_size=8.0,
            section_thickness=45.0,
            command="",
            config=MetricTrainConfig(),
            seed=0,
            device="cpu",
            progress=lambda step, loss: None,
        )


def test_neighbours_lie_about_40_nm_apart():
    assert neighbour_distances(10.0) == (4, 8, 12)
    assert neighbour_distances(45.0) == (1, 2, 3)
    assert neighbour_distances(100.0) == (1, 2, 3)


@settings(max_examples=20, deadline=None)
@given(y=st.integers(0, 8), x=st.integers(0, 8), gain=st.floats(0.1, 10), seed=st.integers(0, 5))
def test_the_surface_peaks_at_1_where_the_patch_comes_from(y, x, gain, seed):
    windows = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(seed))
    patches = windows[:, :, y : y + 12, x : x + 12] * gain + 3.0
    surface = correlation_surface(patches, windows=windows)
    assert surface.shape == (2, 9, 9)
    assert float(surface.max()) <= 1.0 + 1e-4
    torch.testing.assert_close(surface[:, y, x], torch.ones(2), atol=1e-3, rtol=0)


def test_the_surface_is_the_correlation_coefficient():
    generator = torch.Generator().manual_seed(1)
    patches, windows = torch.randn(1, 1, 5, 5, generator=generator), torch.randn(1, 1, 9, 9, generator=generator)
    surface = correlation_surface(patches, windows=windows)
    pair = torch.stack([patches.flatten(), windows[0, 0, 2:7, 1:6].flatten()])
    assert float(surface[0, 2, 1]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-4)


def test_a_feature_lies_where_its_pixels_are():
    """With equal weights, what a feature sees is centred on the 4 x 4 px that it stands for (C3)."""
    model = MetricNetwork(width=3, channels=1).double()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    images = torch.zeros(1, 64, 64, dtype=torch.float64, requires_grad=True)
    model.encode(images)[0, 0, 8, 8].backward()
    assert images.grad is not None
    y, x = torch.nonzero(images.grad[0].abs() > 0).T
    assert float((y.min() + y.max() + 1) / 2) == float((x.min() + x.max() + 1) / 2) == 34.0
