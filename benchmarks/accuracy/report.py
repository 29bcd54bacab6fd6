"""Collects the cells of a table that have been run, and writes the text of docs/accuracy.md."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.document import write_between
from benchmarks.accuracy.runner import cells_of
from benchmarks.accuracy.table import Row, Table, make_table
from benchmarks.accuracy.tables import TableSpec


def collected(spec: TableSpec, *, work: Path, data: Path) -> tuple[list[Row], Table]:
    """Rows and table of what there is; cells that were never run are left out."""
    rows = []
    for method in spec.methods:
        found = [_kept(cell) for cell in cells_of([method], spec.scenes, work=work, data=data)]
        rows.append(Row(method.name, method.title, tuple(record for record in found if record is not None)))
    return rows, make_table(spec.title, columns=spec.columns, rows=rows, rate=spec.rate)


def _kept(cell: Cell) -> dict[str, Any] | None:
    return cell.record()


def write_docs(
    page: Path,
    *,
    specs: Sequence[TableSpec],
    tables: Mapping[str, Table],
    results: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write each table between its markers `<!-- benchmark: NAME -->`."""
    for spec in specs:
        records = [r for row in results[spec.name].values() for r in row["cells"] if r["state"] == "done"]
        dates = sorted(r["date"][:10] for r in records) or [datetime.date.today().isoformat()]
        machines = sorted({r["machine"] for r in records})
        versions = sorted({f"{name} {v}" for r in records for name, v in r["versions"].items() if name != "ssem_dask"})
        seeds = sorted({int(r["scene"].rpartition("-")[2]) for r in records if r["scene"][-1].isdigit()})
        said = [f"Cells of {dates[0]} to {dates[-1]}; {'; '.join(machines)}; seeds {', '.join(map(str, seeds))}."]
        if versions:
            said.append(f"Peers: {', '.join(versions)}.")
        write_between(
            page, name=f"benchmark: {spec.name}", text=f"\n{tables[spec.name].markdown()}\n{' '.join(said)}\n\n"
        )
