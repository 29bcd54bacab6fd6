"""Content and actions of the page of `ssem-dask fix`, without HTTP: places, fixes, sections, and the apply."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from ssem_dask.driver.run_fixes import GivenFixes, stored_fixes
from ssem_dask.errors import ConfigError, SsemDaskError
from ssem_dask.fixes.fix_checks import check_fixes
from ssem_dask.fixes.fix_records import Fix, Fixes, JumpFix, PairFix, SectionFix
from ssem_dask.fixes.fixes_toml import parse_fixes, with_changed_fix, with_fix, without_fix
from ssem_dask.fixes.proposals import proposal_for
from ssem_dask.fixes.section_fixes import section_fixes
from ssem_dask.report.fixing.apply_job import ApplyJob
from ssem_dask.report.fixing.fixes_file import FixesFile, FixesText
from ssem_dask.report.fixing.section_views import TILE_PX, SectionViews
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.report_data import ReportData, read_report_data
from ssem_dask.storage.quality import read_record
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.section_names import section_label
from ssem_dask.types import Float32Array

_PLACES = 40
_FEWEST_PLACES = 3
"""Places that are listed even if none is an outlier."""
_MARGIN_SECTIONS = 10
"""Sections around a fixed one whose result before the apply is kept, to be compared with the one after it."""
_TYPES: dict[str, type[Fix]] = {"section": SectionFix, "pair": PairFix, "jump": JumpFix}
Table = Literal["section", "pair", "jump"]


class _Add(TypedDict):
    op: Literal["add"]
    table: Table
    fix: dict[str, Any]


class _Replace(TypedDict):
    op: Literal["replace"]
    table: Table
    number: Annotated[int, Field(ge=1)]
    fix: dict[str, Any]


class _Remove(TypedDict):
    op: Literal["remove"]
    table: Table
    number: Annotated[int, Field(ge=1)]


Operation = Annotated[_Add | _Replace | _Remove, Field(discriminator="op")]
"""A change of one table; coordinates are source px at mip 0."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Places of the run, and the match of each section with the previous one."""

    places: list[dict[str, Any]]
    match: Float32Array
    verdict: str


