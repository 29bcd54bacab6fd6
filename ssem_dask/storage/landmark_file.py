"""Landmarks that a user set: points of sections, and the same points in a reference.

CSV with the header `z,y,x,ref_y,ref_x`, and `sd` if standard deviations differ; then one row per landmark. z is the
section, (y, x) a point of the source section, (ref_y, ref_x) the same point in the reference's plane. Other columns are
an error; empty lines are ignored.
"""

import csv
import hashlib
import io
from dataclasses import dataclass

import numpy as np

from ssem_dask.errors import ConfigError
from ssem_dask.storage import location
from ssem_dask.types import Float64Array

COLUMNS = ("z", "y", "x", "ref_y", "ref_x")
SPREAD = "sd"


@dataclass(frozen=True, slots=True)
class LandmarkFile:
    """Content of a landmark file, in its own unit."""

    rows: Float64Array
    """`(n, 6)`: z, y, x, ref_y, ref_x, sd; sd is NaN if the file does not give it."""
    digest: str
    """SHA-256 of the file's bytes."""


def read_landmark_file(url: str, *, sections: int) -> LandmarkFile:
    """Read and check a landmark file.

    Args:
        url: path or URL.
        sections: number of sections of the volume.

    Raises:
        SourceError: nothing is there, or it cannot be reached.
        ConfigError: not CSV of this form, a section outside the volume, a number that is missing or not finite, a
            standard deviation that is not positive.
    """
    with location.reading(url):
        content = location.read_bytes(url)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Landmarks {url}: not a text file; give CSV with the header {','.join(COLUMNS)}.") from error
    lines = [line for line in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in line)]
    header = [cell.strip() for cell in lines[0]] if lines else []
    _check_header(header, url)
    rows = [
        _row(line, header, where=f"Landmarks {url}, row {number}", sections=sections)
        for number, line in enumerate(lines[1:], start=1)
    ]
    if not rows:
        raise ConfigError(f"Landmarks {url}: the file has none; add one row per landmark, or omit the file.")
    return LandmarkFile(rows=np.asarray(rows), digest=hashlib.sha256(content).hexdigest())


def _check_header(header: list[str], url: str) -> None:
    wanted = f"wanted are {','.join(COLUMNS)} and, optionally, {SPREAD}."
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ConfigError(f"Landmarks {url}, header: {', '.join(missing)} missing; {wanted}")
    unknown = [name for name in header if name not in (*COLUMNS, SPREAD) or header.count(name) > 1]
    if unknown:
        raise ConfigError(f"Landmarks {url}, header: {unknown[0]!r} is unknown or repeated; {wanted}")


def _row(line: list[str], header: list[str], *, where: str, sections: int) -> list[float]:
    if len(line) != len(header):
        raise ConfigError(f"{where}: {len(line)} values, but the header has {len(header)}; fix that row.")
    cells = dict(zip(header, line, strict=True))
    values = [_number(cells[name], name, where=where) for name in COLUMNS]
    z = values[0]
    if z != int(z) or not 0 <= z < sections:
        raise ConfigError(f"{where}: z is {cells['z'].strip()}, but the volume's sections are 0 to {sections - 1}.")
    spread = cells.get(SPREAD, "").strip()
    if not spread:
        return [*values, np.nan]
    size = _number(spread, SPREAD, where=where)
    if size <= 0:
        raise ConfigError(f"{where}: {SPREAD} is {spread}; a standard deviation must be greater than 0.")
    return [*values, size]


def _number(cell: str, name: str, *, where: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise ConfigError(f"{where}: {name} is {cell.strip()!r}; wanted is a finite number.")
    return number
