"""The command that writes a volume for other tools."""

from enum import StrEnum
from typing import Annotated

import typer

from ssem_dask.cli.cluster import open_executor
from ssem_dask.cli.progress_display import observer_for
from ssem_dask.cli.run_commands import Cluster, Json, PixelSize, Thickness, Workers, tell
from ssem_dask.errors import ConfigError
from ssem_dask.volumes.exporting import plan_export, run_export


class NgffVersion(StrEnum):
    """Versions of OME-Zarr that are exported; 0.5 is what every volume of ours is."""

    V04 = "0.4"


def export(
    source: Annotated[str, typer.Argument(help="The run, whose aligned volume is meant, or any volume (Zarr).")],
    destination: Annotated[str, typer.Argument(help="Where it is written; precomputed: a folder, s3:// or gs://.")],
    ngff: Annotated[
        NgffVersion | None, typer.Option("--ngff", help="Write OME-Zarr of this version, on Zarr v2.")
    ] = None,
    precomputed: Annotated[
        bool, typer.Option("--precomputed", help="Write neuroglancer-precomputed; needs ssem_dask[tensorstore].")
    ] = False,
    chunk: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            "--chunk",
            metavar="Z Y X",
            help="Extent of a chunk. Default: as in the source; precomputed: 64 64 64.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The values are ids of a segmentation, though the source does not say so.")
    ] = False,
    unsharded: Annotated[
        bool,
        typer.Option("--unsharded", help="Precomputed: a file per chunk, for servers that know no byte ranges."),
    ] = False,
    pixel_size: PixelSize = None,
    section_thickness: Thickness = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write a volume, all levels, as OME-Zarr 0.4 or neuroglancer-precomputed.

    Interrupt it whenever you like; the same command goes on where it was.
    """
    if precomputed == (ngff is not None):
        raise ConfigError("export: one format at a time is written; give either --ngff 0.4 or --precomputed.")
    plan = plan_export(
        source,
        destination,
        form="precomputed" if precomputed else "ngff-0.4",
        chunk=chunk,
        labels=labels,
        sharded=not unsharded,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
    )
    executor = open_executor(cluster, workers=workers)
    try:
        with observer_for(executor, as_json=as_json) as observer:
            summary = run_export(plan, executor=executor, observer=observer)
    finally:
        executor.close()
    tell(summary, as_json=as_json)
