"""A cell: one method on one scene, kept as one JSON file and the fields it rests on.

WORK/cells/METHOD/SCENE.json, and WORK/fields/METHOD/SCENE.npz. A cell carries two digests: of all that decides its
fields (sections, method, versions, settings) and of all that decides its metrics (the evaluation's sources, the fields
of the undeformed scene). Where only the second differs it is measured again, not aligned again. Cells that failed are
always tried again.
"""

import datetime
import json
import os
import platform
import resource
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.accuracy.digest import digest_of, digest_of_sources
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.methods import Method, NotInstalledError, SectionFields
from benchmarks.accuracy.scenes import PreparedScene, Scene, prepare

State: TypeAlias = Literal["done", "failed", "not installed"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one scene."""

    method: Method
    scene: Scene
    work: Path
    data: Path

    @property
    def path(self) -> Path:
        """Path of the record."""
        return self.work / "cells" / self.method.name / f"{self.scene.name}.json"

    @property
    def fields(self) -> Path:
        """Path of the fields that the method found."""
        return self.work / "fields" / self.method.name / f"{self.scene.name}.npz"

    @property
    def undeformed(self) -> "Cell":
        """Cell of the same method on the undeformed sections."""
        return Cell(self.method, self.scene.undeformed, self.work, self.data)

    def record(self) -> dict[str, Any] | None:
        """Return the record of the cell; None if it has not been run."""
        return json.loads(self.path.read_text()) if self.path.exists() else None


def run_cell(cell: Cell) -> dict[str, Any]:
    """Bring a cell up to date, and return its record; whatever goes wrong in the method becomes its state."""
    prepared = prepare(cell.scene, work=cell.work, data=cell.data)
    known = cell.record()
    try:
        versions = cell.method.versions()
    except NotInstalledError as error:
        return known or _write(cell, {"state": "not installed", "cause": str(error)})
    wanted = digest_of([prepared.pixels, cell.method.name, versions, cell.method.settings()])
    if known is None or known["state"] != "done" or known["align_digest"] != wanted or not cell.fields.exists():
        known = _aligned(cell, prepared, {"align_digest": wanted, "versions": versions})
        if known["state"] != "done":
            return _write(cell, known)
    return _measured(cell, prepared, known)


def is_current(cell: Cell) -> bool:
    """Whether `run_cell` would find nothing to do."""
    known = cell.record()
    if known is None or known["state"] != "done" or not cell.fields.exists():
        return False
    try:
        versions = cell.method.versions()
    except NotInstalledError:
        return True
    pixels = prepare(cell.scene, work=cell.work, data=cell.data).pixels
    wanted = digest_of([pixels, cell.method.name, versions, cell.method.settings()])
    return bool(known["align_digest"] == wanted and known["measure_digest"] == _measure_digest(cell, known))


def _aligned(cell: Cell, prepared: PreparedScene, record: dict[str, Any]) -> dict[str, Any]:
    shape = prepared.read().shape
    folder = Path(tempfile.mkdtemp(prefix="align-", dir=cell.work))
    begun, wall = _cpu_seconds(), time.perf_counter()
    record |= {
        "settings": cell.method.settings(),
        "megapixels": shape[0] * shape[1] * shape[2] / 1e6,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    try:
        found = cell.method.align(prepared, folder=folder)
    except Exception as error:  # noqa: BLE001  a peer may raise anything, and the table says so
        last = traceback.format_exc().strip().splitlines()[-6:]
        return {**record, "state": "failed", "cause": f"{type(error).__name__}: {error}", "log": last}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    whole = _cpu_seconds() - begun
    found.save(cell.fields)
    return {
        **record,
        "state": "done",
        "cpu_seconds": {"whole": whole, "fields": whole, **found.seconds},
        "wall_seconds": time.perf_counter() - wall,
        "notes": list(found.notes),
    }


def _measured(cell: Cell, prepared: PreparedScene, record: dict[str, Any]) -> dict[str, Any]:
    wanted = _measure_digest(cell, record)
    if record.get("measure_digest") != wanted:
        reference = cell.undeformed
        usable = cell.scene.seed is not None and reference.fields.exists()
        record["metrics"] = measure(
            SectionFields.load(cell.fields),
            scene=prepared,
            undeformed=SectionFields.load(reference.fields) if usable else None,
        )
        record["measure_digest"] = wanted
    return _write(cell, record)


def _measure_digest(cell: Cell, record: dict[str, Any]) -> str:
    reference = cell.undeformed.record() if cell.scene.seed is not None else None
    sources = digest_of_sources("evaluation", "field", extra=[Path(__file__).with_name("measure.py")])
    return digest_of([sources, record["date"], reference and reference.get("date")])


def _write(cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
    whole = {"method": cell.method.name, "scene": cell.scene.name, **record}
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    part = cell.path.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1))
    part.replace(cell.path)
    return whole


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def machine() -> str:
    """Processor and system, for the record."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return f"{processor}, {platform.system()}"
