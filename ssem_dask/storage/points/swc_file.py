"""Skeletons as SWC: one node per line, `id type x y z radius parent`; `#` begins a comment.

The format names no unit. Its radii, types, further columns and comments are kept as they are.
"""

from dataclasses import dataclass

import numpy as np

from ssem_dask.errors import ContentError
from ssem_dask.storage.points.point_set import PointSet, known_points
from ssem_dask.types import Float64Array

_COLUMNS = 7
_ROOT = -1
_CURE = "fix that line"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwcFile(PointSet):
    """The nodes of one file."""

    comments: list[str]
    rows: list[list[str]]
    """Columns of each node as they were written."""
    parents: dict[int, int]
    """Parent of each node; -1 is none."""

    def moved(self, positions: Float64Array) -> bytes:
        """See `PointSet.moved`; the children of a node that is left out get its nearest ancestor that is not."""
        known = known_points(positions)
        kept = {node for node, is_known in zip(self.parents, known, strict=True) if is_known}
        lines = list(self.comments)
        for row, (_, y, x), node in zip(self.rows, positions.tolist(), self.parents, strict=True):
            if node in kept:
                parent = self._ancestor(node, kept)
                lines.append(" ".join([*row[:2], f"{x:.9g}", f"{y:.9g}", *row[4:6], str(parent), *row[_COLUMNS:]]))
        return ("\n".join(lines) + "\n").encode()

    def _ancestor(self, node: int, kept: set[int]) -> int:
        parent = self.parents[node]
        for _ in range(len(self.parents)):
            if parent == _ROOT or parent in kept:
                return parent
            parent = self.parents[parent]
        raise ContentError(f"{self.where}: node {node} is its own ancestor; write the file again as a tree.")


def read_swc(content: bytes, *, where: str) -> SwcFile:
    """Read the content of a file.

    Raises:
        ContentError: a line is no node, or a parent does not exist.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContentError(f"{where}: is no text, but SWC is; give a file of SWC lines.") from error
    comments: list[str] = []
    rows: list[list[str]] = []
    parents: dict[int, int] = {}
    positions = []
    for number, line in enumerate(text.splitlines(), start=1):
        row = line.split()
        if not row:
            continue
        if row[0].startswith("#"):
            comments.append(line)
            continue
        node, parent, position = _parsed(row, where=f"{where}: line {number}")
        if node in parents:
            raise ContentError(f"{where}: line {number} has node {node} again; give every node a number of its own.")
        parents[node] = parent
        rows.append(row)
        positions.append(position)
    missing = next((parent for parent in parents.values() if parent != _ROOT and parent not in parents), None)
    if missing is not None:
        raise ContentError(f"{where}: node {missing} is a parent but has no line; add it, or write -1 instead.")
    if not rows:
        raise ContentError(f"{where}: has no nodes; give a file of SWC lines: id type x y z radius parent.")
    return SwcFile(where=where, positions=np.array(positions), comments=comments, rows=rows, parents=parents)


def _parsed(row: list[str], *, where: str) -> tuple[int, int, tuple[float, float, float]]:
    """Return number, parent and position (z, y, x) of a node."""
    try:
        node, parent = int(row[0]), int(row[6])
        x, y, z = (float(text) for text in row[2:5])
    except (ValueError, IndexError):
        node, parent, (x, y, z) = 0, 0, (np.nan,) * 3
    if not np.isfinite([x, y, z]).all():
        raise ContentError(f"{where} is {' '.join(row)!r}, but wanted is 'id type x y z radius parent'; {_CURE}.")
    return node, parent if parent >= 0 else _ROOT, (z, y, x)
