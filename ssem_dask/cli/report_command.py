"""Command report."""

from pathlib import Path
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.run_commands import Json
from ssem_dask.errors import OutputError
from ssem_dask.report.page import Report, make_report
from ssem_dask.storage.location import is_local, local_path

WORST = 12


def report(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    file: Annotated[
        Path | None,
        typer.Option("--file", help="HTML file to write. Default: beside the run, or here where that is remote."),
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, max=100, help="Number of worst places to show.")] = WORST,
    viewer: Annotated[
        str | None,
        typer.Option(
            "--viewer", help="Address of `ssem-dask view`, for the links. Default: the one it takes by itself."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file about a run: how good it is, what failed, and where to look.

    It needs no network and no file beside it. Works for a run that is not finished, too.
    """
    made = make_report(output, worst=worst, viewer=viewer.rstrip("/") if viewer else None)
    where = write_report(made, file or default_file(output))
    if as_json:
        console.show_json(
            {
                "run": output,
                "report": str(where),
                "bytes": where.stat().st_size,
                "worst": [
                    {
                        "z": p.place.z,
                        "row": p.place.row,
                        "column": p.place.column,
                        "reason": p.place.reason,
                        "link": p.link,
                    }
                    for p in made.places
                ],
            }
        )
        return
    console.out.print(f"Report: {where}", soft_wrap=True, highlight=False)


def default_file(output: str) -> Path:
    """Where the report of a run goes."""
    name = output.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + ".report.html"
    return local_path(output).absolute().parent / name if is_local(output) else Path(name)


def write_report(made: Report, file: Path) -> Path:
    """Write the page.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(made.html, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Report {file}: cannot be written ({error.strerror}); give another --file.") from error
    return file
