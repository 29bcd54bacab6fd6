"""Encoders: image → features at a spacing, behind one protocol.

A registration compares `encode(normalised(image))` of two images. `normalised` is apart because it belongs to the
section as observed: it is done once, before warping, and gradients flow through `encode` only.

Built in: `metric` and `autoencoder` (weights shipped with the package), `lcn` (local-contrast-normalised intensity,
pooled) and `pixels` (the same, not pooled: what features are compared with). Anything else is the path of a safetensors
file.
A later kind of encoder registers itself with `register_encoder`.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssem_dask.errors import WeightsError
from ssem_dask.image.pooling import pool
from ssem_dask.registration.encoders import autoencoder, metric
from ssem_dask.registration.encoders.autoencoder import Autoencoder
from ssem_dask.registration.encoders.local_contrast import normalise_contrast
from ssem_dask.registration.encoders.metric import MetricNetwork
from ssem_dask.registration.encoders.stored_autoencoder import weights_of
from ssem_dask.registration.encoders.weights_file import read_weights

SHIPPED = {
    "autoencoder": "c92fb042ac6101b289f3ca5110125cd2cd342bd48ee866280f73f575d0b2abd4",
    "metric": "a1822f28c899790c588e50821716289efc9650453092bd4a4f53edb96254bfac",
}
"""Encoders whose weights come with the package, and the sha256 of each file."""

SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
"""Where they lie: NAME.safetensors and NAME.md, the model card."""

_LCN_WINDOW = 64
_LCN_SPACING = 2


@runtime_checkable
class Encoder(Protocol):
    """Image → features."""

    @property
    def spacing(self) -> int:
        """Image px per feature px; feature i covers the pixels [i·spacing, (i + 1)·spacing)."""

    @property
    def digest(self) -> str:
        """Identifies what the features are: sha256 of the weights, or a name."""

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoder on another device."""

    def normalised(self, images: Tensor, *, valid: Tensor) -> Tensor:
        """Images `(n, y, x)` as the network wants them: contrast normalised, 0 where `valid` `(n, y, x)` is False."""

    def encode(self, images: Tensor) -> Tensor:
        """Features `(n, c, ceil(y/spacing), ceil(x/spacing))` float32 of normalised images; differentiable in them."""


def features(encoder: Encoder, images: Tensor, *, valid: Tensor) -> Tensor:
    """Features `(n, c, y, x)` of images `(n, y, x)` as observed."""
    return encoder.encode(encoder.normalised(images, valid=valid))


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
        """Itself: nothing lies on a device."""
        return self

    def normalised(self, images: Tensor, *, valid: Tensor) -> Tensor:
        """See `normalise_contrast`."""
        return normalise_contrast(images, valid=valid, window=_LCN_WINDOW)

    def encode(self, images: Tensor) -> Tensor:
        """The pooled image as the only channel."""
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
        """The same encoder on another device."""
        moved = self._model.to(device)
        return NetworkEncoder(moved, spacing=self._spacing, window=self._window, digest=self._digest)

    def normalised(self, images: Tensor, *, valid: Tensor) -> Tensor:
        """As in training, see `normalise_contrast`."""
        return normalise_contrast(images, valid=valid, window=self._window)

    def encode(self, images: Tensor) -> Tensor:
        """The features."""
        out: Tensor = self._model.encode(images)
        return out


Factory = Callable[[str | None], Encoder]
"""digest that is wanted, or None -> encoder."""

_REGISTRY: dict[str, Factory] = {}


def register_encoder(name: str, factory: Factory) -> None:
    """Make an encoder known under a name."""
    _REGISTRY[name] = factory


def encoder_names() -> tuple[str, ...]:
    """Names that `load_encoder` knows."""
    return tuple(sorted(_REGISTRY))


def load_encoder(name_or_path: str, *, digest: str | None) -> Encoder:
    """An encoder by name, or from a `.safetensors` file.

    Args:
        name_or_path: one of `encoder_names()`, or a path.
        digest: sha256 that the weights must have; None accepts any.

    Raises:
        WeightsError: unknown name, missing file, another digest, not a safetensors file, or another kind of weights.
    """
    if name_or_path in _REGISTRY:
        return _REGISTRY[name_or_path](digest)
    if not name_or_path.endswith(".safetensors"):
        raise WeightsError(
            f"register encoder: {name_or_path!r} is neither a built-in encoder "
            f"({', '.join(encoder_names())}) nor the path of a .safetensors file; give one of these."
        )
    return _from_file(Path(name_or_path), digest)


def encoder_on(name_or_path: str, *, digest: str | None, device: torch.device | str) -> Encoder:
    """`load_encoder`, on a device; what comes with the package is read once a process.

    Raises:
        WeightsError: as of `load_encoder`.
    """
    if name_or_path in _REGISTRY:
        return _kept(name_or_path, digest, str(device))
    return load_encoder(name_or_path, digest=digest).to(device)


@lru_cache(maxsize=8)
def _kept(name: str, digest: str | None, device: str) -> Encoder:
    return load_encoder(name, digest=digest).to(device)


def _intensity(name: str, spacing: int) -> Factory:
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
        network: Autoencoder | MetricNetwork = metric.metric_weights_of(stored).model
        spacing = metric.SPACING
    else:
        network, spacing = weights_of(stored).model, autoencoder.SPACING
    window = int(stored.metadata["normalisation"]["window"])
    return NetworkEncoder(network, spacing=spacing, window=window, digest=stored.digest)


def _shipped(name: str) -> Factory:
    return lambda digest: _from_file(SHIPPED_WEIGHTS / f"{name}.safetensors", digest or SHIPPED[name])


for _name in SHIPPED:
    register_encoder(_name, _shipped(_name))
register_encoder("lcn", _intensity("lcn", _LCN_SPACING))
register_encoder("pixels", _intensity("pixels", 1))
