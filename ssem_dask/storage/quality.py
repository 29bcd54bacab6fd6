"""Quality tables of a run: measurements of its result that need no truth, by section and by window.

    quality/sections   (z, column) float32
    quality/source     (z, column) float32: the columns of `sections` that are of the source alone
    quality/windows    (column, z, y, x) float32; y and x count the register stage's windows
    quality/reslice/…  (z, pixel), the source's dtype: xz and yz cuts, before and after
    quality/*.json     records of stages, and the last evaluation against a truth

The attribute `columns` lists the columns with unit and meaning. Values that were never written read as NaN: unknown
(C8). Rows are written in blocks of `BLOCK` sections, one file per block.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from ssem_dask.errors import ContentError, ConventionError, PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import chunk_boxes
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage import arrays, json_records
from ssem_dask.storage.location import join
from ssem_dask.storage.untrusted import checked
from ssem_dask.types import AnyArray, Float32Array, ShapeYX, ShapeZYX

BLOCK = 8
"""Sections that one task writes."""
CUTS: Final = ("xz", "yz")
TIMES: Final = ("before", "after")
SECTIONS_PATH: Final = "quality/sections"
"""Path of the table by section, in a run."""
SOURCE_PATH: Final = "quality/source"
"""Path of the columns by section that the source alone determines, in a run."""
WINDOWS_PATH: Final = "quality/windows"
"""Path of the table by window, in a run."""
Table: TypeAlias = Literal["sections", "windows"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    unit: str
    meaning: str


SECTION_COLUMNS: Final[dict[str, Column]] = {
    "ncc": Column("1", "normalised correlation with the previous section after alignment, in the probe"),
    "ncc_before": Column("1", "normalised correlation with the previous section before alignment, in the probe"),
    "cpc": Column("1", "chunked Pearson correlation with the previous section after alignment, in the probe"),
    "cpc_before": Column("1", "chunked Pearson correlation with the previous section before alignment, in the probe"),
    "motion_median": Column("px", "median length of the residual motion between the section and the previous one"),
    "motion_dy": Column("px", "median y component of that motion"),
    "motion_dx": Column("px", "median x component of that motion"),
    "uncertainty": Column("px", "median of fields/uncertainty, per component"),
    "fold_rate": Column("1", "share of the known cells of fields/section where tissue is folded, |J| <= 0"),
    "strain_p99": Column("1", "99th percentile of the largest stretch or compression by fields/section"),
    "coverage": Column("1", "share of the aligned section that shows tissue"),
    "confidence": Column("1", "mean confidence of the pair field with the previous section, over its known nodes"),
    "known": Column("1", "share of the nodes where that pair field is known"),
    "tissue": Column("1", "share of the section that shows tissue, of the part that the aligned section shows"),
    "contrast": Column("intensity", "robust standard deviation of the intensities of tissue, in the probe"),
    "sharpness": Column("1", "strength of detail finer than 3 px relative to that of 3 to 9 px, in the probe"),
    "structure": Column("1", "correlation of adjacent pixels, in the probe; 0 is white noise"),
    "likeness_1": Column("1", "correlation of the whole aligned section with the previous one, at a coarse mip"),
    "likeness_2": Column("1", "the same with the section two before"),
    "likeness_3": Column("1", "the same with the section three before"),
    "unlike": Column("1", "share of the section that is less similar to both neighbours than these to each other"),
    "odd_dark": Column("1", "share of the section that is darker than both neighbours"),
    "odd_bright": Column("1", "share of the section that is brighter than both neighbours"),
    "odd_empty": Column("1", "share of the section that is empty where both neighbours show tissue"),
    "odd_length": Column("1", "length of the longest piece of these, as a share of the root of the area"),
    "odd_width": Column("1", "mean width of that piece, as a share of the root of the area"),
    "odd_tone": Column("1", "intensity of that piece relative to both neighbours, in standard deviations of tissue"),
    "step": Column("px", "largest displacement of one side of a line through the section against the other"),
}
SOURCE_COLUMNS: Final[dict[str, Column]] = {
    name: SECTION_COLUMNS[name] for name in ("ncc_before", "cpc_before", "contrast", "sharpness", "structure")
}
"""Columns that no result of the run changes."""
WINDOW_COLUMNS: Final[dict[str, Column]] = {
    "similarity": Column("1", "normalised correlation with the previous section after alignment"),
    "confidence": Column("1", "mean confidence of the pair field with the previous section, over its known nodes"),
    "known": Column("1", "share of the nodes where that pair field is known"),
    "motion": Column("px", "median length of the residual motion between the section and the previous one"),
    "coverage": Column("1", "share of the window that shows tissue"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityInfo:
    """Frame of the tables: the volume, its windows and the probe."""

    shape_mip0: ShapeZYX
    """(z, y, x) of the volume."""
    window: ShapeYX
    """Extent (y, x) of a register window's core, mip-0 px."""
    probe: Box
    """Box in which sections were compared and cut, at its mip; z covers the volume."""
    similarity_mip: int
    """Scale level at which windows were compared."""

    @property
    def windows(self) -> ShapeYX:
        """Number of windows (y, x)."""
        y, x = (ceil_div(n, w) for n, w in zip(self.shape_mip0[1:], self.window, strict=True))
        return y, x


