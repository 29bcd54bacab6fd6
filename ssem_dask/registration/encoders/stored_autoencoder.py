"""Weights file of a trained autoencoder.

The metadata of the file (`weights_file`) are format, channels, normalisation, training.
"""

from typing import Any, TypeAlias

from ssem_dask.registration.encoders.autoencoder import Autoencoder, Channels
from ssem_dask.registration.encoders.weights_file import StoredWeights, TrainedWeights

FORMAT = "ssem_dask.autoencoder/1"


AutoencoderWeights: TypeAlias = TrainedWeights[Autoencoder]


def build_autoencoder(stored: StoredWeights) -> AutoencoderWeights:
    """Build the autoencoder of stored weights.

    Raises:
        WeightsError: the weights are of another kind of network.
    """
    return stored.load(
        lambda metadata: Autoencoder(_channels(metadata)),
        kind=FORMAT,
        advice="weights of an autoencoder that 'ssem-dask train' wrote",
    )


def _channels(metadata: dict[str, Any]) -> Channels:
    a, b, c, code = (int(n) for n in metadata["channels"])
    return a, b, c, code
