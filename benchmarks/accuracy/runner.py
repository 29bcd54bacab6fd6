"""Runs the cells that are missing or out of date, each in a process of its own.

A process of its own keeps a peer that crashes from taking the others along, and makes CPU seconds those of one cell.
Undeformed scenes go first, since recovery is measured against them.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.accuracy.cells import Cell, is_current, run_cell
from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.scenes import Scene, prepare

Execute: TypeAlias = Callable[[Cell], None]
Progress: TypeAlias = Callable[[str], None]


def cells_of(methods: Iterable[Method], scenes: Sequence[Scene], *, work: Path, data: Path) -> list[Cell]:
    """All cells of a table, method by method."""
    return [Cell(method, scene, work, data) for method in methods for scene in scenes]


def run_missing(cells: Sequence[Cell], *, jobs: int, execute: Execute, progress: Progress) -> list[dict[str, Any]]:
    """Run what is missing or out of date; the records of all cells, in their order."""
    for cell in cells:  # one after another: cells that run side by side share them
        prepare(cell.scene, work=cell.work, data=cell.data)
    for wave in ([c for c in cells if c.scene.seed is None], [c for c in cells if c.scene.seed is not None]):
        left = [cell for cell in wave if not is_current(cell)]
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            for cell, _ in zip(left, pool.map(execute, left), strict=True):
                progress(_told(cell))
    return [cell.record() or _lost(cell) for cell in cells]


def in_own_process(cell: Cell) -> None:
    """Run a cell in a fresh process; one that dies is a cell that failed."""
    process = multiprocessing.get_context("spawn").Process(target=run_cell, args=(cell,))
    process.start()
    process.join()
    if process.exitcode != 0:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        record = _lost(cell) | {"cause": f"its process died, exit code {process.exitcode}"}
        cell.path.write_text(json.dumps(record, indent=1))


def in_this_process(cell: Cell) -> None:
    """Run a cell here."""
    run_cell(cell)


def _lost(cell: Cell) -> dict[str, Any]:
    return {"method": cell.method.name, "scene": cell.scene.name, "state": "failed", "cause": "not run"}


def _told(cell: Cell) -> str:
    record = cell.record() or _lost(cell)
    took = record.get("cpu_seconds", {}).get("whole")
    how = f"{took:.0f} CPU s" if took is not None else record.get("cause", "")
    return f"{cell.method.name} on {cell.scene.name}: {record['state']}, {how}"
