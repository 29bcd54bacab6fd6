"""The command `compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json
from ssem_dask.extras import require_extra
from ssem_dask.units import number

if TYPE_CHECKING:
    from ssem_dask.report.comparison import Comparison

_SHOWN = 12


def compare(
    run_a: Annotated[str, typer.Argument(help="The run before (`A.zarr`).")],
    run_b: Annotated[str, typer.Argument(help="The run after (`B.zarr`).")],
    file: Annotated[
        Path | None,
        typer.Option("--file", help="HTML file to write, with pictures of the sections most changed. Default: none."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder into which the same pictures are written as PNG.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=0, max=100, help="Number of sections with pictures.")] = 6,
    other_source: Annotated[
        bool,
        typer.Option(
            "--other-source", help="Compare runs of different sources, if both show the same sections at the same size."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what changed between two runs of the same source, where, by how much, and whether it is better.

    Distances are those of the section fields after one translation of the whole volume. Better and worse follow from
    the quality tables: how well adjacent sections match, folds, residual motion, and the sections that need a look.
    """
    from ssem_dask.report.comparison import compare as compare_runs

    if file is not None or pictures is not None:
        require_extra("report", purpose="compare --file and --pictures")
    comparison = compare_runs(run_a, run_b, other_source=other_source)
    written = _write(comparison, file=file, pictures=pictures, count=count)
    if as_json:
        console.show_json({**comparison.to_json(), "files": written})
        return
    console.line(comparison.verdict)
    for remark in comparison.remarks:
        console.note(remark)
    if comparison.changed:
        console.table(
            "Sections that changed most, px",
            columns=["section", "median", "p95", "largest", "match"],
            rows=[
                [
                    str(section.z) + (f", {section.label}" if section.label else ""),
                    number(section.median_px),
                    number(section.p95_px),
                    number(section.largest_px),
                    section.judgement,
                ]
                for section in comparison.changed[:_SHOWN]
            ],
        )
    console.table(
        "Quality, median over sections",
        columns=["measure", "A", "B", "better in", "worse in"],
        rows=[
            [row.title, number(row.a), number(row.b), str(len(row.better)), str(len(row.worse))]
            for row in comparison.measures
        ],
    )
    if comparison.settings:
        console.table(
            "Settings that differ",
            columns=["setting", "A", "B"],
            rows=[[row.name, row.a or "–", row.b or "–"] for row in comparison.settings],
        )
    for path in written:
        console.line(f"Written: {path}")


def _write(comparison: "Comparison", *, file: Path | None, pictures: Path | None, count: int) -> list[str]:
    """Write page and pictures as asked; return the files."""
    if file is None and pictures is None:
        return []
    from ssem_dask.report.comparison_page import render_comparison
    from ssem_dask.report.comparison_pictures import draw_changes, write_pictures
    from ssem_dask.report.page_file import write_page

    drawn = draw_changes(comparison, count=count)
    written = [] if pictures is None else write_pictures(drawn, pictures)
    if file is not None:
        written.append(write_page(render_comparison(comparison, drawn), file, what="Comparison"))
    return [str(path) for path in written]
