"""The command `certs`: the certificates of a cluster."""

from dataclasses import asdict
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json


def certs(
    directory: Annotated[str, typer.Argument(help="Folder to write ca.pem, cert.pem and key.pem to.")],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Days until the certificates expire.")] = 365,
    as_json: Json = False,
) -> None:
    """Create the TLS certificates by which client, scheduler and workers of one cluster trust each other.

    Give all of them the same folder, as `$SSEM_DASK_TLS` or `[cluster] tls`. Whoever has key.pem can run code on the
    workers: keep it secret. Existing certificates are never replaced; for new ones give a new folder.
    """
    from ssem_dask.runtime.clusters.certificates import make_certificates

    made = make_certificates(directory, days=days)
    if as_json:
        console.show_json({**asdict(made), "expires": made.expires.isoformat()})
        return
    console.line(f"{directory}: certificates until {made.expires:%Y-%m-%d}")
