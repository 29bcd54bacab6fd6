"""The command `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Run, Source
from ssem_dask.extras import require_extra

if TYPE_CHECKING:
    from ssem_dask.report.page import Report

WORST_PLACES = 12


def report(
    output: Run,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="HTML file to write. Default: beside the run, or in this folder if the run is remote."
        ),
    ] = None,
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=100, help="Number of worst places to show.")
    ] = WORST_PLACES,
    source: Source = None,
    viewer: Annotated[
        str | None,
        typer.Option("--viewer", help="Address of `ssem-dask view`, for the links. Default: the one that it chooses."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file about a run: how good it is, what failed, and where to look.

    The file is self-contained and needs no network. The run need not be finished.
    """
    require_extra("report", purpose="report")
    from ssem_dask.report.page import make_report
    from ssem_dask.report.page_file import default_file

    made = make_report(output, worst=worst, viewer=viewer.rstrip("/") if viewer else None, source=source)
    path = write_report(made, file or default_file(output))
    if as_json:
        console.show_json(
            {
                "run": output,
                "report": str(path),
                "bytes": path.stat().st_size,
                "verdict": made.verdict,
                "proposals": made.proposals,
                "worst": [
                    {
                        "z": p.hotspot.z,
                        "row": p.hotspot.row,
                        "column": p.hotspot.column,
                        "reason": p.hotspot.reason,
                        "link": p.link,
                    }
                    for p in made.hotspots
                ],
            }
        )
        return
    console.line(f"Report: {path}")
    if made.verdict:
        console.line(made.verdict)
    if made.proposals:
        console.line(f"Proposed fixes, for a file fixes.toml (ssem-dask rerun {output} --fixes fixes.toml):")
        for line in made.proposals.splitlines():
            console.line(line)


def write_report(made: "Report", file: Path) -> Path:
    """Write the page; OutputError if the file cannot be written."""
    from ssem_dask.report.page_file import write_page

    return write_page(made.html, file, what="Report")
