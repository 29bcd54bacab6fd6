"""Files of network weights.

A file is a safetensors file (never pickle) whose single metadata entry `ssem_dask` is a JSON object with at least
`format`, the kind of network. Its digest is its sha256. With one metadata entry the bytes are the same in every run.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ssem_dask.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TrainedWeights(Generic[Network]):
    """A trained network and its metadata."""

    model: Network
    metadata: dict[str, Any]
    """JSON values: format, channels, normalisation, training; more for some kinds."""

    def save(self, path: Path) -> str:
        """Write a safetensors file, and return its digest.

        Raises:
            WeightsError: the file cannot be written.
        """
        return write_weights(self.model.state_dict(), self.metadata, path)


@dataclass(frozen=True)
class StoredWeights:
    """Contents of a file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    """JSON values."""
    digest: str
    path: Path

    @property
    def format(self) -> str:
        """The kind of network."""
        return str(self.metadata["format"])

    def load(self, build: Callable[[dict[str, Any]], Network], *, kind: str, advice: str) -> TrainedWeights[Network]:
        """Build the network and load its tensors.

        Args:
            build: makes a network of the shape that the metadata describe.
            kind: format that the file must have.
            advice: what to give instead of a file of another format, for the error message.

        Raises:
            WeightsError: the weights are of another kind of network.
        """
        if self.format != kind:
            raise WeightsError(
                f"Encoder weights {self.path}: these are of the kind {self.format!r}, but {kind!r} is wanted; give "
                f"{advice}."
            )
        try:
            model = build(self.metadata)
            model.load_state_dict(self.tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self.mismatch_error() from error
        model.eval().requires_grad_(False)
        return TrainedWeights(model, self.metadata)

    def mismatch_error(self) -> WeightsError:
        """Make the error for tensors that do not match the metadata."""
        return WeightsError(
            f"Encoder weights {self.path}: the tensors do not fit the network that the file describes; "
            "train them again with 'ssem-dask train'."
        )


def write_weights(tensors: Mapping[str, Tensor], metadata: dict[str, Any], path: Path) -> str:
    """Write a file, and return its digest.

    Raises:
        WeightsError: the file cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    payload: bytes = safetensors.torch.save(plain, metadata={"ssem_dask": json.dumps(metadata, sort_keys=True)})
    try:
        path.write_bytes(payload)
    except OSError as error:
        raise WeightsError(f"Weights {path}: cannot be written ({error.strerror}); choose another place.") from error
    return hashlib.sha256(payload).hexdigest()


def read_weights(path: Path, *, digest: str | None) -> StoredWeights:
    """Read a file.

    Args:
        path: a `.safetensors` file.
        digest: sha256 that the file must have, hexadecimal; None accepts any.

    Raises:
        WeightsError: missing file, another digest, not a safetensors file, or not one of ours.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Encoder weights {path}: cannot be read ({error.strerror}); give the path of a file that "
            "'ssem-dask train' wrote, or the name of a built-in encoder."
        ) from error
    file_digest = hashlib.sha256(payload).hexdigest()
    if digest is not None and digest.lower() != file_digest:
        raise WeightsError(
            f"Encoder weights {path}: the file's sha256 is {file_digest}, but {digest} is wanted; use the file that "
            "the digest was taken from, or set encoder_digest to this file's digest."
        )
    metadata = _metadata(payload, path)
    return StoredWeights(safetensors.torch.load(payload), metadata, file_digest, path)


def _metadata(payload: bytes, path: Path) -> dict[str, Any]:
    """Parse the JSON metadata of a safetensors payload: 8 bytes of length, then a JSON header."""
    try:
        safetensors.deserialize(payload)  # type: ignore[no-untyped-call]
        length = int.from_bytes(payload[:8], "little")
        header = json.loads(payload[8 : 8 + length])
    except (safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(
            f"Encoder weights {path}: this is not a safetensors file; give a file that 'ssem-dask train' wrote."
        ) from error
    try:
        metadata: dict[str, Any] = json.loads(header["__metadata__"]["ssem_dask"])
        str(metadata["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"Encoder weights {path}: a safetensors file, but not of an encoder of ssem_dask (no such metadata); "
            "give a file that 'ssem-dask train' wrote."
        ) from error
    return metadata