class FixSession:
    """One run, one file of fixes, and one driver at a time."""

    def __init__(self, run: str, file: Path, *, options: Sequence[str] = ()) -> None:
        """Open the run.

        Args:
            run: URL of the run.
            file: file of fixes, which need not exist.
            options: further words of the command that solves the run again, such as `--cluster`.

        Raises:
            SourceError: there is no run, nothing of it was aligned yet, or its source cannot be read.
            OutputError: the file cannot be read.
        """
        self.run = run
        self.views = SectionViews(run)
        # A run may have been made with other fixes than those of this file.
        self.file = FixesFile(file, initial=stored_fixes(run).current)
        self.job = ApplyJob(["rerun", run, "--fixes", str(file), "--json", *options], ended=self._applied)
        self._lock = threading.Lock()
        self._places = _read_places(run)
        self._match_before = self._places.match
        self._moved: dict[str, Any] = {}
        self._results = 0
        self.fixes()

    def overview(self) -> dict[str, Any]:
        """Return everything that stays, and the present state."""
        record, info = self.views.record, self.views.source.info
        return {
            "run": self.run,
            "source": record.source,
            "file": str(self.file.path),
            "shape": list(info.shape),
            "pixel_size": info.pixel_size,
            "mips": self.views.mips,
            "tile": TILE_PX,
            **self.state(),
        }

    def state(self) -> dict[str, Any]:
        """Return the present state: places, fixes and the driver."""
        with self._lock:
            places, results, moved = self._places, self._results, self._moved
        return {
            "places": places.places,
            "verdict": places.verdict,
            "results": results,
            "moved": moved,
            "fixes": self.fixes(),
            "job": self.job.state(),
        }

    def section(self, z: int) -> dict[str, Any]:
        """Return one section: its name, its views, and its map placed → source; IndexError if there is none."""
        if not 0 <= z < self.views.source.info.shape[0]:
            raise IndexError(z)
        affine = self.views.affine(z)
        return {
            "z": z,
            "label": section_label(z, self.views.record.section_names),
            "views": self.views.views(z),
            "affine": affine.tolist() if np.isfinite(affine).all() else None,
            "match": _plain(float(self._places.match[z])),
        }

    def fixes(self) -> dict[str, Any]:
        """Return the fixes, with coordinates in px; `problem` says why the file cannot be used."""
        return self._shown(self.file.read())

    def edit(self, version: str, label: str, operations: Sequence[Operation]) -> dict[str, Any]:
        """Change tables of the file and return the fixes.

        Args:
            version: of the fixes that the change is for.
            label: the change in a few words.
            operations: changes, one after the other.

        Raises:
            ConfigError: the fixes would be wrong or contradict each other; nothing is saved.
            StaleError: somebody else has changed the file.
            OutputError: the file cannot be written.
        """

        def edited(text: str) -> str:
            for operation in operations:
                text = self._edited(text, operation)
            self._checked(text)
            return text

        return self._shown(self.file.change(version, label, edited))

    def undo(self, version: str) -> dict[str, Any]:
        """Take the last change back; see `edit`."""
        return self._shown(self.file.undo(version))

    def redo(self, version: str) -> dict[str, Any]:
        """Do the last undone change again; see `edit`."""
        return self._shown(self.file.redo(version))

    def apply(self, version: str) -> bool:
        """Solve the run again with the fixes; return whether a driver was started, and none was running.

        Raises:
            ConfigError: the file cannot be used.
            StaleError: it is not the one that the page shows.
            OutputError: it cannot be written.
        """
        self._checked(self.file.read().text)
        self.file.write(version)
        if self.job.state()["state"] == "running":
            return False
        near = {z + k for z in self.views.fixes.concerned() for k in range(-_MARGIN_SECTIONS, _MARGIN_SECTIONS + 1)}
        kept = set(self.views.kept_sections)  # those whose fix was taken back change too
        self.views.keep_fields(near | kept)
        with self._lock:
            self._match_before = self._places.match
        return self.job.start(version)

    def stop(self) -> dict[str, Any]:
        """Interrupt the driver, if there is one, and return its state."""
        self.job.stop()
        return self.job.state()

    def close(self) -> None:
        """Interrupt the driver, if there is one, and let no other wait."""
        self.job.close()

    def _applied(self) -> None:
        """Show the new result, and how each section that was kept has changed."""
        self.views.reload()
        places, moved = _read_places(self.run), self.views.moved()
        with self._lock:
            before, after = self._match_before, places.match
            self._places = places
            self._results += 1
            self._moved = {
                str(z): {
                    "median": _plain(median),
                    "p95": _plain(p95),
                    "match_before": _plain(float(before[z])),
                    "match": _plain(float(after[z])),
                }
                for z, (median, p95) in moved.items()
            }

    def _shown(self, file: FixesText) -> dict[str, Any]:
        problem, tables = "", []
        try:
            fixes = self._checked(file.text)
            pixel_size = self.views.source.info.pixel_size
            # Mask files are read by the run alone.
            self.views.with_fixes(section_fixes(fixes, pixel_size=pixel_size, file_digest=lambda _: ""))
            tables = [
                {"table": name, "number": number, "fix": fix.given()}
                for name, number, fix in fixes.in_px(pixel_size).tables()
            ]
        except ConfigError as error:
            problem = str(error)
        return {
            "version": file.version,
            "undo": file.undo,
            "redo": file.redo,
            "tables": tables,
            "problem": problem,
            "applied": not problem and self._is_applied(file.text),
        }

    def _is_applied(self, text: str) -> bool:
        """Return whether the run is complete with these fixes."""
        try:
            given = GivenFixes.read(str(self.file.path)).text if self.file.path.exists() else text
            return given == stored_fixes(self.run).current and read_run(self.run).state == "complete"
        except SsemDaskError:
            return False

    def _checked(self, text: str) -> Fixes:
        info = self.views.source.info
        fixes = parse_fixes(text, where=self.file.path.name)
        check_fixes(fixes, shape=info.shape, pixel_size=info.pixel_size, where=self.file.path.name)
        return fixes

    def _edited(self, text: str, operation: Operation) -> str:
        table = operation["table"]
        if operation["op"] == "remove":
            return without_fix(text, table, operation["number"])
        try:
            fix: Fix = _TYPES[table].model_validate(operation["fix"])
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"Fixes {self.file.path.name}: {message}.") from error
        unit = parse_fixes(text, where=self.file.path.name).unit
        fix = _in_unit(fix, unit=unit, pixel_size=self.views.source.info.pixel_size)
        if operation["op"] == "add":
            return with_fix(text, fix)
        return with_changed_fix(text, operation["number"], fix)