_Size: TypeAlias = Annotated[int, Field(gt=0, lt=1 << 40)]
_Index: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 40)]
_Mip: TypeAlias = Annotated[int, Field(ge=0, lt=64)]


class _StoredBox(TypedDict):
    start: tuple[_Index, _Index, _Index]
    stop: tuple[_Size, _Size, _Size]
    mip: _Mip


class _StoredFrame(TypedDict):
    shape_mip0: tuple[_Size, _Size, _Size]
    window: tuple[_Size, _Size]
    probe: _StoredBox
    similarity_mip: _Mip


class _StoredColumn(TypedDict):
    name: str


_FRAME = TypeAdapter(_StoredFrame)
_COLUMN_LIST = TypeAdapter(list[_StoredColumn])


def reslice_path(cut: str, time: str) -> str:
    """Return the path of a cut in a run."""
    return f"quality/reslice/{cut}_{time}"


def window_boxes(info: QualityInfo) -> list[Box]:
    """Return the cores (y, x) of the windows of a section, mip-0 px, row by row; their z is 0 to 1."""
    return list(chunk_boxes((1, *info.shape_mip0[1:]), chunk=(1, *info.window)))


def quality_attributes(info: QualityInfo, columns: dict[str, Column]) -> dict[str, Any]:
    """Return the attributes of a table: its columns and the places that were measured."""
    return {
        "columns": _column_attributes(columns),
        "shape_mip0": list(info.shape_mip0),
        "window": list(info.window),
        "probe": {"start": list(info.probe.start), "stop": list(info.probe.stop), "mip": info.probe.mip},
        "similarity_mip": info.similarity_mip,
    }


def write_sections(run: str, *, start: int, values: dict[str, AnyArray]) -> int:
    """Write rows of `quality/sections`.

    Args:
        run: URL of the run.
        start: first section, a multiple of `BLOCK`.
        values: values `(sections,)` of one block for each column; a missing column is unknown.

    Returns:
        Bytes written, raw.

    Raises:
        PlanError: a name is not in `SECTION_COLUMNS`.
    """
    return _write_rows(join(run, SECTIONS_PATH), SECTION_COLUMNS, start=start, values=values)


def write_source(run: str, *, start: int, values: dict[str, AnyArray]) -> int:
    """Write rows of `quality/source`, like `write_sections`, with the columns of `SOURCE_COLUMNS`."""
    return _write_rows(join(run, SOURCE_PATH), SOURCE_COLUMNS, start=start, values=values)


def read_source(run: str, sections: range) -> dict[str, Float32Array]:
    """Return rows of `quality/source`, each column `(sections,)`."""
    rows = np.asarray(arrays.open_array(join(run, SOURCE_PATH), mode="r")[sections.start : sections.stop])
    return dict(zip(SOURCE_COLUMNS, rows.T, strict=True))


def write_windows(run: str, *, start: int, values: dict[str, AnyArray]) -> int:
    """Write rows of `quality/windows`, like `write_sections`, with values `(sections, y, x)` of the windows."""
    rows = np.stack(_columns(values, WINDOW_COLUMNS)).astype(np.float32)
    arrays.open_array(join(run, WINDOWS_PATH), mode="r+")[:, start : start + rows.shape[1]] = rows
    return rows.nbytes


