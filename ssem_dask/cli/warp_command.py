"""The command `warp`."""

from typing import Annotated

import typer

from ssem_dask.cli.cluster import observed_executor
from ssem_dask.cli.options import Cluster, Json, Run, Workers
from ssem_dask.cli.summary_display import show_summary


def warp(
    output: Run,
    volume: Annotated[
        str, typer.Argument(help="Volume to warp, in the frame of the run's source: Zarr, at a path or any fsspec URL.")
    ],
    destination: Annotated[str, typer.Argument(help="OME-Zarr image to write; resumed if it holds this very warp.")],
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="The values are segmentation ids: take the nearest pixel and, in the pyramid, the most frequent id.",
        ),
    ] = False,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size",
            help="Pixel size of VOLUME in y and x, nm, if it is not the source's; overrides its metadata.",
            show_default=False,
        ),
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Apply an alignment to another image (all its channels) or a segmentation of the same sections.

    Its pixels may be larger or smaller than those of the run's source, as in a segmentation at half resolution.

    Safe to interrupt: run the same command again to resume.
    """
    from ssem_dask.volumes.warping import plan_warp, run_warp

    plan = plan_warp(output, volume, destination, labels=labels, pixel_size=pixel_size)
    with observed_executor(cluster, workers=workers, as_json=as_json, work=plan.work()) as (executor, observer):
        summary = run_warp(plan, executor=executor, observer=observer)
    show_summary(summary, as_json=as_json)