def _in_unit(fix: Fix, *, unit: str, pixel_size: float) -> Fix:
    """Return a fix whose coordinates are px in the unit of the file."""
    if unit == "px":
        return fix
    name = next(name for name, kind in _TYPES.items() if isinstance(fix, kind))
    # From px to nm is the same scaling as from nm to px with the inverse pixel size.
    scaled = Fixes.model_validate({"unit": "nm", name: [fix.given()]}).in_px(1.0 / pixel_size)
    return next(table for _, _, table in scaled.tables())


def _read_places(run: str) -> _Places:
    data = read_report_data(run)
    places = [_place(data, hotspot.z, hotspot.row, hotspot.column, hotspot.reason) for hotspot in _hotspots(data)]
    listed = {place["z"] for place in places}
    for record in () if data.attention is None else data.attention.records:
        if record.z not in listed:
            places.append(_place(data, record.z, None, None, record.detail or record.kind.replace("_", " ")))
    places += _jumps(data)
    return _Places(places, data.sections["ncc"], data.verdict)


def _hotspots(data: ReportData) -> list[Any]:
    hotspots = find_hotspots(data, count=_PLACES)
    return [hotspot for hotspot in hotspots if hotspot.is_outlier] or hotspots[:_FEWEST_PLACES]


def _place(data: ReportData, z: int, row: int | None, column: int | None, reason: str) -> dict[str, Any]:
    """Return a place; of a section with a fault of its own, the whole section."""
    height, width = data.shape[1:]
    spoilt = {} if data.attention is None else {record.z: record for record in data.attention.records}
    y, x, side = height / 2, width / 2, float(max(height, width))
    if z not in spoilt and row is not None and column is not None:
        box = data.window_box(z=z, row=row, column=column)
        y, x = ((low + high) / 2 for low, high in zip(box.start_yx, box.stop[1:], strict=True))
        side = float(max(box.shape_yx))
    record = spoilt.get(z)
    proposal = None if record is None else proposal_for(record)
    proposal = None if proposal is None or proposal.is_done else proposal
    return {
        "z": z,
        "label": section_label(z, data.run.section_names),
        "kind": "" if record is None else str(record.kind).replace("_", " "),
        "reason": reason,
        "y": y,
        "x": x,
        "side": side,
        "jump": False,
        "proposal": None if proposal is None else {"reason": proposal.reason, "fix": proposal.fix.given()},
    }


def _jumps(data: ReportData) -> list[dict[str, Any]]:
    """Return a place for each jump that the run has undone, which a person may know to be tissue."""
    record = read_record(data.run.url, "relax.json") or {}
    places = []
    try:
        for jump in record.get("jumps") or []:
            shift = math.hypot(float(jump["shift_y_px"]), float(jump["shift_x_px"]))
            reason = f"All sections from here on were moved back by {shift:.1f} px, as displaced by a jump."
            z = int(jump["z"])
            if 0 < z < data.shape[0]:
                places.append({**_place(data, z, None, None, reason), "kind": "jump", "jump": True})
    except (KeyError, TypeError, ValueError):
        return []
    return places


def _plain(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
