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
    V05 = "0.5"
    V06 = "0.6"


def export(
    source: Annotated[
        str,
        typer.Argument(help="The run (`OUT.zarr`), whose aligned volume or fields are exported, or any Zarr volume."),
    ],
    destination: Annotated[
        str, typer.Argument(help="Volume to write: a path or URL; with --precomputed a folder, s3:// or gs://.")
    ],
    ngff: Annotated[
        NgffVersion | None,
        typer.Option("--ngff", help="Write OME-Zarr of this version: 0.4 on Zarr v2, 0.6 on Zarr v3. Runs are 0.5."),
    ] = None,
    precomputed: Annotated[
        bool, typer.Option("--precomputed", help="Write neuroglancer-precomputed; needs ssem_dask[tensorstore].")
    ] = False,
    vast: Annotated[
        bool,
        typer.Option("--vast", help="Write PNG tiles and a .vsvi file for VAST; needs ssem_dask[formats]."),
    ] = False,
    fields: Annotated[
        bool,
        typer.Option("--fields", help="Write the displacement fields, both ways, as a scene of OME-Zarr 0.6."),
    ] = False,
    itk: Annotated[
        bool,
        typer.Option("--itk", help="Write the fields as NRRD files for ITK, and the affine maps as a CSV file."),
    ] = False,
    itk_h5: Annotated[
        bool,
        typer.Option("--itk-h5", help="Like --itk, but as HDF5 files of ITK's transforms; needs ssem_dask[formats]."),
    ] = False,
    affines: Annotated[
        bool, typer.Option("--affines", help="Write only that CSV file, which `[coarse] initial` reads.")
    ] = False,
    inverse_spacing: Annotated[
        int | None,
        typer.Option(
            "--inverse-spacing",
            help="With --fields or --itk…: px between nodes of the inverse fields. Default: as the run's fields.",
            show_default=False,
        ),
    ] = None,
    chunk: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            "--chunk",
            metavar="Z Y X",
            help="Chunk size, voxels. Default: as in the source; 64 64 64 with --precomputed, 1 1024 1024 with --vast.",
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
    """Write a volume, with all its levels, or the fields of a run, for other tools.

    An exported OME-Zarr folder is a dataset of WEBKNOSSOS too. For a volume on s3://, gs:// or http, a link opens it in
    neuroglancer.

    Safe to interrupt: run the same command again to resume.
    """
    from ssem_dask.volumes.export_plan import run_export
    from ssem_dask.volumes.exporting import checked_plan
    from ssem_dask.volumes.field_exporting import inverse_error_note
    from ssem_dask.volumes.neuroglancer_link import link_note

    if ngff is NgffVersion.V05:
        raise ConfigError(
            f"export --ngff 0.5: runs and volumes are OME-Zarr 0.5 already; open {source} itself (of a run, the group "
            "aligned in it), or copy it."
        )
    forms = {
        "ngff-0.4": ngff is NgffVersion.V04,
        "ngff-0.6": ngff is NgffVersion.V06,
        "precomputed": precomputed,
        "vast": vast,
        "fields": fields,
        "itk": itk,
        "itk-h5": itk_h5,
        "affines": affines,
    }
    chosen = [form for form, is_chosen in forms.items() if is_chosen]
    if len(chosen) != 1:
        raise ConfigError(
            "export: exactly one format is needed; give one of --ngff 0.4, --ngff 0.6, --precomputed, --vast, "
            "--fields, --itk, --itk-h5 or --affines."
        )
    plan = checked_plan(
        source,
        destination,
        form=chosen[0],
        chunk=chunk,
        labels=labels,
        sharded=not unsharded,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        inverse_spacing=inverse_spacing,
    )
    with observed_executor(cluster, workers=workers, as_json=as_json, work=plan.work()) as (executor, observer):
        summary = run_export(plan, executor=executor, observer=observer)
        notes = (inverse_error_note(plan), link_note(plan)) if summary.state == "complete" else ()
        for note in notes:
            if note is not None:
                observer.note(note)
    show_summary(summary, as_json=as_json)
