"""NRRD files of 2D displacement vectors, as ITK, SimpleITK and elastix write them: one section per file."""

import re
import zlib

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.untrusted import interpreting
from ssem_dask.types import Float64Array

_TYPES = {"float": "f4", "double": "f8"}
_VECTOR_KINDS = ("vector", "list", "2-vector", "covariant-vector")
_MAX_BYTES = 1 << 33
_NUMBERS = re.compile(r"[-+0-9.eE]+")


class NrrdField:
    """Displacements (dy, dx) on a regular grid, in nm."""

    def __init__(self, values: Float64Array, *, scale: Float64Array, origin: Float64Array) -> None:
        """Make a field of `(2, y, x)` values whose node (i, j) is at `(i, j)·scale + origin`."""
        self.values, self.scale, self.origin = values, scale, origin

    def at(self, points: Float64Array) -> Float64Array:
        """Return the displacements at points `(n, 2)`, bilinear; 0 outside of the grid, as in ITK."""
        extent = np.array(self.values.shape[1:])
        index = (points - self.origin) / self.scale
        inside = np.all((index >= -0.5) & (index <= extent - 0.5), axis=1)
        index = np.clip(index, 0, extent - 1)
        first = np.minimum(np.floor(index).astype(np.intp), np.maximum(extent - 2, 0))
        share = index - first
        out = np.zeros((len(points), 2))
        for row in (0, 1):
            for column in (0, 1):
                weight = np.abs(1 - row - share[:, 0]) * np.abs(1 - column - share[:, 1])
                place = np.minimum(first + np.array([row, column]), extent - 1)
                out += np.where(weight > 0, weight * self.values[:, place[:, 0], place[:, 1]], 0).T
        return np.where(inside[:, None], out, 0.0)


def read_nrrd(url: str) -> NrrdField:
    """Read a file.

    Raises:
        SourceError: nothing is there, or it is no NRRD file of 2D vectors on a grid without rotation.
    """
    with location.reading(url):
        content = location.read_bytes(url)
    cure = "write a 2D displacement field with attached data, as sitk.WriteImage does"
    with interpreting(url, what="its NRRD header", cure=cure):
        end = content.index(b"\n\n")
        lines = content[:end].decode("ascii").split("\n")
        if not lines[0].startswith("NRRD"):
            raise ValueError("the first line is not that of NRRD")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line and not line.startswith("#"))
        sizes = [int(size) for size in fields["sizes"].split()]
        kinds = fields["kinds"].split()
        if len(sizes) != 3 or sizes[0] != 2 or kinds[0] not in _VECTOR_KINDS:
            raise ValueError(f"sizes {sizes} of kinds {kinds} are no 2D vectors, first axis")
        directions = [_numbers(part) for part in fields["space directions"].replace("none", "").split()]
        (dx, skew), (other, dy) = directions
        if skew or other or dx <= 0 or dy <= 0:
            raise ValueError("the grid is rotated or mirrored")
        x, y = _numbers(fields.get("space origin", "(0,0)"))
        dtype = np.dtype(_TYPES[fields["type"]]).newbyteorder(
            "<" if fields.get("endian", "little") == "little" else ">"
        )
        count = sizes[0] * sizes[1] * sizes[2]
        if count * dtype.itemsize > _MAX_BYTES:
            raise ValueError(f"{count:,} values are more than a section has")
        raw = _decoded(content[end + 2 :], encoding=fields["encoding"], size=count * dtype.itemsize)
        values = np.frombuffer(raw, dtype=dtype, count=count).reshape(sizes[2], sizes[1], 2).astype(np.float64)
    return NrrdField(np.moveaxis(values[..., ::-1], -1, 0), scale=np.array([dy, dx]), origin=np.array([y, x]))


def _decoded(content: bytes, *, encoding: str, size: int) -> bytes:
    if encoding == "raw":
        return content
    if encoding in ("gzip", "gz"):
        # At most the bytes that the header announces are unpacked, however many the file would make.
        decoder = zlib.decompressobj(wbits=31)
        return decoder.decompress(content, size)
    raise ValueError(f"encoding {encoding} is not raw or gzip")


def _numbers(text: str) -> tuple[float, float]:
    first, second = (float(number) for number in _NUMBERS.findall(text))
    return first, second


def nrrd_files(folder: str) -> dict[int, str]:
    """Return the NRRD files of a folder by section: the last number in their names.

    Raises:
        SourceError: there are none, a name has no number, or a number repeats.
    """
    files: dict[int, str] = {}
    for name in sorted(location.list_names(folder)):
        if not name.endswith(".nrrd"):
            continue
        numbers = re.findall(r"\d+", name)
        if not numbers:
            raise SourceError(f"{folder}: {name} has no number; name the file of section 12 like section-00012.nrrd.")
        if int(numbers[-1]) in files:
            raise SourceError(f"{folder}: {name} and another file are of section {int(numbers[-1])}; keep one of them.")
        files[int(numbers[-1])] = location.join(folder, name)
    if not files:
        raise SourceError(f"{folder}: holds no *.nrrd files; give the folder that has one per section.")
    return files
