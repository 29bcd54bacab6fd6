"""JSON records of a run, with a checksum, so that none is read through damage: chunks of arrays have one too.

The checksum is the first key of the record. It is the CRC-32 of the whole file with zeros in its own place.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from ssem_dask.errors import ContentError
from ssem_dask.storage import location
from ssem_dask.storage.untrusted import CURE, JSON_OBJECT, checked, parse_json

_KEY = "crc32"
_ZEROS = "0" * 8


def write_record(url: str, record: Mapping[str, Any]) -> int:
    """Write a record; return the number of bytes."""
    content = json.dumps({_KEY: _ZEROS, **record}, indent=1, ensure_ascii=False).encode()
    content = _with_checksum(content, _ZEROS, f"{zlib.crc32(content):08x}")
    location.write_bytes(url, content)
    return len(content)


def read_record(url: str) -> dict[str, Any]:
    """Read a record, without its checksum; one that has no checksum is read unchanged.

    Raises:
        FileNotFoundError: there is none.
        ContentError: it is damaged.
    """
    content = location.read_bytes(url)
    record = checked(parse_json(content, where=url), JSON_OBJECT, where=url)
    stated = record.pop(_KEY, None)
    if stated is not None and stated != f"{zlib.crc32(_with_checksum(content, stated, _ZEROS)):08x}":
        raise ContentError(f"{url}: is damaged, since its checksum does not match; {CURE}.")
    return record


def _with_checksum(content: bytes, old: object, new: str) -> bytes:
    """Replace the checksum in the text of a record."""
    return content.replace(f'"{_KEY}": "{old}"'.encode(errors="replace"), f'"{_KEY}": "{new}"'.encode(), 1)
