"""Initial affines that a user gives, one per section, as CSV or JSON.

CSV: the header `z,a00,a01,a02,a10,a11,a12`, then one row per section. JSON: a list of objects with the same keys. A row
is one entry of `fields/coarse`: [[a00, a01, a02], [a10, a11, a12]] maps (y, x, 1) of the aligned section to (y, x) of
the source section, mip-0 px.
"""

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import ConfigError
from ssem_dask.storage import location
from ssem_dask.types import Float64Array

COLUMNS = ("z", "a00", "a01", "a02", "a10", "a11", "a12")
_MIN_AREA = 1e-3
"""Area of a mapped unit square below which a map counts as not invertible."""


@dataclass(frozen=True, slots=True)
class AffineFile:
    """Content of a file of affines."""

    affines: Float64Array
    """`(Z, 2, 3)`: aligned → source, full map, mip-0 px; NaN for sections that the file omits."""
    digest: str
    """SHA-256 of the file's bytes."""


def read_affine_file(url: str, *, sections: int, digest: str | None) -> AffineFile:
    """Read and check a file of affines.

    Args:
        url: path or URL.
        sections: number of sections of the volume.
        digest: sha256 that the file must have; None accepts any.

    Raises:
        SourceError: nothing is there, or it cannot be reached.
        ConfigError: another digest, not CSV or JSON of this form, a section twice or outside the volume, a number that
            is missing or not finite, a map that cannot be inverted.
    """
    with location.reading(url):
        content = location.read_bytes(url)
    actual_digest = hashlib.sha256(content).hexdigest()
    if digest is not None and digest.lower() != actual_digest:
        raise ConfigError(
            f"Initial affines {url}: the file's sha256 is {actual_digest}, but {digest} is wanted; it changed after "
            "the run was planned, or coarse.initial_digest belongs to another file."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Initial affines {url}: not a text file; give CSV or JSON.") from error
    affines = np.full((sections, 2, 3), np.nan)
    for where, row in _json_rows(text, url) if text.lstrip()[:1] in ("[", "{") else _csv_rows(text, url):
        z = _section(row, sections=sections, where=where)
        if np.isfinite(affines[z]).all():
            raise ConfigError(f"{where}: section {z} is repeated; keep one row per section.")
        affines[z] = _affine(row, where=where)
    if np.isnan(affines).all():
        raise ConfigError(f"Initial affines {url}: no section is in it; add one row per section, or omit the file.")
    return AffineFile(affines=affines, digest=actual_digest)


def _csv_rows(text: str, url: str) -> list[tuple[str, dict[str, Any]]]:
    lines = [line for line in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in line)]
    header = [cell.strip() for cell in lines[0]] if lines else []
    _check_keys(header, f"Initial affines {url}, header")
    rows = []
    for number, line in enumerate(lines[1:], start=1):
        where = f"Initial affines {url}, row {number}"
        if len(line) != len(header):
            raise ConfigError(f"{where}: {len(line)} values, but the header has {len(header)}; fix that row.")
        rows.append((where, dict(zip(header, line, strict=True))))
    return rows


def _json_rows(text: str, url: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"Initial affines {url}: not valid JSON ({error}); fix that line.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"Initial affines {url}: not a list of objects with the keys {', '.join(COLUMNS)}.")
    named = [(f"Initial affines {url}, entry {number}", row) for number, row in enumerate(rows)]
    for where, row in named:
        _check_keys(list(row), where)
    return named


def _check_keys(keys: list[str], where: str) -> None:
    missing = [name for name in COLUMNS if name not in keys]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; wanted are {','.join(COLUMNS)}.")
    unknown = [name for name in keys if name not in COLUMNS or keys.count(name) > 1]
    if unknown:
        raise ConfigError(f"{where}: {unknown[0]!r} is unknown or repeated; wanted are {','.join(COLUMNS)}.")


def _number(row: dict[str, Any], name: str, *, where: str) -> float:
    value = row[name]
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise ConfigError(f"{where}: {name} is {value!r}; wanted is a finite number.")
    return number


def _section(row: dict[str, Any], *, sections: int, where: str) -> int:
    z = _number(row, "z", where=where)
    if z != int(z) or not 0 <= z < sections:
        raise ConfigError(f"{where}: z is {row['z']!r}, but the volume's sections are 0 to {sections - 1}.")
    return int(z)


def _affine(row: dict[str, Any], *, where: str) -> Float64Array:
    affine = np.array([[_number(row, f"a{i}{j}", where=where) for j in range(3)] for i in range(2)])
    area = float(np.linalg.det(affine[:, :2]))
    if abs(area) < _MIN_AREA:
        raise ConfigError(f"{where}: the map cannot be inverted (determinant {area:.3g}); give a full affine map.")
    return affine
