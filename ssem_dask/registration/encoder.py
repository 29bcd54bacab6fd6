"""Encoders: image → features at a spacing, behind one protocol.

A registration compares `encode(normalised(image))` of two images. `normalised` is apart because it belongs to the
section as observed: it is done once, before warping, and gradients flow through `encode` only.

Built in: `autoencoder` (weights shipped with the package), `lcn` (local-contrast-normalised intensity, pooled) and
`pixels` (the same, not pooled: what features are compared with). Anything else is the path of a safetensors file.
A later kind of encoder registers itself with `register_encoder`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ssem_dask.errors import WeightsError
from ssem_dask.registration.autoencoder import SPACING
from ssem_dask.registration.lcn import local_contrast
from ssem_dask.registration.pyramid import pool
from ssem_dask.registration.train import Weights, load_weights

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "autoencoder.safetensors"
SHIPPED_DIGEST = "c92fb042ac6101b289f3ca5110125cd2cd342bd48ee866280f73f575d0b2abd4"

_LCN_WINDOW = 64
_LCN_SPACING = 2


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
        """See `local_contrast`."""
        return local_contrast(images, valid=valid, window=_LCN_WINDOW)

    def encode(self, images: Tensor) -> Tensor:
        """The pooled image as the only channel."""
        return pool(images, self._spacing)[:, None] if self._spacing > 1 else images[:, None]


class AutoencoderEncoder:
    """The encoder half of a trained autoencoder."""

    def __init__(self, weights: Weights, *, digest: str) -> None:
        self._weights = weights
        self._window = int(weights.metadata["normalisation"]["window"])
        self._digest = digest
        # Convolutions on a CPU are three times faster with the channels innermost.
        self._model = weights.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def spacing(self) -> int:
        """Image px per feature px."""
        return SPACING

    @property
    def digest(self) -> str:
        """sha256 of the weights' file."""
        return self._digest

    def to(self, device: torch.device | str) -> "AutoencoderEncoder":
        """The same encoder on another device."""
        return AutoencoderEncoder(Weights(self._model.to(device), self._weights.metadata), digest=self._digest)

    def normalised(self, images: Tensor, *, valid: Tensor) -> Tensor:
        """As in training, see `local_contrast`."""
        return local_contrast(images, valid=valid, window=self._window)

    def encode(self, images: Tensor) -> Tensor:
        """The bottleneck's activations."""
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
            f"register.ssemnet.encoder: {name_or_path!r} is neither a built-in encoder "
            f"({', '.join(encoder_names())}) nor the path of a .safetensors file; give one of these."
        )
    weights, found = load_weights(Path(name_or_path), digest=digest)
    return AutoencoderEncoder(weights, digest=found)


def _intensity(name: str, spacing: int) -> Factory:
    def make(digest: str | None) -> Encoder:
        if digest is not None and digest != name:
            raise WeightsError(
                f"Encoder {name!r}: it has no weights and its digest is {name!r}, but {digest!r} is wanted; "
                "leave encoder_digest out."
            )
        return IntensityEncoder(name=name, spacing=spacing)

    return make


def _shipped(digest: str | None) -> Encoder:
    weights, found = load_weights(SHIPPED_WEIGHTS, digest=digest or SHIPPED_DIGEST)
    return AutoencoderEncoder(weights, digest=found)


register_encoder("autoencoder", _shipped)
register_encoder("lcn", _intensity("lcn", _LCN_SPACING))
register_encoder("pixels", _intensity("pixels", 1))
