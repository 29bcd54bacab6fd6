"""The page of the challenge: one self-contained HTML file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.accuracy.cells import machine
from benchmarks.challenge.measures import MEASURES, Records, compared, figures_of


@dataclass(frozen=True, slots=True)
class Entry:
    """A method, and all records of it."""

    name: str
    title: str
    records: Records
    is_reference: bool = False
    """Whether it only shows what there is to gain, and is not ranked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the leaderboard."""

    name: str
    title: str
    figures: Mapping[str, float]
    best: frozenset[str]
    """Measures in which no other is better by what counts."""
    better: str
    """Measures in which it beats more than half of the others."""
    worse: str
    """Measures in which more than half of the others beat it."""
    is_reference: bool


def leaderboard(entries: Sequence[Entry]) -> list[Row]:
    """Return the lines, by how many others a method beats in each measure, less how many beat it; references last."""
    figures = {entry.name: figures_of(entry.records) for entry in entries}
    known = [entry for entry in entries if figures[entry.name]]
    rows, scores = [], {}
    for entry in known:
        others = [figures[other.name] for other in known if other is not entry and not other.is_reference]
        sides = compared(figures[entry.name], others)
        scores[entry.name] = sum(better - worse for better, worse in sides.values())
        rows.append(
            Row(
                name=entry.name,
                title=entry.title,
                figures=figures[entry.name],
                best=frozenset(name for name, (_, worse) in sides.items() if worse == 0 and not entry.is_reference),
                better=_listed(sides, "better in", index=0, others=len(others)),
                worse=_listed(sides, "worse in", index=1, others=len(others)),
                is_reference=entry.is_reference,
            )
        )
    return sorted(rows, key=lambda row: (row.is_reference, -scores[row.name]))


def _listed(sides: Mapping[str, tuple[int, int]], verb: str, *, index: int, others: int) -> str:
    titles = {measure.name: measure.title for measure in MEASURES}
    named = [f"{titles[name]} ({counts[index]})" for name, counts in sides.items() if 2 * counts[index] > others]
    return f"{verb} {', '.join(named)}" if named else ""


def make_page(entries: Sequence[Entry], *, data: str, now: datetime | None = None) -> str:
    """Return the page.

    Args:
        entries: all methods, those that could not be run as well.
        data: description of the sections.
        now: date of the page; None: the present.
    """
    rows = leaderboard(entries)
    shown = {row.name for row in rows}
    absent = [
        {"title": entry.title, "cause": next(iter(_causes(entry.records)), "not run")}
        for entry in entries
        if entry.name not in shown
    ]
    failures = [
        f"{entry.title}: {cause}" for entry in entries if entry.name in shown for cause in _causes(entry.records)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        rows=rows,
        ranked=[row for row in rows if not row.is_reference],
        absent=absent,
        failures=failures,
        measures=MEASURES,
        infinity=math.inf,
        data=data,
        machine=machine(),
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d"),
    )


def _causes(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each reason for which something of a method was not measured, once."""
    yield from dict.fromkeys(
        f"{record.get('scene') or record.get('kind')}: {record['cause']}"
        if record["state"] == "failed"
        else record["cause"]
        for record in records
        if record["state"] != "done"
    )
