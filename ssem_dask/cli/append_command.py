"""The command `append`: a run grows with the microscope."""

from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import observed_executor
from ssem_dask.cli.options import AllowMissing, Cluster, FailOn, Json, Run, Workers
from ssem_dask.cli.summary_display import fail_if_needed, parse_kinds
from ssem_dask.errors import ConfigError

if TYPE_CHECKING:
    from ssem_dask.driver.run_status import Summary


def append(
    output: Run,
    source: Annotated[
        str | None,
        typer.Argument(
            help="Volume (Zarr) with the sections of the run and, after them, the new ones; or the folder of images "
            "that the source of the run was imported from. Left out: the source of the run, to which they were added.",
            show_default=False,
        ),
    ] = None,
    settle: Annotated[
        bool,
        typer.Option("--settle", help="Make of the run what one run over all sections would be, equal to the bit."),
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the statistics again, with all sections; nothing is then locked.")
    ] = False,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify",
            metavar="CMD|URL",
            help="Report each batch to this command, by its standard input, or to this URL (http, https), by POST; as "
            "the JSON line of --json. May be repeated.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Follow SOURCE, batch by batch: files and sections may come late, out of order, or again. Ends with "
            "--until, --idle or Ctrl-C.",
        ),
    ] = False,
    until: Annotated[
        int | None, typer.Option("--until", min=1, help="End --watch when this many sections have come.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", min=0.0, help="End --watch after this many seconds without anything new.")
    ] = None,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", min=0.1, help="Seconds between two looks at SOURCE; what did not change between is whole."
        ),
    ] = 5.0,
    allow_missing: AllowMissing = False,
    fail_on: FailOn = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Extend a run by sections that were imaged since; finished sections stay as they are, to the bit.

    The last sections before the new ones are solved for again with them. Safe to interrupt: run the same command again.
    """
    from ssem_dask.driver.append import execute_append, plan_append, summary_record
    from ssem_dask.driver.batch_report import notify_all, refuse_unusable, sentence
    from ssem_dask.runtime.clusters.cluster_config import remembered_cluster
    from ssem_dask.storage.arrays import is_node
    from ssem_dask.storage.run_group import read_run
    from ssem_dask.volumes.watching import Watching, follow

    kinds = parse_kinds(fail_on)
    refuse_unusable(notify or ())
    is_folder = source is not None and not is_node(source)
    if watch and source is None:
        raise ConfigError("--watch: give the folder or the volume that is to be followed as SOURCE.")
    if (watch or is_folder) and (settle or refit):
        raise ConfigError("--settle and --refit: give them without --watch and without a folder, when all have come.")
    if not watch and (until is not None or idle is not None):
        raise ConfigError("--until and --idle: say when --watch ends; give it too.")
    begin = plan_append(output, None if watch or is_folder else source, refit=refit, settle=settle)
    table = None if cluster else remembered_cluster(output, read_run(output).given.get("cluster", {}))
    summary: Summary | None = None
    with observed_executor(cluster, workers=workers, as_json=as_json, table=table, work=begin.plan) as (
        executor,
        observer,
    ):
        if watch or is_folder:
            assert source is not None
            watching = Watching(interval=interval, until=until, idle=idle if watch else 2 * interval)
            batches = follow(
                output,
                source,
                watching,
                note=observer.note,
                settled=lambda: summary is None or summary.state == "complete",
            )
        else:
            batches = iter([begin])
        for planned in batches:
            summary = execute_append(planned, executor=executor, observer=observer, allow_missing=allow_missing)
            record = summary_record(planned, summary)
            if as_json:
                console.show_json_line(record)
            else:
                console.line(sentence(record))
            for failure in notify_all(notify or (), record):
                console.show_error(failure)
    if summary is None:
        console.note("No section is new.")
    else:
        fail_if_needed(summary, fail_on=kinds)
