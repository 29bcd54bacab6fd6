"""The files that network weights live in.

A safetensors file (never pickle) whose single metadata entry `ssem_dask` is a JSON object with at least `format`, the
kind of network. The file's digest is its sha256. One metadata entry keeps the bytes the same in every run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ssem_dask.errors import WeightsError


@dataclass(frozen=True)
class StoredWeights:
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    """JSON values."""
    digest: str
    path: Path

    @property
    def format(self) -> str:
        """The kind of network."""
        return str(self.metadata["format"])

    def unfit(self) -> WeightsError:
        """The error of tensors that are not what the metadata say."""
        return WeightsError(
            f"Encoder weights {self.path}: the tensors do not fit the network that the file describes; "
            "train them again with 'ssem-dask train'."
        )


def write_weights(tensors: Mapping[str, Tensor], metadata: dict[str, Any], path: Path) -> str:
    """Write a file; returns its digest.

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
    found = hashlib.sha256(payload).hexdigest()
    if digest is not None and digest.lower() != found:
        raise WeightsError(
            f"Encoder weights {path}: the file's sha256 is {found}, but {digest} is wanted; use the file that the "
            "digest was taken from, or set encoder_digest to this file's digest."
        )
    metadata = _metadata(payload, path)
    return StoredWeights(safetensors.torch.load(payload), metadata, found, path)


def _metadata(payload: bytes, path: Path) -> dict[str, Any]:
    """The JSON metadata of a safetensors payload: 8 bytes length, then a JSON header."""
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