def write_reslice(run: str, *, start: int, cut: str, time: str, pixels: AnyArray) -> int:
    """Write rows `(sections, pixel)` of a cut (`xz`, `yz`) at a time (`before`, `after`); return their bytes."""
    arrays.open_array(join(run, reslice_path(cut, time)), mode="r+")[start : start + len(pixels)] = pixels
    return pixels.nbytes


def has_quality(run: str) -> bool:
    """Return whether a run has quality tables."""
    return arrays.is_node(join(run, WINDOWS_PATH)) and arrays.is_node(join(run, SECTIONS_PATH))


def read_info(run: str) -> QualityInfo:
    """Read the frame of the tables; SourceError if there are none, or if it is incomplete."""
    url = join(run, WINDOWS_PATH)
    frame = checked(
        dict(arrays.open_array(url, mode="r").attrs),
        _FRAME,
        where=url,
        what="the frame in its attributes",
        cure="run the stage measure again",
    )
    return QualityInfo(
        shape_mip0=frame["shape_mip0"],
        window=frame["window"],
        probe=Box(frame["probe"]["start"], frame["probe"]["stop"], frame["probe"]["mip"]),
        similarity_mip=frame["similarity_mip"],
    )


def read_sections(run: str) -> dict[str, Float32Array]:
    """Return the columns of `quality/sections`, each `(z,)`; NaN is unknown. SourceError if there is no table."""
    array = arrays.open_array(join(run, SECTIONS_PATH), mode="r")
    values = np.asarray(array[:], dtype=np.float32)
    names = _names(array, join(run, SECTIONS_PATH), axis=1)
    return {name: values[:, i] for i, name in enumerate(names)}


def read_window_column(run: str, name: str) -> Float32Array:
    """Return a column `(z, y, x)` of `quality/windows`; all NaN if the table has no such column."""
    array = arrays.open_array(join(run, WINDOWS_PATH), mode="r")
    names = _names(array, join(run, WINDOWS_PATH), axis=0)
    if name not in names:
        return np.full(array.shape[1:], np.nan, dtype=np.float32)
    return np.asarray(array[names.index(name)], dtype=np.float32)


def read_reslice(run: str, *, cut: str, time: str) -> AnyArray:
    """Return a whole cut `(z, pixel)`; SourceError if there is none."""
    return np.asarray(arrays.open_array(join(run, reslice_path(cut, time)), mode="r")[:])


def read_record(run: str, name: str) -> dict[str, Any] | None:
    """Return a JSON record of `quality/` that a stage wrote; None if there is none, or a damaged one."""
    try:
        return json_records.read_record(join(run, "quality", name))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ContentError):
        return None


def _column_attributes(columns: dict[str, Column]) -> list[dict[str, str]]:
    return [{"name": name, "unit": column.unit, "meaning": column.meaning} for name, column in columns.items()]


def _names(array: arrays.ZarrArray, url: str, *, axis: int) -> list[str]:
    """Return the names of a table's columns, which are along an axis of its array."""
    columns = checked(array.attrs.get("columns"), _COLUMN_LIST, where=url, what="its attribute columns")
    if array.ndim <= axis or array.shape[axis] != len(columns):
        raise ConventionError(
            f"{url}: has shape {array.shape} but names {len(columns)} columns; run the stage measure again."
        )
    return [column["name"] for column in columns]


def _write_rows(url: str, columns: dict[str, Column], *, start: int, values: dict[str, AnyArray]) -> int:
    rows = np.stack(_columns(values, columns), axis=-1).astype(np.float32)
    arrays.open_array(url, mode="r+")[start : start + len(rows)] = rows
    return rows.nbytes


def _columns(values: dict[str, AnyArray], columns: dict[str, Column]) -> list[AnyArray]:
    """Return the values of each column, NaN if there are none; PlanError if the table has no such column."""
    unknown = set(values) - set(columns)
    if unknown:
        raise PlanError(f"Measured, but not a column of storage.quality: {', '.join(sorted(unknown))}.")
    missing = np.full(next(iter(values.values())).shape, np.nan)
    return [np.asarray(values.get(name, missing)) for name in columns]
