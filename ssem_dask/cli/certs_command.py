"""Command certs: the certificates of a cluster."""

from dataclasses import asdict
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.run_commands import Json
from ssem_dask.runtime.clusters.certificates import make_certificates


def certs(
    directory: Annotated[str, typer.Argument(help="Folder to write ca.pem, cert.pem and key.pem to.")],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long they hold.")] = 365,
    as_json: Json = False,
) -> None:
    """Make the certificates with which client, scheduler and workers of one cluster know each other.

    Give the same folder to all of them: `$SSEM_DASK_TLS`, or `[cluster] tls`. Who holds key.pem may run code on the
    workers: keep it from others. Nothing is ever replaced; for new certificates give a new folder.
    """
    made = make_certificates(directory, days=days)
    if as_json:
        console.show_json({**asdict(made), "expires": made.expires.isoformat()})
        return
    console.out.print(f"{directory}: certificates until {made.expires:%Y-%m-%d}", highlight=False, soft_wrap=True)
