"""The command `fix`."""

from pathlib import Path
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Cluster, Json, Listen, Port, PrintUrl, Run, Workers
from ssem_dask.extras import require_extra


def fix(
    output: Run,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="File of fixes to work on. Default: OUT.fixes.toml beside the run, or in this folder if the run is "
            "remote.",
        ),
    ] = None,
    port: Port = None,
    listen: Listen = "127.0.0.1",
    print_url: PrintUrl = False,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Fix sections by hand, in the browser: see what is wrong, say it, and have it solved again; Ctrl-C stops it.

    Walks through the places that need a look, shows each section beside its neighbours, and takes what you know: leave
    a section out, turn, mirror or invert it, mark the same points in two sections, draw what shows no tissue, and along
    folds. Everything is saved at once to a readable file. "Apply" solves the sections concerned again. Press ? on the
    page for its keys. The address contains a key, new at each start, without which nothing is answered.
    """
    import asyncio
    import contextlib

    require_extra("view", purpose="fix")
    from ssem_dask.cli.served_page import serve_until_stopped
    from ssem_dask.report.fixing.fix_server import FixServer
    from ssem_dask.report.fixing.fix_session import FixSession
    from ssem_dask.report.viewer.viewer_address import default_fix_port

    words = [*(("--cluster", cluster) if cluster else ()), *(("--workers", str(workers)) if workers else ())]
    session = FixSession(output, file or _default_file(output), options=words)
    wanted_port = default_fix_port(session.views.record.config_digest) if port is None else port

    async def serve() -> None:
        server = FixServer(session)
        actual_port = server.start(port=wanted_port, address=listen)
        address = f"http://127.0.0.1:{actual_port}/?key={server.key}"
        if as_json:
            answer = {"run": output, "url": address, "port": actual_port, "file": str(session.file.path)}
            console.show_json(answer, redact=False)
        else:
            console.line(address, redact=False)
        session.job.keep_ready()
        console.note(f"Fixes are saved in {session.file.path}.")
        await serve_until_stopped(address, port=actual_port, print_url=print_url, as_json=as_json)
        server.stop()

    with contextlib.ExitStack() as cleanup:
        cleanup.callback(session.close)
        asyncio.run(serve())


def _default_file(output: str) -> Path:
    from ssem_dask.storage.location import is_local, local_path

    name = output.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + ".fixes.toml"
    return local_path(output).absolute().parent / name if is_local(output) else Path(name).absolute()
