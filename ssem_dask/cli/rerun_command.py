"""Commands that repair a run: `rerun` does parts of it again and what depends on them, `verify` looks for damage."""

from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import open_executor
from ssem_dask.cli.progress_display import observer_for
from ssem_dask.cli.run_commands import AllowMissing, Cluster, Json, Workers, tell
from ssem_dask.driver.overrides import parse_overrides
from ssem_dask.driver.rerun import RerunPlan, Selection, execute_rerun, parse_sections, plan_rerun, verify_run
from ssem_dask.runtime.clusters.cluster_config import remembered_cluster
from ssem_dask.runtime.executor import Executor
from ssem_dask.storage.run_group import read_run
from ssem_dask.task import Cause


def rerun(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    failed: Annotated[bool, typer.Option("--failed", help="The chunks that failed.")] = False,
    cause: Annotated[
        list[Cause] | None, typer.Option("--cause", help="The chunks that failed of this; may be repeated.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="The chunks of this stage; may be repeated.")
    ] = None,
    sections: Annotated[
        str | None, typer.Option("--sections", help="The chunks that write these sections, e.g. 100:120 (half-open).")
    ] = None,
    chunk: Annotated[
        list[str] | None, typer.Option("--chunk", help="The chunk of this key, as status shows it; may be repeated.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="table.key=value: for the chosen chunks alone or, with none chosen, for the run. May be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done again; touch nothing.")] = False,
    allow_missing: AllowMissing = False,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Do parts of a run again, and all that depends on them; nothing else.

    Options that choose chunks narrow each other down. With none, all that failed or is stale is done again: after a
    change of configuration (--set), weights or source exactly the chunks that it concerns.
    """
    selection = Selection(
        failed=failed,
        causes=tuple(cause or ()),
        stages=tuple(stage or ()),
        sections=None if sections is None else parse_sections(sections),
        chunks=tuple(chunk or ()),
    )
    planned = plan_rerun(output, selection, overrides=parse_overrides(changes or ()))
    if dry_run:
        _show(planned, as_json=as_json)
        return
    executor = _open_cluster(output, cluster, workers)
    try:
        with observer_for(executor, as_json=as_json) as observer:
            summary = execute_rerun(planned, executor=executor, observer=observer, allow_missing=allow_missing)
    finally:
        executor.close()
    tell(summary, as_json=as_json)


def verify(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Read all that a run has written and compare checksums; what is damaged or gone is marked as failed.

    `rerun --failed` then writes just that again. Exit code 0 if the run is complete and sound, 1 if not.
    """
    executor = _open_cluster(output, cluster, workers)
    try:
        with observer_for(executor, as_json=as_json) as observer:
            summary = verify_run(output, executor=executor, observer=observer)
    finally:
        executor.close()
    tell(summary, as_json=as_json)


def _open_cluster(output: str, cluster: str | None, workers: int | None) -> Executor:
    """The cluster that the user names; without one that of this machine that the run was begun on."""
    table = None if cluster else remembered_cluster(output, read_run(output)["given"].get("cluster", {}))
    return open_executor(cluster, workers=workers, table=table)


def _show(planned: RerunPlan, *, as_json: bool) -> None:
    keys = planned.invalidation.keys()
    if as_json:
        console.show_json({"output": planned.plan.job.output, "again": keys})
        return
    stages = dict.fromkeys(key.split("/", 1)[0] for found in keys.values() for key in found)
    rows = [[s, *(str(sum(key.startswith(f"{s}/") for key in found)) for found in keys.values())] for s in stages]
    console.table(f"{planned.plan.job.output}: to be done again", columns=["stage", *keys], rows=rows)
