"""Arrays that become longer along z: what differs from the planned metadata, and copies with other files."""

import json
from enum import Enum, auto
from typing import Any

import numpy as np

from ssem_dask.storage import location
from ssem_dask.storage.arrays import open_array, write_unit
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.node_metadata import METADATA_FILE
from ssem_dask.storage.untrusted import JSON_OBJECT, parse_json

_DRAFT = ".draft"
_COPIED_BYTES = 256 << 20
"""Bytes of an array that are copied at once, about."""


class Difference(Enum):
    """Kind of difference between a stored array and the planned one."""

    NOTHING = auto()
    """Nothing that growth changes; also if there is no array, or a damaged one."""
    SHAPE = auto()
    """Its shape or its attributes."""
    FILES = auto()
    """The extent of its files."""


def difference(url: str, *, planned: bytes) -> Difference:
    """Compare the metadata of an array with the planned ones; groups never differ."""
    wanted = parse_json(planned, where=url)
    try:
        found = parse_json(location.read_bytes(location.join(url, METADATA_FILE)), where=url)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return Difference.NOTHING
    if not isinstance(found, dict) or not isinstance(wanted, dict) or wanted.get("node_type") != "array":
        return Difference.NOTHING
    if found.get("node_type") != "array":
        return Difference.NOTHING
    if any(found.get(key) != wanted.get(key) for key in ("chunk_grid", "codecs")):
        return Difference.FILES
    same = all(found.get(key) == wanted.get(key) for key in ("shape", "attributes"))
    return Difference.NOTHING if same else Difference.SHAPE


def copy_array(source: str, target: str, *, planned: bytes) -> None:
    """Write the values of an array to another one, which the planned metadata describe and which may be longer.

    It is written to a draft that gets its name when it is whole, see `is_copied`.
    """
    metadata = JSON_OBJECT.validate_python(json.loads(planned))
    location.delete(target, recursive=True)
    draft = target + _DRAFT
    with location.writing(target), fused_codecs():
        location.delete(draft, recursive=True)
        location.write_bytes(location.join(draft, METADATA_FILE), planned)
        old, new = open_array(source, mode="r"), open_array(draft, mode="r+")
        axis = list(_names(metadata)).index("z")
        depth = max(write_unit(old)[axis], write_unit(new)[axis])
        row = max(1, int(np.prod([n for i, n in enumerate(old.shape) if i != axis])) * old.dtype.itemsize)
        depth *= max(1, _COPIED_BYTES // (row * depth))
        for start in range(0, old.shape[axis], depth):
            part = slice(start, min(start + depth, old.shape[axis]))
            index = tuple(part if i == axis else slice(None) for i in range(old.ndim))
            new[index] = np.asarray(old[index])
        location.move_or_copy(draft, to=target)
        location.delete(draft, recursive=True)


def is_copied(target: str) -> bool:
    """Return whether `copy_array` has written a whole copy there."""
    return location.exists(location.join(target, METADATA_FILE)) and not location.exists(target + _DRAFT)


def _names(metadata: dict[str, Any]) -> list[str]:
    return [str(name) for name in metadata.get("dimension_names") or ()]


def lengthen(url: str, *, sections: int) -> None:
    """Make an array longer along z, by its metadata alone; the new sections are blank."""
    where = location.join(url, METADATA_FILE)
    metadata = JSON_OBJECT.validate_python(parse_json(location.read_bytes(where), where=where))
    axis = len(metadata["shape"]) - 3
    if metadata["shape"][axis] < sections:
        metadata["shape"][axis] = sections
        with location.writing(url):
            location.write_json(where, metadata)
