"""The command `view`."""

from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Listen, Port, PrintUrl, Run, Source
from ssem_dask.cli.report_command import WORST_PLACES
from ssem_dask.errors import ConfigError
from ssem_dask.extras import require_extra


def view(
    output: Run,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Segmentation of the aligned sections, shown on top of them.")
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option(
            "--volume",
            help="Another volume of the source's sections, such as a channel; it is warped as you look at it.",
            show_default=False,
        ),
    ] = None,
    volume_labels: Annotated[
        bool, typer.Option("--volume-labels", help="The values of that volume are segmentation ids.")
    ] = False,
    source: Source = None,
    port: Port = None,
    listen: Listen = "127.0.0.1",
    print_url: PrintUrl = False,
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=100, help="Number of worst places to mark.")
    ] = WORST_PLACES,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="Site whose pages may read the data too, if they know its address, for example "
            "https://neuroglancer-demo.appspot.com; may be repeated. Default: none.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a run in neuroglancer, in the browser; Ctrl-C stops it.

    Serves source, coarsely aligned and aligned volume, confidence and uncertainty on loopback, with everything that the
    page needs. The address contains a key, new at each start, without which nothing is answered: whoever has it can
    read the volume. Links of the run's report open here once that address is open in the same browser.
    """
    import asyncio

    require_extra("view", purpose="view")
    from ssem_dask.cli.served_page import serve_until_stopped
    from ssem_dask.report.viewer.http import ViewerServer
    from ssem_dask.report.viewer.site import make_site
    from ssem_dask.report.viewer.viewer_address import default_port
    from ssem_dask.storage.run_group import read_run

    if volume_labels and volume is None:
        raise ConfigError("view: --volume-labels is about --volume; give that too, or --labels for aligned labels.")
    site, missing = make_site(
        output,
        labels=labels,
        worst=worst,
        origins=allow_origin or (),
        source=source,
        volume=volume,
        volume_holds_labels=volume_labels,
    )
    for line in missing:
        console.note(line)
    requested_port = default_port(read_run(output).config_digest) if port is None else port

    async def serve() -> None:
        server = ViewerServer(site)
        actual_port = server.start(port=requested_port, address=listen)
        base = f"http://127.0.0.1:{actual_port}"
        address = f"{base}/?key={site.key}"
        if as_json:
            answer = {"run": output, "url": address, "port": actual_port, "data": f"{base}/data/{site.key}"}
            console.show_json(answer, redact=False)
        else:
            console.line(address, redact=False)
        await serve_until_stopped(address, port=actual_port, print_url=print_url, as_json=as_json)
        server.stop()

    asyncio.run(serve())
