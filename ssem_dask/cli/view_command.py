"""Command view."""

import asyncio
import contextlib
import signal
import webbrowser
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.report_command import WORST
from ssem_dask.cli.run_commands import Json
from ssem_dask.errors import ConfigError
from ssem_dask.report.viewer.viewer_address import default_port
from ssem_dask.storage.run_group import read_run


def view(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr, any fsspec URL.")],
    labels: Annotated[
        str | None, typer.Option("--labels", help="Segmentation of the aligned sections, to be laid over them.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, help="Port on loopback; 0 takes a free one. Default: one of the run's own."
        ),
    ] = None,
    print_url: Annotated[
        bool, typer.Option("--print-url", help="Only print the address and serve, for use over ssh.")
    ] = False,
    worst: Annotated[int, typer.Option("--worst", min=0, max=100, help="Number of worst places to mark.")] = WORST,
    as_json: Json = False,
) -> None:
    """Look into a run with neuroglancer, in the browser; ends with Ctrl-C.

    Serves source, coarse-aligned and aligned volume, confidence and uncertainty on loopback, with everything that the
    page needs. Links of the run's report lead here.
    """
    try:
        from ssem_dask.report.viewer.http import ViewerServer  # an optional extra brings neuroglancer
        from ssem_dask.report.viewer.site import make_site
    except ModuleNotFoundError as error:
        if error.name != "neuroglancer":
            raise
        raise ConfigError(
            "view: the package neuroglancer is not installed; install it with pip install 'ssem_dask[view]'."
        ) from error
    site, missing = make_site(output, labels=labels, worst=worst)
    for line in missing:
        console.note(line)
    wanted = default_port(read_run(output)) if port is None else port

    async def serve() -> None:
        server = ViewerServer(site)
        taken = server.start(port=wanted)
        address = f"http://127.0.0.1:{taken}/"
        if as_json:
            console.show_json({"run": output, "url": address, "port": taken})
        else:
            console.out.print(address, soft_wrap=True, highlight=False)
        console.out.file.flush()
        if print_url:
            console.note(f"From another machine: ssh -L {taken}:127.0.0.1:{taken} this-machine, then open the address.")
        elif not as_json and not webbrowser.open(address):
            console.note("No browser could be started here; open the address in one.")
        console.note("Serving; Ctrl-C ends it.")
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, ended.set)
        await ended.wait()
        server.stop()

    asyncio.run(serve())
