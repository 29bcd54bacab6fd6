"""Weights file of a trained autoencoder.

The metadata of the file (`weights_file`) are format, channels, normalisation, training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssem_dask.errors import WeightsError
from ssem_dask.registration.encoders.autoencoder import Autoencoder, Channels
from ssem_dask.registration.encoders.weights_file import StoredWeights, write_weights

FORMAT = "ssem_dask.autoencoder/1"


@dataclass(frozen=True)
class AutoencoderWeights:
    """A trained autoencoder and its metadata."""

    model: Autoencoder
    metadata: dict[str, Any]
    """JSON values: format, channels, normalisation, training."""


def save_autoencoder(weights: AutoencoderWeights, path: Path) -> str:
    """Write a safetensors file, and return its digest.

    Raises:
        WeightsError: the file cannot be written.
    """
    return write_weights(weights.model.state_dict(), weights.metadata, path)


def build_autoencoder(stored: StoredWeights) -> AutoencoderWeights:
    """Build the autoencoder of stored weights.

    Raises:
        WeightsError: the weights are of another kind of network.
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
        raise stored.mismatch_error() from error
    model.eval().requires_grad_(False)
    return AutoencoderWeights(model, stored.metadata)


def _channels(metadata: dict[str, Any]) -> Channels:
    a, b, c, code = (int(n) for n in metadata["channels"])
    return a, b, c, code
