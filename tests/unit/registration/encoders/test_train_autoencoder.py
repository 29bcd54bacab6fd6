import hashlib

import numpy as np
import pytest
import torch

from ssem_dask.errors import SourceError, WeightsError
from ssem_dask.registration.encoders.autoencoder import Autoencoder, reconstruction_loss
from ssem_dask.registration.encoders.stored_autoencoder import build_autoencoder
from ssem_dask.registration.encoders.train_autoencoder import TrainConfig, train_encoder
from ssem_dask.registration.encoders.weights_file import read_weights

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(channels=(8, 8, 16, 8), patch=32, batch=8, steps=150, scales=(1.0,))


def _sections(n: int = 6, side: int = 96) -> list[np.ndarray]:
    """Blobs of two sizes, uint8."""
    noise = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    blobs = torch.nn.functional.avg_pool2d(noise, 15, stride=1, padding=7)[:, 0]
    return [np.clip(s.numpy() * 600 + 128, 0, 255).astype(np.uint8) for s in blobs]


def _train(seed: int, config: TrainConfig = CONFIG):
    losses: list[float] = []
    weights = train_encoder(
        _sections(),
        pixel_size=8.0,
        command="ssem-dask train …",
        config=config,
        seed=seed,
        device="cpu",
        progress=lambda step, loss: losses.append(loss),
    )
    return weights, losses


def test_training_learns_to_reconstruct():
    weights, losses = _train(seed=1)
    assert len(losses) == CONFIG.steps
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert weights.metadata["training"]["reconstruction"]["held_out"]["r2"] > 0.5


def test_the_same_seed_gives_the_same_file_and_another_one_does_not(tmp_path):
    short = CONFIG.model_copy(update={"steps": 5})
    torch.manual_seed(7)
    first = _train(3, short)[0].save(tmp_path / "a.safetensors")
    torch.manual_seed(8)
    again = _train(3, short)[0].save(tmp_path / "b.safetensors")
    other = _train(4, short)[0].save(tmp_path / "c.safetensors")
    assert first == again != other


def test_weights_survive_the_file_with_their_metadata(tmp_path):
    weights, _ = _train(1, CONFIG.model_copy(update={"steps": 2}))
    path = tmp_path / "e.safetensors"
    digest = weights.save(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    stored = read_weights(path, digest=digest)
    assert stored.digest == digest
    loaded = build_autoencoder(stored)
    assert loaded.metadata == weights.metadata
    training = loaded.metadata["training"]
    assert training["pixel_size_nm"] == 8.0
    assert training["seed"] == 1
    assert training["command"] == "ssem-dask train …"
    images = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.model.encode(images), weights.model.encode(images))


def test_a_place_that_cannot_be_written_is_one_clear_sentence(tmp_path):
    weights, _ = _train(1, CONFIG.model_copy(update={"steps": 1}))
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.save(tmp_path / "absent" / "e.safetensors")


def test_sections_too_small_for_a_patch_are_one_clear_sentence():
    with pytest.raises(SourceError, match="none of the 2 sections is large enough for a patch of 64 px"):
        train_encoder(
            [np.zeros((20, 20), np.uint8)] * 2,
            pixel_size=8.0,
            command="",
            config=TrainConfig(),
            seed=0,
            device="cpu",
            progress=lambda step, loss: None,
        )


def test_the_loss_is_equation_3():
    model = Autoencoder((2, 3, 4, 2))
    images = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    kernels = sum(float(p.detach().square().sum()) for name, p in model.named_parameters() if name.endswith("weight"))
    with torch.no_grad():
        expected = float((images - model(images)).square().mean()) + 0.1 * kernels
        loss = float(reconstruction_loss(model, images, decay=0.1))
    assert loss == pytest.approx(expected, rel=1e-5)
