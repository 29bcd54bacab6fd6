"""From records of cells to tables: rows are methods, columns figures; mean over the seeds ± their spread.

The spread is the sample standard deviation over the seeds; a figure of one seed has none. A row that lacks a figure
says why: not installed, failed, or not run.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: figures of all cells of a scene group."""

    title: str
    group: str
    metrics: tuple[str, ...]
    """Shown one after the other, with slashes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method: its title and its records by scene."""

    name: str
    title: str
    records: tuple[Record, ...]

    def of(self, group: str) -> list[Record]:
        """Records of a scene group, all seeds."""
        return [r for r in self.records if r["scene"] == group or r["scene"].rpartition("-")[0] == group]


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table of strings, with what it must say beside it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """Return the table as Markdown, for the documents."""
        lines = ["| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *self.notes]) + "\n"

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        table = RichTable(title=self.title, show_lines=False)
        for column in self.columns:
            table.add_column(column)
        for row in self.rows:
            table.add_row(*row)
        return table


def make_table(title: str, *, columns: Sequence[Column], rows: Sequence[Row], rate: bool) -> Table:
    """Aggregate.

    Args:
        title: of the table.
        columns: of figures.
        rows: of methods.
        rate: whether the last column is Mpx per CPU second.
    """
    machine = _usual_machine(rows)
    shown, notes = [], []
    for row in rows:
        cells = [figure(row, column) for column in columns]
        if rate:
            cells.append(_rate(row, machine=machine))
        shown.append((row.title, *cells))
        notes += _failures(row)
    if any(row[-1].endswith("*") for row in shown):
        notes.append(f"Mpx per CPU second were measured on {machine}; * on another machine, so not to be compared.")
    heads = ("", *(column.title for column in columns), *(("Mpx per CPU s",) if rate else ()))
    return Table(title, heads, tuple(shown), tuple(notes))


def figure(row: Row, column: Column) -> str:
    """Mean ± spread over the seeds of each metric of a column; else why there is none."""
    records = row.of(column.group)
    done = [r for r in records if r["state"] == "done"]
    if not done:
        states = {r["state"] for r in records}
        return states.pop() if len(states) == 1 else "not run" if not states else "failed"
    parts = []
    for metric in column.metrics:
        values = [_value(record, metric) for record in done]
        parts.append(mean_and_spread([value for value in values if value is not None]))
    return " / ".join(parts)


def _value(record: Record, metric: str) -> float | None:
    """A metric, or with `seconds:` the CPU seconds of a part."""
    kind, _, part = metric.rpartition(":")
    found: float | None = record["cpu_seconds" if kind == "seconds" else "metrics"].get(part)
    return found


def mean_and_spread(values: Sequence[float]) -> str:
    """`2.1 ± 0.3`; `–` for no value."""
    if not values:
        return "–"
    mean = _short(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {_short(statistics.stdev(values))}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}" if abs(value) >= 0.95 else f"{value:.2f}"


def _rate(row: Row, *, machine: str) -> str:
    """Mpx per CPU second, on the usual machine if any cell ran there; else marked with a star."""
    done = [r for r in row.records if r["state"] == "done"]
    counted = [r for r in done if r["machine"] == machine] or done
    seconds = sum(r["cpu_seconds"]["fields"] for r in counted)
    if not counted or row.name == "identity":
        return "–"
    rate = sum(r["megapixels"] for r in counted) / seconds
    digits = max(0, 1 - math.floor(math.log10(rate)))
    return f"{rate:.{digits}f}" + ("" if counted[0]["machine"] == machine else " *")


def _usual_machine(rows: Sequence[Row]) -> str:
    """The machine that most methods have run on."""
    machines = [m for row in rows for m in {r["machine"] for r in row.records if r["state"] == "done"}]
    return statistics.mode(machines) if machines else ""


def _failures(row: Row) -> list[str]:
    causes: dict[str, list[str]] = {}
    for record in row.records:
        if record["state"] != "done":
            causes.setdefault(f"{record['state']}: {record.get('cause', '')}", []).append(record["scene"])
    return [f"{row.title}, {', '.join(scenes)}: {cause}" for cause, scenes in causes.items()]
