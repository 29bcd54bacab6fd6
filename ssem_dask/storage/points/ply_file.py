"""Meshes as PLY, by the package plyfile; text or binary, with all properties of vertices and faces.

The format names no unit. Normals are left out of what is written: they would be those of the mesh before it was moved,
and viewers compute them from the faces.
"""

import io
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import ContentError
from ssem_dask.extras import require_extra
from ssem_dask.storage.points.point_set import PointSet, known_points
from ssem_dask.storage.untrusted import interpreting
from ssem_dask.types import AnyArray, BoolArray, Float64Array

_NORMALS = ("nx", "ny", "nz")
_REFERENCES = ("vertex_indices", "vertex_index", "vertex1", "vertex2")
"""Properties of other elements that are numbers of vertices."""
_TRIANGLE = 3
_HEADER_BYTES = 1 << 16
_CURE = "write it again as PLY with float vertices x, y, z and faces of vertex_indices"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlyFile(PointSet):
    """The mesh of one file."""

    content: Any
    """`plyfile.PlyData`."""

    def moved(self, positions: Float64Array) -> bytes:
        """See `PointSet.moved`; faces and edges at a vertex that is left out are left out with it."""
        from numpy.lib.recfunctions import repack_fields
        from plyfile import PlyData, PlyElement

        known = known_points(positions)
        elements = []
        for element in self.content.elements:
            data = repack_fields(element.data)  # without the gaps of what was mapped into memory
            if element.name == "vertex":
                data = _without_normals(data)
                data["y"], data["x"] = positions[:, 1], positions[:, 2]
                data = data[known]
            elif not known.all():
                data = _of_known(data, known, where=self.where)
            comments = list(element.comments)
            elements.append(PlyElement.describe(data, element.name, comments=comments, **_list_types(element)))
        written = PlyData(
            elements,
            text=self.content.text,
            byte_order=self.content.byte_order,
            comments=self.content.comments,
            obj_info=self.content.obj_info,
        )
        return _content(written)


def read_ply(content: bytes, *, where: str) -> PlyFile:
    """Read the content of a file.

    Raises:
        MissingExtraError: plyfile is not installed.
        ContentError: it is no PLY file, or has no vertices x, y, z of float type.
    """
    require_extra("meshes", purpose=where)
    with interpreting(where, what="PLY", cure=_CURE):
        data = _parsed(content)
        vertices = data["vertex"].data
        types = [vertices.dtype[name] for name in ("z", "y", "x")]
        if any(dtype.kind != "f" for dtype in types):
            raise ValueError(f"its vertices are {types[0]}")
        positions = np.stack([vertices[name].astype(np.float64) for name in ("z", "y", "x")], axis=1)
        if not np.isfinite(positions).all():
            raise ValueError("a vertex is not finite")
    return PlyFile(where=where, positions=positions, content=data)


def _parsed(content: bytes) -> Any:
    """Return the parsed content; faces that are all triangles as one array, which takes a hundredth of the time.

    plyfile does that only with files that it maps into memory.
    """
    from plyfile import PlyData, PlyParseError

    name = next((name for name in _REFERENCES[:2] if name.encode() in content[:_HEADER_BYTES]), None)
    if name is not None and b"\nformat binary" in content[:_HEADER_BYTES]:
        with tempfile.NamedTemporaryFile(suffix=".ply") as file:
            file.write(content)
            file.flush()
            try:
                return PlyData.read(file.name, mmap="c", known_list_len={"face": {name: _TRIANGLE}})
            except (PlyParseError, ValueError, KeyError):
                pass  # other polygons
    return PlyData.read(io.BytesIO(content))


def _content(written: Any) -> bytes:
    """Return a file's content; plyfile itself writes faces one by one."""
    arrays = [_as_stored(element, written.byte_order) for element in written.elements]
    if written.text or any(array is None for array in arrays):
        stream = io.BytesIO()
        written.write(stream)
        return stream.getvalue()
    return b"".join(
        [written.header.encode("ascii"), b"\n", *(array.tobytes() for array in arrays if array is not None)]
    )


def _as_stored(element: Any, byte_order: str) -> AnyArray | None:
    """Return an element as its rows are in a binary file; None if its lists have several lengths."""
    if any(element.data.dtype[name].kind == "O" for name in element.data.dtype.names):
        return None
    fields: list[Any] = []
    for prop in element.properties:
        dtype, shape = element.data.dtype[prop.name].base, element.data.dtype[prop.name].shape
        if shape:
            fields.append((f"{prop.name} count", np.dtype(prop.len_dtype).newbyteorder(byte_order)))
        fields.append((prop.name, dtype.newbyteorder(byte_order), shape))
    rows = np.empty(len(element.data), dtype=fields)
    for prop in element.properties:
        rows[prop.name] = element.data[prop.name]
        if element.data.dtype[prop.name].shape:
            rows[f"{prop.name} count"] = element.data.dtype[prop.name].shape[0]
    return rows


def _without_normals(vertices: AnyArray) -> AnyArray:
    names = [name for name in vertices.dtype.names or () if name not in _NORMALS]
    kept = np.empty(len(vertices), dtype=[(name, vertices.dtype[name]) for name in names])
    for name in names:
        kept[name] = vertices[name]
    return kept


def _of_known(data: AnyArray, known: BoolArray, *, where: str) -> AnyArray:
    """Return the rows that refer to known vertices only, with the numbers that these have without the others."""
    references = [name for name in data.dtype.names or () if name in _REFERENCES]
    if not references:
        if any(data.dtype[name].kind == "O" for name in data.dtype.names or ()):
            raise ContentError(f"{where}: an element is no face or edge, so no vertex can be left out; {_CURE}.")
        return data
    numbers = np.cumsum(known) - 1
    usable = np.ones(len(data), dtype=bool)
    for name in references:
        usable &= _all_known(data[name], known)
    rows = data[usable].copy()
    for name in references:
        if rows.dtype[name].kind == "O":
            rows[name] = [numbers[face].astype(face.dtype) for face in rows[name]]
        else:
            rows[name] = numbers[rows[name]]
    return rows


def _all_known(references: AnyArray, known: BoolArray) -> BoolArray:
    if references.dtype.kind == "O":
        return np.array([bool(known[face].all()) for face in references], dtype=bool)
    usable: BoolArray = np.logical_and.reduce(known[references].reshape(len(references), -1), axis=1)
    return usable


def _list_types(element: Any) -> dict[str, Any]:
    """Return the types of lists in a file, which the arrays do not have."""
    lists = [prop for prop in element.properties if hasattr(prop, "len_dtype")]
    return {
        "len_types": {prop.name: np.dtype(prop.len_dtype).str[1:] for prop in lists},
        "val_types": {prop.name: np.dtype(prop.val_dtype).str[1:] for prop in lists},
    }
