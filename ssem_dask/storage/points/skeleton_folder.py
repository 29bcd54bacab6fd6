"""Skeletons as neuroglancer-precomputed: a folder with `info`, and one binary file per segment, or shards of them.

A file holds the numbers of vertices and edges (uint32), the vertices (x, y, z; float32), the edges (pairs of uint32),
and the attributes of the vertices one after the other, all little-endian. `transform` in `info` maps the vertices to
nm. What is written has one file per segment, and vertices in nm.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

from ssem_dask.storage import location
from ssem_dask.storage.points.point_set import PointSet, gunzipped, known_points
from ssem_dask.storage.tensorstores import kvstore_spec, tensorstore
from ssem_dask.storage.untrusted import JSON_OBJECT, checked, interpreting, read_hint, read_json
from ssem_dask.types import AnyArray, BoolArray, Float64Array

_TYPE = "neuroglancer_skeletons"
_IDENTITY = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
_GZIP = ".gz"
"""End of the names of files that cloud-volume has compressed."""
_CURE = "write the skeletons again"
_TEXT: TypeAdapter[str] = TypeAdapter(str)


class _Attribute(BaseModel):
    id: str
    data_type: str = "float32"
    num_components: int = Field(default=1, gt=0, lt=1 << 16)


class SkeletonInfo(BaseModel):
    """The part of `info` that decides what files mean."""

    transform: list[float] = Field(default=_IDENTITY, min_length=12, max_length=12)
    vertex_attributes: list[_Attribute] = []
    sharding: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton(PointSet):
    """The skeleton of one segment; positions in nm."""

    edges: AnyArray
    """`(m, 2)` uint32."""
    attributes: list[AnyArray]
    """Bytes of each vertex, `(n, bytes)`, per attribute."""

    def moved(self, positions: Float64Array) -> bytes:
        """See `PointSet.moved`; the neighbours of vertices that are left out are joined."""
        known = known_points(positions)
        edges = self.edges if known.all() else joined_edges(self.edges, known)
        vertices = positions[known][:, ::-1].astype("<f4")
        parts = [struct.pack("<II", len(vertices), len(edges)), vertices.tobytes(), edges.astype("<u4").tobytes()]
        return b"".join([*parts, *(values[known].tobytes() for values in self.attributes)])


def is_skeleton_folder(url: str) -> bool:
    """Return whether a folder says that it holds skeletons."""
    info = read_hint(location.join(url, "info"), JSON_OBJECT)
    return info is not None and info.get("@type") == _TYPE


def read_skeletons(url: str) -> Iterator[tuple[str, Skeleton]]:
    """Yield the skeletons of a folder with the name of each.

    Raises:
        ContentError: `info` or a skeleton is damaged.
        MissingExtraError: they are in shards, which TensorStore reads.
    """
    place = location.join(url, "info")
    with location.reading(url), interpreting(place, cure=_CURE):
        info = SkeletonInfo.model_validate(read_json(place, JSON_OBJECT))
    for name, content in _sharded(url, info.sharding) if info.sharding else _files(url):
        where = f"{url}, segment {name}"
        with interpreting(where, what="the skeleton", cure=_CURE):
            skeleton = _parsed(gunzipped(content), info=info, where=where)
        yield name, skeleton


def finish_skeletons(source: str, destination: str) -> None:
    """Write `info`, and the properties of the segments if there are any, after all skeletons."""
    with location.reading(source):
        info: dict[str, Any] = read_json(location.join(source, "info"), JSON_OBJECT)
        properties = checked(info.get("segment_properties") or "", _TEXT, where=source)
        content = location.read_bytes(location.join_below(source, properties, "info")) if properties else b""
    info = {key: value for key, value in info.items() if key not in ("sharding", "spatial_index")}
    with location.writing(destination):
        if properties:
            location.write_bytes(location.join_below(destination, properties, "info"), content)
        location.write_json(location.join(destination, "info"), {**info, "transform": _IDENTITY})


def joined_edges(edges: AnyArray, known: BoolArray) -> AnyArray:
    """Return edges `(m, 2)` between known vertices, numbered without the others.

    Known vertices that a connected group of unknown ones had joined are joined to the first of them.
    """
    ends_known = known[edges]
    parents: dict[int, int] = {}
    for one, other in edges[~ends_known.any(axis=1)].tolist():
        parents[_root(one, parents)] = _root(other, parents)
    groups: dict[int, set[int]] = {}
    mixed = ends_known.sum(axis=1) == 1
    for (one, other), (one_known, _) in zip(edges[mixed].tolist(), ends_known[mixed].tolist(), strict=True):
        unknown, neighbour = (other, one) if one_known else (one, other)
        groups.setdefault(_root(unknown, parents), set()).add(neighbour)
    joins = [(min(group), other) for group in groups.values() for other in sorted(group - {min(group)})]
    numbers = np.cumsum(known) - 1
    kept = edges[ends_known.all(axis=1)]
    joined: AnyArray = numbers[np.concatenate([kept.astype(np.int64), np.array(joins, np.int64).reshape(-1, 2)])]
    return joined


def _root(vertex: int, parents: dict[int, int]) -> int:
    """Return the vertex that stands for a group of connected vertices, which grows by this one if it is new."""
    while (parent := parents.setdefault(vertex, vertex)) != vertex:
        parents[vertex] = parents[parent]
        vertex = parent
    return vertex


def _files(url: str) -> Iterator[tuple[str, bytes]]:
    with location.reading(url):
        names = location.list_names(url)
    for name in names:
        if name.removesuffix(_GZIP).isdecimal():
            with location.reading(url):
                content = location.read_bytes(location.join(url, name))
            yield name.removesuffix(_GZIP), content


def _sharded(url: str, sharding: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    store = tensorstore(url).KvStore
    spec = {"driver": "neuroglancer_uint64_sharded", "metadata": sharding, "base": kvstore_spec(url)}
    with interpreting(url, what="its shards", cure=_CURE):
        opened = store.open(spec).result()
        keys = opened.list().result()
    for key in keys:
        with interpreting(url, what="its shards", cure=_CURE):
            content = opened.read(key).result().value
        yield str(int.from_bytes(key, "big")), content


def _parsed(content: bytes, *, info: SkeletonInfo, where: str) -> Skeleton:
    vertex_count, edge_count = struct.unpack_from("<II", content)
    widths = [np.dtype(each.data_type).itemsize * each.num_components for each in info.vertex_attributes]
    wanted = 8 + 12 * vertex_count + 8 * edge_count + sum(widths) * vertex_count
    if len(content) != wanted:
        raise ValueError(f"has {len(content)} bytes, but {vertex_count} vertices and {edge_count} edges take {wanted}")
    vertices = np.frombuffer(content, "<f4", 3 * vertex_count, 8).reshape(-1, 3).astype(np.float64)
    start = 8 + 12 * vertex_count
    edges = np.frombuffer(content, "<u4", 2 * edge_count, start).reshape(-1, 2)
    if edges.size and int(edges.max()) >= vertex_count:
        raise ValueError(f"an edge names vertex {int(edges.max())} of {vertex_count}")
    start += 8 * edge_count
    attributes = []
    for width in widths:
        attributes.append(np.frombuffer(content, np.uint8, width * vertex_count, start).reshape(vertex_count, width))
        start += width * vertex_count
    matrix = np.array(info.transform).reshape(3, 4)
    positions = (vertices @ matrix[:, :3].T + matrix[:, 3])[:, ::-1]
    if not np.isfinite(positions).all():
        raise ValueError("a vertex is not finite")
    return Skeleton(where=where, positions=positions, edges=edges, attributes=attributes)
