"""Comparison of the Zarr metadata that are stored with those that a run writes.

Metadata are compared by what they mean, since versions of zarr write the same array in different words.
"""

import json
from typing import Any, Literal

import zarr
from pydantic import TypeAdapter
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from ssem_dask.errors import ContentError
from ssem_dask.storage import location
from ssem_dask.storage.untrusted import CURE, JSON_OBJECT, checked, interpreting, parse_json, value_at

METADATA_FILE = "zarr.json"
_KIND: TypeAdapter[str] = TypeAdapter(Literal["array", "group"])
_FORMAT: TypeAdapter[int] = TypeAdapter(Literal[3])


def metadata_damage(url: str, *, planned: bytes) -> str:
    """Compare the stored metadata of a node with the planned ones.

    Args:
        url: URL of the metadata file.
        planned: content that the file should have. Further attributes of a group are no damage, because other tools
            may add some.

    Returns:
        The damage in a few words; empty if there is none.
    """
    try:
        content = location.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "is missing"
    wanted = _document(planned, url)
    try:
        found = _document(content, url)
    except (ContentError, OSError) as error:  # OSError: zarr's about a node that it does not take for one
        return str(error).removeprefix(f"{url}: ").partition(f"; {CURE}")[0]
    if found["node_type"] != wanted["node_type"]:
        return f"describes {_article(found['node_type'])}, but {_article(wanted['node_type'])} belongs there"
    for key, value in wanted.items():
        if key != "attributes" and found.get(key) != value:
            return f"has {key} {_shown(found.get(key))}, but {_shown(value)} belongs there"
    attributes = found["attributes"]
    if wanted["node_type"] == "group":
        attributes = {key: value for key, value in attributes.items() if key in wanted["attributes"]}
    return "" if attributes == wanted["attributes"] else "has other attributes than those that belong there"


def restored(url: str, *, planned: bytes) -> bytes:
    """Return the content that repairs a metadata file: the planned one, with the other attributes of a group."""
    tree = json.loads(planned)
    if tree["node_type"] == "group":
        try:
            found = _document(location.read_bytes(url), url)
        except (ContentError, OSError):
            return planned
        if found["node_type"] == "group":
            tree["attributes"] = {**found["attributes"], **tree.get("attributes", {})}
            return json.dumps(tree, indent=2).encode()
    return planned


def _document(content: bytes, where: str) -> dict[str, Any]:
    """Return metadata as zarr understands them, with all defaults; ContentError if it does not."""
    tree = checked(parse_json(content, where=where), JSON_OBJECT, where=where)
    kind = value_at(tree, "node_type", wanted=_KIND, where=where)
    value_at(tree, "zarr_format", wanted=_FORMAT, where=where)  # zarr takes a group without it for one
    with interpreting(where):
        buffer = default_buffer_prototype().buffer.from_bytes(content)
        store = MemoryStore({METADATA_FILE: buffer}, read_only=True)
        node = zarr.open_array(store, mode="r") if kind == "array" else zarr.open_group(store, mode="r", zarr_format=3)
        document: dict[str, Any] = json.loads(json.dumps(node.metadata.to_dict(), default=str))
    document.pop("consolidated_metadata", None)  # a copy of other nodes, which are compared themselves
    return {**document, "attributes": document.get("attributes") or {}}


def _article(kind: str) -> str:
    return "an array" if kind == "array" else "a group"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "…"
