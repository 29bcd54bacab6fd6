"""The command `points`."""

import csv
import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Run
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.units import plural

if TYPE_CHECKING:
    from ssem_dask.types import Float64Array
    from ssem_dask.volumes.point_files import PointFrame

_AXES = ("z", "y", "x")
_ROWS = 1 << 18
"""Rows of a CSV file that are read and mapped at once."""
_DECIMALS = {"px": 4, "nm": 3, "um": 6}


class Direction(StrEnum):
    """Frames that points can be mapped to."""

    ALIGNED = "aligned"
    SOURCE = "source"


class PointUnit(StrEnum):
    """Units of positions."""

    PX = "px"
    NM = "nm"
    UM = "um"


def points(
    output: Run,
    file: Annotated[
        str,
        typer.Argument(
            help="CSV file with columns z, y, x (others are kept), or - for stdin; skeletons: a file or folder of SWC, "
            "or a folder of neuroglancer-precomputed; meshes: a file or folder of PLY."
        ),
    ],
    destination: Annotated[
        str | None,
        typer.Argument(
            help="File or folder to write, needed for skeletons and meshes. Default: CSV goes to stdout.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Direction,
        typer.Option("--to", help="aligned: map points of the source to the aligned volume; source: the reverse."),
    ] = Direction.ALIGNED,
    unit: Annotated[
        PointUnit | None,
        typer.Option(
            "--unit",
            help="Unit of the positions: px (z counts sections), nm or um (µm). Needed for SWC and PLY, which name "
            "none. Default: px for CSV; precomputed skeletons are in nm.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Map points, skeletons or meshes between the source and the aligned volume.

    Position 0 is the corner of the first pixel of the first section. In px, the centre of pixel i is at i + 0.5, and z
    of CSV is the index of a section. A point belongs to the section that it is in, and its z stays. A point that the
    alignment does not cover becomes nan in CSV. Elsewhere it is left out, and the nodes that it has joined are joined.
    """
    from ssem_dask.volumes.alignment import open_alignment
    from ssem_dask.volumes.point_files import PointFrame, is_point_file, map_point_files

    alignment = open_alignment(output)
    if not is_point_file(file):
        if destination is not None:
            raise ConfigError(f"points: {file} is CSV, which goes to stdout; leave {destination} out, and use '>'.")
        frame = PointFrame(alignment, "px" if unit is None else unit.value)
        _map_csv(file, frame, to=to.value, as_json=as_json)
        return
    if destination is None:
        raise ConfigError(f"points: {file} is no CSV, so its result needs a place; give a file or folder after it.")
    done = map_point_files(alignment, file, destination, to=to.value, unit=None if unit is None else unit.value)
    if done.unknown:
        console.note(f"{done.unknown} of {plural(done.points, 'point')} are not covered by the alignment: left out.")
    if as_json:
        counts = {"files": done.files, "points": done.points, "unknown": done.unknown}
        console.show_json({"alignment": output, "to": to.value, "output": destination, **counts})
        return
    console.line(f"{destination}: {plural(done.files, 'file')}, {plural(done.points, 'point')}")


def _map_csv(file: str, frame: "PointFrame", *, to: str, as_json: bool) -> None:
    """Map a CSV file block by block to stdout."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    records: list[dict[str, Any]] = []
    has_header = False
    for columns, rows, positions in _blocks(file, frame):
        mapped = frame.map(positions, to=to)
        if as_json:
            records += (
                {"z": int(z) if frame.unit == "px" else z, "y": _finite_or_none(y), "x": _finite_or_none(x)}
                for z, y, x in mapped.tolist()
            )
            continue
        if not has_header:
            writer.writerow(columns)
            has_header = True
        y_column, x_column = (columns.index(axis) for axis in ("y", "x"))
        decimals = _DECIMALS[frame.unit]
        for row, (_, y, x) in zip(rows, mapped.tolist(), strict=True):
            row[y_column], row[x_column] = f"{y:.{decimals}f}", f"{x:.{decimals}f}"
            writer.writerow(row)
    if as_json:
        console.show_json({"alignment": frame.alignment.url, "to": to, "points": records})


def _blocks(file: str, frame: "PointFrame") -> "Iterator[tuple[list[str], list[list[str]], Float64Array]]":
    """Yield the columns, some rows and their positions (n, 3) (z, y, x); at least one block, if the header is right."""
    with _opened(file) as stream:
        reader = csv.reader(stream)
        columns = [name.strip() for name in next(reader, [])]
        missing = [axis for axis in _AXES if axis not in columns]
        if missing:
            raise SourceError(
                f"Points {file}: the first line has {', '.join(columns) or 'nothing'}, but columns z, y, x are needed; "
                f"add {', '.join(missing)}."
            )
        numbered = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
        block = list(itertools.islice(numbered, _ROWS))
        while True:
            positions = _parsed(file, columns=columns, block=block, frame=frame)
            yield columns, [row for _, row in block], positions
            block = list(itertools.islice(numbered, _ROWS))
            if not block:
                return


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    """Open a file or stdin as text; SourceError if it cannot be read."""
    try:
        if file == "-":
            yield sys.stdin
        else:
            with Path(file).open(encoding="utf-8-sig", newline="") as stream:
                yield stream
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"Points {file}: cannot be read ({error}); give a CSV file.") from error


def _parsed(
    file: str, *, columns: list[str], block: list[tuple[int, list[str]]], frame: "PointFrame"
) -> "Float64Array":
    """Return the positions (n, 3) in the order z, y, x; SourceError if a row has none or its section does not exist."""
    import numpy as np

    indices = [columns.index(axis) for axis in _AXES]
    positions = np.empty((len(block), 3))
    sections = frame.alignment.shape[0]
    for i, (number, row) in enumerate(block):
        try:
            positions[i] = [float(row[index]) for index in indices]
        except (ValueError, IndexError) as error:
            raise SourceError(
                f"Points {file}: line {number} is {','.join(row)!r}, but z, y and x must be numbers; fix that line."
            ) from error
        z = positions[i, 0]
        if frame.unit == "px" and not (z.is_integer() and 0 <= z < sections):
            raise SourceError(
                f"Points {file}: line {number} has z = {row[indices[0]]}, but the sections are 0 … {sections - 1}; "
                "give the index of a section."
            )
    return positions


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
