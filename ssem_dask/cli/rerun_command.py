"""Commands that repair a run: `rerun` recomputes parts of it, `verify` finds damaged results."""

from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import in_this_process, observed_executor
from ssem_dask.cli.options import AllowMissing, Cluster, FailOn, FixesFile, Json, Run, Source, Verbose, Workers
from ssem_dask.cli.summary_display import parse_kinds, show_summary
from ssem_dask.task import Cause

if TYPE_CHECKING:
    from ssem_dask.driver.rerun import RerunPlan
    from ssem_dask.runtime.clusters.cluster_config import ClusterConfig


def rerun(
    output: Run,
    failed: Annotated[bool, typer.Option("--failed", help="Select the chunks that failed.")] = False,
    cause: Annotated[
        list[Cause] | None,
        typer.Option("--cause", help="Select the chunks that failed for this reason; may be repeated."),
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Select the chunks of this stage; may be repeated.")
    ] = None,
    sections: Annotated[
        str | None,
        typer.Option("--sections", help="Select the chunks that write these sections, e.g. 100:120 (half-open)."),
    ] = None,
    chunk: Annotated[
        list[str] | None,
        typer.Option("--chunk", help="Select the chunk with this key, as `status` shows it; may be repeated."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting, as table.key=value: for the selected chunks only or, if none are selected, for the "
            "whole run. May be repeated.",
        ),
    ] = None,
    source: Source = None,
    fixes: FixesFile = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Fit the statistics of the run again with its fixes; without it they stay."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be recomputed; change nothing.")] = False,
    allow_missing: AllowMissing = False,
    cluster: Cluster = None,
    workers: Workers = None,
    fail_on: FailOn = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Recompute selected parts of a run and everything that depends on them.

    Options that select chunks narrow each other down. Without any, everything that failed or is stale is recomputed:
    after a change of settings (--set), weights or source, exactly the chunks that the change affects.
    """
    from ssem_dask.driver.overrides import parse_overrides
    from ssem_dask.driver.rerun import Selection, execute_rerun, parse_sections, plan_rerun
    from ssem_dask.driver.run_fixes import GivenFixes

    kinds = parse_kinds(fail_on)
    selection = Selection(
        failed=failed,
        causes=tuple(cause or ()),
        stages=tuple(stage or ()),
        sections=None if sections is None else parse_sections(sections),
        chunks=tuple(chunk or ()),
    )
    planned = plan_rerun(
        output,
        selection,
        overrides=parse_overrides(changes or ()),
        source=source,
        fixes=None if fixes is None else GivenFixes.read(fixes),
        refit=refit,
    )
    if sections is not None and not (changes or fixes or failed or cause):
        console.note(
            "Nothing was changed, so this computes the same again. To say what is known of a section: ssem-dask fix "
            f"{output}, or --fixes; to change a setting: --set."
        )
    if dry_run:
        _show_plan(planned, as_json=as_json)
        return
    table = _cluster_table(output, cluster)
    if planned.is_quick and cluster is None and workers is None:
        table = in_this_process(table)
    with observed_executor(cluster, workers=workers, as_json=as_json, table=table) as (executor, observer):
        summary = execute_rerun(planned, executor=executor, observer=observer, allow_missing=allow_missing)
    show_summary(summary, as_json=as_json, fail_on=kinds, verbose=verbose)


def verify(
    output: Run,
    source: Source = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Prove that a run is whole: compare metadata, ledger and files with what must exist, and read all chunks.

    What is damaged or missing is named, and `rerun` then writes exactly that again. Exit code 0 if the run is complete
    and undamaged, 1 if not. A warped or exported volume is not covered.
    """
    from ssem_dask.driver.rerun import verify_run

    table = _cluster_table(output, cluster)
    with observed_executor(cluster, workers=workers, as_json=as_json, table=table) as (executor, observer):
        summary = verify_run(output, executor=executor, observer=observer, source=source)
    show_summary(summary, as_json=as_json)


def _cluster_table(output: str, cluster: str | None) -> "ClusterConfig | None":
    """Return the `[cluster]` table that the run was started with; None if `--cluster` is given."""
    from ssem_dask.runtime.clusters.cluster_config import remembered_cluster
    from ssem_dask.storage.run_group import read_run

    return None if cluster else remembered_cluster(output, read_run(output).given.get("cluster", {}))


def _show_plan(planned: "RerunPlan", *, as_json: bool) -> None:
    keys_by_reason = planned.invalidation.keys()
    if as_json:
        console.show_json({"output": planned.plan.job.output, "again": keys_by_reason})
        return
    stages = dict.fromkeys(key.split("/", 1)[0] for keys in keys_by_reason.values() for key in keys)
    rows = [
        [stage, *(str(sum(key.startswith(f"{stage}/") for key in keys)) for keys in keys_by_reason.values())]
        for stage in stages
    ]
    console.table(f"{planned.plan.job.output}: to be recomputed", columns=["stage", *keys_by_reason], rows=rows)
