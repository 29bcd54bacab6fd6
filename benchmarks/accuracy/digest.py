"""Digests that decide whether a cell must be run again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ssem_dask

PACKAGE = Path(ssem_dask.__file__).parent


def digest_of(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 of names and bytes of files."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.name.encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


def digest_of_sources(*folders: str, extra: Sequence[Path] = ()) -> str:
    """SHA-256 of all sources and weights in folders of the package, and of other files."""
    found = [
        path
        for folder in folders
        for path in (PACKAGE / folder).rglob("*")
        if path.suffix in (".py", ".safetensors") and path.is_file()
    ]
    return digest_of_files([*found, *extra])
