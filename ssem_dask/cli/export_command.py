"""The command `export`, which writes a volume for other tools."""

from enum import StrEnum
from typing import Annotated

import typer

from ssem_dask.cli.cluster import observed_executor
from ssem_dask.cli.options import Cluster, Json, PixelSize, SectionThickness, Workers
from ssem_dask.cli.summary_display import show_summary
from ssem_dask.errors import ConfigError


class NgffVersion(StrEnum):
    """Versions of OME-Zarr that can be exported; every volume of a run is already 0.5."""

    V04 = "0.4"


def export(
    source: Annotated[
        str, typer.Argument(help="The run (`OUT.zarr`), whose aligned volume is exported, or any Zarr volume.")
    ],
    destination: Annotated[
        str, typer.Argument(help="Volume to write: a path or URL; with --precomputed a folder, s3:// or gs://.")
    ],
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
            help="Chunk size, voxels. Default: as in the source; 64 64 64 with --precomputed.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels", help="The values are segmentation ids, even if the source does not say so."),
    ] = False,
    unsharded: Annotated[
        bool,
        typer.Option("--unsharded", help="With --precomputed: one file per chunk, for servers without byte ranges."),
    ] = False,
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write a volume, with all its levels, as OME-Zarr 0.4 or neuroglancer-precomputed.

    Safe to interrupt: run the same command again to resume.
    """
    from ssem_dask.volumes.exporting import plan_export, run_export

    if precomputed == (ngff is not None):
        raise ConfigError("export: exactly one format is needed; give either --ngff 0.4 or --precomputed.")
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
    with observed_executor(cluster, workers=workers, as_json=as_json, work=plan.work()) as (executor, observer):
        summary = run_export(plan, executor=executor, observer=observer)
    show_summary(summary, as_json=as_json)
