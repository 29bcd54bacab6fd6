"""Damage to single files of a run, of every kind, and the proof that all of it was repaired."""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr
from ome_zarr_models.v05.image import Image

Harm = Callable[[Path], None]


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(bytes(content))


def digit(path: Path) -> None:
    """Another number of the same length, which only a checksum shows."""
    content = path.read_bytes()
    at = max(i for i, byte in enumerate(content) if 0x30 <= byte <= 0x39)
    path.write_bytes(content[:at] + str((content[at] - 0x30 + 1) % 10).encode() + content[at + 1 :])


def other_type(path: Path) -> None:
    path.write_text("[null, 1]")


def other_object(path: Path) -> None:
    path.write_text("{}")


def other_node(path: Path) -> None:
    """The metadata of a node of the other kind."""
    if json.loads(path.read_text())["node_type"] == "array":
        document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    else:
        array = zarr.create_array(zarr.storage.MemoryStore(), shape=(4,), chunks=(2,), dtype="u1")
        document = json.loads(json.dumps(array.metadata.to_dict()))
    path.write_text(json.dumps(document))


def _changed(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def other_shape(path: Path) -> None:
    _changed(path, shape=[n + 1 for n in json.loads(path.read_text())["shape"]])


def other_dtype(path: Path) -> None:
    _changed(path, data_type="int32", fill_value=0)


def other_codecs(path: Path) -> None:
    _changed(path, codecs=[{"name": "bytes", "configuration": {"endian": "little"}}])


def no_attributes(path: Path) -> None:
    _changed(path, attributes={})


def other_report(path: Path) -> None:
    """A valid entry that says something else."""
    _changed(path, seconds=12345.0)


def other_digest(path: Path) -> None:
    """A valid entry of another configuration, as a task of an earlier driver leaves it."""
    _changed(path, digest="another")


def other_page(path: Path) -> None:
    """A valid page in which a report is absent."""
    reports = json.loads(zlib.decompress(path.read_bytes()))
    path.write_bytes(zlib.compress(json.dumps(reports[1:]).encode()))


ANY_FILE: tuple[Harm, ...] = (delete, empty, truncate, garble)
JSON_FILE: tuple[Harm, ...] = (*ANY_FILE, other_type, other_object)


def harms(root: Path) -> Iterator[tuple[Path, Harm]]:
    """Yield every file of a run below `root`, as a relative path, with every kind of damage that it can have."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root)
        kinds: tuple[Harm, ...]
        if path.name == "zarr.json":
            document = json.loads(path.read_text())
            kinds = (*JSON_FILE, other_node)
            if document["node_type"] == "array":
                kinds = (*kinds, other_shape, other_dtype, other_codecs)
            if document["attributes"]:
                kinds = (*kinds, no_attributes)
        elif path.name == "whole.page":
            kinds = (*ANY_FILE, other_type, flip, other_page)
        elif relative.parts[0] == "ledger":
            if path.suffix != ".json":
                continue  # hints
            kinds = (*JSON_FILE, other_report, other_digest)
        elif path.suffix == ".json":
            kinds = (*JSON_FILE, flip, digit)
        else:
            kinds = (*ANY_FILE, flip)
        for kind in kinds:
            yield relative, kind


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of a run, without its ledger and without the place where the run is."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    found = {name: path.read_bytes() for name, path in files.items() if not name.startswith("ledger/")}
    document = json.loads(found["zarr.json"])
    document["attributes"]["ssem_dask"]["given"].pop("output")
    return {**found, "zarr.json": json.dumps(document).encode()}


def assert_opens_in_plain_zarr(root: Path) -> None:
    """Read every array with zarr alone, and validate the image."""
    group = zarr.open_group(str(root), mode="r")
    nodes = dict(group.members(max_depth=None))
    assert {name for name, node in nodes.items() if isinstance(node, zarr.Array)}
    for node in nodes.values():
        if isinstance(node, zarr.Array):
            np.asarray(node[...])
    image = Image.from_zarr(zarr.open_group(str(root / "aligned"), mode="r"))
    assert image.ome_attributes.multiscales
