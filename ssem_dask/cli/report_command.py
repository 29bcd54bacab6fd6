"""The command `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Listen, Port, PrintUrl, Run, Source
from ssem_dask.errors import ConfigError
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
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Show the page in the browser too, from this process; Ctrl-C stops it."),
    ] = False,
    port: Port = None,
    listen: Listen = "127.0.0.1",
    print_url: PrintUrl = False,
    as_json: Json = False,
) -> None:
    """Write one HTML file about a run: how good it is, what failed, and where to look.

    The file is self-contained and needs no network. The run need not be finished. --serve is for machines without a
    browser: the page is served to those who have its address, and --port, --listen and --print-url say how.
    """
    require_extra("report", purpose="report")
    if not serve and (port is not None or print_url or listen != "127.0.0.1"):
        raise ConfigError("report: --port, --listen and --print-url are about --serve; give that too.")
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
    else:
        _show(made, path=path, output=output)
    if serve:
        _serve(made, output=output, port=port, listen=listen, print_url=print_url, as_json=as_json)


def _show(made: "Report", *, path: Path, output: str) -> None:
    console.line(f"Report: {path}")
    if made.verdict:
        console.line(made.verdict)
    if made.proposals:
        console.line(f"Proposed fixes, for a file fixes.toml (ssem-dask rerun {output} --fixes fixes.toml):")
        for line in made.proposals.splitlines():
            console.line(line)


def _serve(made: "Report", *, output: str, port: int | None, listen: str, print_url: bool, as_json: bool) -> None:
    import asyncio

    from ssem_dask.cli.served_page import serve_until_stopped
    from ssem_dask.report.viewer.report_server import ReportServer
    from ssem_dask.report.viewer.viewer_address import default_report_port
    from ssem_dask.storage.run_group import read_run

    wanted_port = default_report_port(read_run(output).config_digest) if port is None else port

    async def serve() -> None:
        server = ReportServer(made.html)
        actual_port = server.start(port=wanted_port, address=listen)
        address = f"http://127.0.0.1:{actual_port}/?key={server.key}"
        if as_json:
            console.show_json({"run": output, "url": address, "port": actual_port}, redact=False)
        else:
            console.line(address, redact=False)
        await serve_until_stopped(address, port=actual_port, print_url=print_url, as_json=as_json)
        server.stop()

    asyncio.run(serve())


def write_report(made: "Report", file: Path) -> Path:
    """Write the page; OutputError if the file cannot be written."""
    from ssem_dask.report.page_file import write_page

    return write_page(made.html, file, what="Report")
