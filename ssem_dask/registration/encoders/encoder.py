"""Encoders: image → features at a spacing, behind one protocol.

A registration compares `encode(normalise(image))` of two images. `normalise` is a step of its own because it belongs to
the section as observed: it is done once, before warping, and gradients flow through `encode` only.

Built in: `metric` and `autoencoder` (weights shipped with the package), `lcn` (local-contrast-normalised intensity,
pooled) and `pixels` (the same without pooling, a baseline for features). Anything else is the path of a safetensors
file. Another kind of encoder is one more entry of `ENCODERS`.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssem_dask.errors import WeightsError
from ssem_dask.image.pooling import pool
from ssem_dask.registration.encoders import autoencoder, metric
from ssem_dask.registration.encoders.autoencoder import Autoencoder
from ssem_dask.registration.encoders.local_contrast import normalise_contrast
from ssem_dask.registration.encoders.metric import MetricNetwork
from ssem_dask.registration.encoders.stored_autoencoder import build_autoencoder
from ssem_dask.registration.encoders.weights_file import read_weights

SHIPPED = {
    "autoencoder": "c92fb042ac6101b289f3ca5110125cd2cd342bd48ee866280f73f575d0b2abd4",
    "metric": "a1822f28c899790c588e50821716289efc9650453092bd4a4f53edb96254bfac",
}
"""Encoders whose weights come with the package, and the sha256 of each file."""

SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights: NAME.safetensors and NAME.md, the model card."""

_INTENSITY_WINDOW = 64  # px, side of the surroundings that normalise the contrast
_LCN_SPACING = 2


@runtime_checkable
class Encoder(Protocol):
    """Map from images to features."""

    @property
    def spacing(self) -> int:
        """Image px per feature px; feature i covers the pixels [i·spacing, (i + 1)·spacing)."""

    @property
    def digest(self) -> str:
        """Identity of the features: sha256 of the weights, or a name."""

    def to(self, device: torch.device | str) -> "Encoder":
        """Return the same encoder on another device."""

    def normalise(self, images: Float[Tensor, "n y x"], *, valid: Bool[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
        """Normalise the contrast of images for the network; 0 where `valid` is False."""

    def encode(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n c h w"]:
        """Encode normalised images to features of 1 / `spacing` of their size, rounded up; differentiable."""


def encode_observed(
    encoder: Encoder, images: Float[Tensor, "n y x"], *, valid: Bool[Tensor, "n y x"]
) -> Float[Tensor, "n c h w"]:
    """Normalise and encode images as observed."""
    return encoder.encode(encoder.normalise(images, valid=valid))


class IntensityEncoder:
    """Local-contrast-normalised intensity, averaged over squares of `spacing` px; one channel."""

    def __init__(self, *, name: str, spacing: int) -> None:
        self._name = name
        self._spacing = spacing

    @property
    def spacing(self) -> int:
        """Image px per feature px."""
        return self._spacing

    @property
    def digest(self) -> str:
        """The encoder's name: it has no weights."""
        return self._name

    def to(self, device: torch.device | str) -> "IntensityEncoder":  # noqa: ARG002  nothing to move
        """Return itself: it has nothing on a device."""
        return self

    def normalise(self, images: Float[Tensor, "n y x"], *, valid: Bool[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
        """Normalise the contrast; see `normalise_contrast`."""
        return normalise_contrast(images, valid=valid, window=_INTENSITY_WINDOW)

    def encode(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n 1 h w"]:
        """Pool the image to the only channel."""
        return pool(images, self._spacing)[:, None] if self._spacing > 1 else images[:, None]


class NetworkEncoder:
    """A trained network on locally normalised images: metric, or the encoder half of an autoencoder."""

    def __init__(self, model: Autoencoder | MetricNetwork, *, spacing: int, window: int, digest: str) -> None:
        # Convolutions on a CPU are three times faster with the channels innermost.
        self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._spacing = spacing
        self._window = window
        self._digest = digest

    @property
    def spacing(self) -> int:
        """Image px per feature px."""
        return self._spacing

    @property
    def digest(self) -> str:
        """sha256 of the weights' file."""
        return self._digest

    def to(self, device: torch.device | str) -> "NetworkEncoder":
        """Return the same encoder on another device."""
        moved = self._model.to(device)
        return NetworkEncoder(moved, spacing=self._spacing, window=self._window, digest=self._digest)

    def normalise(self, images: Float[Tensor, "n y x"], *, valid: Bool[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
        """Normalise the contrast as in training; see `normalise_contrast`."""
        return normalise_contrast(images, valid=valid, window=self._window)

    def encode(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n c h w"]:
        """Encode normalised images."""
        features: Tensor = self._model.encode(images)
        return features


def load_encoder(name_or_path: str, *, digest: str | None) -> Encoder:
    """Load an encoder by name, or from a `.safetensors` file.

    Args:
        name_or_path: name of a built-in encoder, or a path.
        digest: sha256 that the weights must have; None accepts any.

    Raises:
        WeightsError: unknown name, missing file, another digest, not a safetensors file, or another kind of weights.
    """
    if name_or_path in ENCODERS:
        return ENCODERS[name_or_path](digest)
    if not name_or_path.endswith(".safetensors"):
        raise WeightsError(
            f"register encoder: {name_or_path!r} is neither a built-in encoder "
            f"({', '.join(sorted(ENCODERS))}) nor the path of a .safetensors file; give one of these."
        )
    return _from_file(Path(name_or_path), digest)


def encoder_on(name_or_path: str, *, digest: str | None, device: torch.device | str) -> Encoder:
    """Load an encoder to a device; built-in encoders are read once per process.

    Raises:
        WeightsError: see `load_encoder`.
    """
    if name_or_path in ENCODERS:
        return _load_cached(name_or_path, digest, str(device))
    return load_encoder(name_or_path, digest=digest).to(device)


@lru_cache(maxsize=8)
def _load_cached(name: str, digest: str | None, device: str) -> Encoder:
    return load_encoder(name, digest=digest).to(device)


Factory = Callable[[str | None], Encoder]
"""Wanted digest, or None → encoder."""


def _intensity_factory(name: str, spacing: int) -> Factory:
    def make(digest: str | None) -> Encoder:
        if digest is not None and digest != name:
            raise WeightsError(
                f"Encoder {name!r}: it has no weights and its digest is {name!r}, but {digest!r} is wanted; "
                "leave encoder_digest out."
            )
        return IntensityEncoder(name=name, spacing=spacing)

    return make


def _from_file(path: Path, digest: str | None) -> Encoder:
    stored = read_weights(path, digest=digest)
    if stored.format == metric.FORMAT:
        network: Autoencoder | MetricNetwork = metric.build_metric(stored).model
        spacing = metric.SPACING
    else:
        network, spacing = build_autoencoder(stored).model, autoencoder.SPACING
    window = int(stored.metadata["normalisation"]["window"])
    return NetworkEncoder(network, spacing=spacing, window=window, digest=stored.digest)


def _shipped_factory(name: str) -> Factory:
    return lambda digest: _from_file(SHIPPED_WEIGHTS / f"{name}.safetensors", digest or SHIPPED[name])


ENCODERS: dict[str, Factory] = {
    **{name: _shipped_factory(name) for name in SHIPPED},
    "lcn": _intensity_factory("lcn", _LCN_SPACING),
    "pixels": _intensity_factory("pixels", 1),
}
"""Built-in encoders by name."""
