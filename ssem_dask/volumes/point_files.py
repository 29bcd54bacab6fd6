"""Skeletons and meshes mapped by an alignment, file by file.

Many small files are mapped together, so that each section's field is read once for about a million points. Memory holds
these, and the largest file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssem_dask.errors import ConfigError, OutputError, SourceError
from ssem_dask.shown import without_secrets
from ssem_dask.storage import location, places
from ssem_dask.storage.points.ply_file import read_ply
from ssem_dask.storage.points.point_set import PointSet, known_points
from ssem_dask.storage.points.skeleton_folder import finish_skeletons, is_skeleton_folder, read_skeletons
from ssem_dask.storage.points.swc_file import read_swc
from ssem_dask.types import Float64Array
from ssem_dask.volumes.alignment import Alignment

Unit = Literal["px", "nm", "um"]
"""Unit of positions; with `px`, z counts sections."""
_NM = {"nm": 1.0, "um": 1000.0}
_READERS = {".swc": read_swc, ".ply": read_ply}
_BATCH = 1 << 20
"""Points that are mapped at once, unless one file has more."""
_BORDER = 0.5
"""Sections beyond the first and the last one in which a point still belongs to it: meshes end at the border of the
volume, or at centres of voxels."""
_ROUNDING = 1e-3
"""Part of a section by which a position on the border between two sections may be off, after rounding to float32."""


@dataclass(slots=True)
class MappedFiles:
    """How much was mapped."""

    files: int = 0
    points: int = 0
    unknown: int = 0
    """Points that the alignment does not cover, which were left out."""


@dataclass(frozen=True, slots=True)
class PointFrame:
    """Where positions of a unit are in the volume of an alignment."""

    alignment: Alignment
    unit: Unit

    def map(self, positions: Float64Array, *, to: str) -> Float64Array:
        """Map positions `(n, 3)` (z, y, x) of this unit; NaN where the alignment does not cover one. z stays.

        Raises:
            SourceError: a position is in no section.
        """
        pixel = self._sizes()[1]
        points = np.column_stack([self.sections(positions[:, 0]), positions[:, 1:] / pixel])
        mapped = self.alignment.map_points(points, to=to)
        return np.column_stack([positions[:, 0], mapped[:, 1:] * pixel])

    def sections(self, z: Float64Array) -> Float64Array:
        """Return the sections that positions along z are in; section i covers i to i + 1 thicknesses.

        Raises:
            SourceError: a position is in none.
        """
        count = self.alignment.shape[0]
        places = z / self._sizes()[0]
        outside = np.flatnonzero(~((places >= -_BORDER) & (places <= count + _BORDER)))
        if len(outside):
            value = float(z[outside[0]])
            raise SourceError(
                f"point {outside[0]} has z = {value:g} {self.unit}, which is in section "
                f"{np.floor(value / self._sizes()[0]):.0f}, but the sections are 0 … {count - 1}; "
                "give the unit of the positions with --unit, and positions from the first pixel of the source."
            )
        return np.clip(np.floor(places + _ROUNDING), 0, count - 1)

    def _sizes(self) -> tuple[float, float]:
        """Return the thickness of a section and the side of a pixel, in the unit."""
        if self.unit == "px":
            return 1.0, 1.0
        record = self.alignment.record
        return record.section_thickness / _NM[self.unit], record.pixel_size / _NM[self.unit]


def is_point_file(url: str) -> bool:
    """Return whether a location names skeletons or a mesh: `*.swc`, `*.ply`, or a folder."""
    return _suffix(url) in _READERS or (location.file_size(url) is None and location.exists(url))


def map_point_files(alignment: Alignment, source: str, destination: str, *, to: str, unit: Unit | None) -> MappedFiles:
    """Map the points of SWC or PLY, one file or all of a folder, or of a folder of precomputed skeletons.

    Args:
        alignment: the alignment.
        source: path or URL of the file or folder.
        destination: path or URL to write, a folder if the source is one.
        to: `aligned` or `source`, as in `Alignment.map_points`.
        unit: unit of the positions; precomputed skeletons are always in nm, the others need it.

    Raises:
        SourceError: the source is damaged or of another kind, or a point is in no section.
        ConfigError: the unit is missing, unknown, or another one than nm for skeletons that are in nm.
        OutputError: the destination is occupied or cannot be written.
    """
    source, destination = without_secrets(source), without_secrets(destination)
    places.refuse_overlap(destination, {"the points": source, "the run": alignment.url})
    skeletons = is_skeleton_folder(source)
    frame = PointFrame(alignment, _checked_unit(source, unit, skeletons=skeletons))
    with location.writing(destination):
        if places.is_occupied(destination):
            raise OutputError(f"{destination}: something is already there; choose another name or delete it.")
    done = MappedFiles()
    for batch in _batches(read_skeletons(source) if skeletons else _read_files(source)):
        for (name, points), mapped in zip(batch, _mapped(batch, frame, to=to), strict=True):
            done.files += 1
            done.points += len(mapped)
            done.unknown += int((~known_points(mapped)).sum())
            with location.writing(destination):
                location.write_bytes(location.join(destination, name) if name else destination, points.moved(mapped))
    if skeletons:
        finish_skeletons(source, destination)
    return done


def _checked_unit(source: str, unit: Unit | None, *, skeletons: bool) -> Unit:
    if skeletons and unit not in (None, "nm"):
        raise ConfigError(f"{source}: precomputed skeletons are in nm, but unit = {unit}; leave it out.")
    if unit is None and not skeletons:
        raise ConfigError(f"{source}: SWC and PLY name no unit; give that of its positions: px, nm or um.")
    if unit is not None and unit != "px" and unit not in _NM:
        raise ConfigError(f"unit = {unit!r} is unknown; give px, nm or um.")
    return unit or "nm"


def _read_files(source: str) -> Iterator[tuple[str, PointSet]]:
    """Yield the content of a file, with an empty name, or that of each file of a folder."""
    if _suffix(source) in _READERS and location.file_size(source) is not None:
        yield "", _read(source)
        return
    with location.reading(source):
        names = [name for name in location.list_names(source) if _suffix(name) in _READERS]
    if not names:
        raise SourceError(
            f"{source}: holds no skeletons or meshes; give a file or a folder of *.swc or *.ply, or a folder of "
            "precomputed skeletons."
        )
    for name in names:
        yield name, _read(location.join(source, name))


def _read(url: str) -> PointSet:
    with location.reading(url):
        content = location.read_bytes(url)
    return _READERS[_suffix(url)](content, where=url)


def _suffix(url: str) -> str:
    return url[-4:].lower()


def _batches(files: Iterator[tuple[str, PointSet]]) -> Iterator[list[tuple[str, PointSet]]]:
    batch: list[tuple[str, PointSet]] = []
    size = 0
    for name, points in files:
        batch.append((name, points))
        size += len(points.positions)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _mapped(batch: list[tuple[str, PointSet]], frame: PointFrame, *, to: str) -> list[Float64Array]:
    """Return the mapped positions of each file."""
    for _, points in batch:
        try:
            frame.sections(points.positions[:, 0])
        except SourceError as error:
            raise SourceError(f"{points.where}: {error}") from error
    counts = [len(points.positions) for _, points in batch]
    mapped = frame.map(np.concatenate([points.positions for _, points in batch]), to=to)
    return np.split(mapped, np.cumsum(counts)[:-1])
