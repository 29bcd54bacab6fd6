"""A trained autoencoder and its weights file.

The metadata of the file (`weights_file`) are format, channels, normalisation, training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssem_dask.errors import WeightsError
from ssem_dask.registration.encoders.autoencoder import Autoencoder, Channels
from ssem_dask.registration.encoders.weights_file import StoredWeights, read_weights, write_weights

FORMAT = "ssem_dask.autoencoder/1"


@dataclass(frozen=True)
class Weights:
    """A trained autoencoder and what is known about it."""

    model: Autoencoder
    metadata: dict[str, Any]
    """JSON values: format, channels, normalisation, training."""


def save_weights(weights: Weights, path: Path) -> str:
    """Write a safetensors file; returns its digest."""
    return write_weights(weights.model.state_dict(), weights.metadata, path)


def load_weights(path: Path, *, digest: str | None) -> tuple[Weights, str]:
    """Read a file that `save_weights` wrote; returns the weights and the file's digest.

    Args:
        path: a `.safetensors` file.
        digest: sha256 that the file must have, hexadecimal; None accepts any.

    Raises:
        WeightsError: missing file, another digest, not a safetensors file, or weights of another kind.
    """
    stored = read_weights(path, digest=digest)
    return weights_of(stored), stored.digest


def weights_of(stored: StoredWeights) -> Weights:
    """The autoencoder in a file.

    Raises:
        WeightsError: weights of another kind.
    """
    if stored.format != FORMAT:
        raise WeightsError(
            f"Encoder weights {stored.path}: these are of the kind {stored.format!r}, but {FORMAT!r} is wanted; give "
            "weights of an autoencoder that 'ssem-dask train' wrote."
        )
    try:
        model = Autoencoder(_channels(stored.metadata))
        model.load_state_dict(stored.tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise stored.unfit() from error
    model.eval().requires_grad_(False)
    return Weights(model, stored.metadata)


def _channels(metadata: dict[str, Any]) -> Channels:
    a, b, c, code = (int(n) for n in metadata["channels"])
    return a, b, c, code
