"""Commands that align (align, plan, run), and status."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import expect_local_workers, observed_executor, open_executor
from ssem_dask.cli.options import (
    AllowMissing,
    Channel,
    Cluster,
    FailOn,
    FixesFile,
    Json,
    PixelSize,
    SectionThickness,
    Verbose,
    Workers,
    channel_choice,
)
from ssem_dask.cli.summary_display import parse_kinds, show_summary
from ssem_dask.errors import ConfigError
from ssem_dask.units import duration, plural, si

if TYPE_CHECKING:
    from ssem_dask.config.schema import RunConfig
    from ssem_dask.driver.cost import Cost
    from ssem_dask.driver.pipeline import Plan

_ConfigFile = Annotated[str, typer.Argument(help="TOML configuration file with at least `source` and `output`.")]


def align(
    source: Annotated[
        str, typer.Argument(help="Source volume: Zarr, at a path or any fsspec URL (other formats: see `import`).")
    ],
    output: Annotated[
        str, typer.Argument(help="Output Zarr group (conventionally `*.zarr`); resumed if it holds this run.")
    ],
    config: Annotated[
        str | None, typer.Option("--config", help="TOML configuration file; keys that it omits keep their defaults.")
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    channel: Channel = None,
    fixes: FixesFile = None,
    allow_missing: AllowMissing = False,
    fail_on: FailOn = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, as `plan` does; change nothing.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Align a volume with default settings: everything from the source to the aligned pyramid.

    Safe to interrupt: run the same command again to resume.
    """
    kinds = parse_kinds(fail_on)
    if not dry_run and config is None:
        expect_local_workers(cluster)
    volume = _volume_options(pixel_size, section_thickness, channel)
    settings = _settings(source, output, config=config, volume=volume)
    if dry_run:
        _plan(settings, cluster=None, workers=workers, as_json=as_json, fixes=fixes)
        return
    _run(
        settings,
        fixes=fixes,
        cluster=cluster,
        workers=workers,
        allow_missing=allow_missing,
        as_json=as_json,
        fail_on=kinds,
        verbose=verbose,
    )


def _volume_options(pixel_size: float | None, section_thickness: float | None, channel: str | None) -> dict[str, Any]:
    """Return the table `[volume]` that options give, without those that are not given."""
    options = {"pixel_size": pixel_size, "section_thickness": section_thickness, "channel": channel_choice(channel)}
    return {name: value for name, value in options.items() if value is not None}


def _settings(source: str, output: str, *, config: str | None, volume: dict[str, Any]) -> "RunConfig":
    """Return the configuration of a run from the arguments of a command."""
    from ssem_dask.config.schema import load_config, make_config

    urls: dict[str, Any] = {"source": source, "output": output}
    if config is None:
        return make_config({**urls, "volume": volume}, where="align")
    settings = load_config(config, **urls)
    return settings.model_copy(update={"volume": settings.volume.model_copy(update=volume)})


def run(
    config: _ConfigFile,
    cluster: Cluster = None,
    workers: Workers = None,
    fixes: FixesFile = None,
    allow_missing: AllowMissing = False,
    fail_on: FailOn = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Align as a configuration file says.

    Safe to interrupt: run the same command again to resume.
    """
    from ssem_dask.config.schema import load_config

    kinds = parse_kinds(fail_on)
    settings = load_config(config)
    _run(
        settings,
        fixes=fixes,
        cluster=cluster,
        workers=workers,
        allow_missing=allow_missing,
        as_json=as_json,
        fail_on=kinds,
        verbose=verbose,
    )


def _run(
    settings: "RunConfig",
    *,
    fixes: str | None,
    cluster: str | None,
    workers: int | None,
    allow_missing: bool,
    as_json: bool,
    fail_on: tuple[str, ...],
    verbose: bool,
) -> None:
    from ssem_dask.driver import pipeline
    from ssem_dask.driver.run_fixes import GivenFixes

    plan = pipeline.plan(settings, fixes=None if fixes is None else GivenFixes.read(fixes))
    table = settings.cluster
    with observed_executor(cluster, workers=workers, as_json=as_json, table=table, work=plan) as (executor, observer):
        summary = pipeline.run(plan, executor=executor, observer=observer, allow_missing=allow_missing)
    show_summary(summary, as_json=as_json, fail_on=fail_on, verbose=verbose)


def plan(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE|FILE", help="Source volume; or a TOML configuration file, without OUTPUT.")
    ],
    output: Annotated[str | None, typer.Argument(help="Output of the run, as for `align`.", show_default=False)] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="TOML configuration file, with SOURCE and OUTPUT.", show_default=False),
    ] = None,
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    channel: Channel = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Time a sample of the tasks on this cluster, to estimate worker-hours and wall time. The sample is "
            "written beside the output and removed again.",
        ),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: tasks, bytes, files, requests and memory; with --cluster also how long it would take.

    Writes nothing but the sample of --cluster. Fails if a worker of the cluster could not hold the largest task; the
    workers of a scheduler given by its address are checked only when a run connects to it.
    """
    from ssem_dask.config.schema import load_config

    if output is not None:
        volume = _volume_options(pixel_size, section_thickness, channel)
        settings = _settings(source, output, config=config, volume=volume)
    elif Path(source).is_dir() or "://" in source:
        raise ConfigError(
            f"plan {source}: is no configuration file; give the output too: ssem-dask plan {source} OUT.zarr"
        )
    else:
        settings = load_config(source)
    _plan(settings, cluster=cluster, workers=workers, as_json=as_json)


def _plan(
    settings: "RunConfig", *, cluster: str | None, workers: int | None, as_json: bool, fixes: str | None = None
) -> None:
    from ssem_dask.config.schema import cluster_settings
    from ssem_dask.driver import pipeline
    from ssem_dask.driver.run_fixes import GivenFixes
    from ssem_dask.runtime.clusters import refuse_small_workers

    planned = pipeline.plan(settings, fixes=None if fixes is None else GivenFixes.read(fixes))
    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    refuse_small_workers(
        where.name,
        workers=where.workers,
        settings=where,
        task_memory=planned.worker_memory,
        task_gpu_memory=planned.gpu_memory,
    )
    cost = None if cluster is None else _measure_cost(planned, settings, cluster=cluster, workers=workers)
    if as_json:
        console.show_json(
            {
                "source": planned.job.source,
                "output": planned.job.output,
                "config_digest": planned.digest,
                "choices": planned.choices,
                "worker_memory": planned.worker_memory,
                "stages": {name: asdict(estimate) for name, estimate in planned.estimates.items()},
                **({} if cost is None else {"cost": cost.as_json()}),
            }
        )
        return
    _show_plan(planned)
    if cost is not None:
        _show_cost(cost, cluster=cluster or "")


def _measure_cost(planned: "Plan", settings: "RunConfig", *, cluster: str, workers: int | None) -> "Cost":
    """Time a sample on the cluster, with no more batch jobs than a sample can use."""
    from ssem_dask.config.schema import cluster_settings
    from ssem_dask.driver.cost import measure_cost

    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    stage_workers: dict[str, int] = {str(stage): number for stage, number in where.stage_workers.items()}
    for_sample = where.model_copy(
        update={"stage_workers": {}, "workers": None if where.name == "slurm" else where.workers}
    )
    number = None if where.name == "local-gpu" else where.workers  # there it is the number of GPUs
    with open_executor(None, workers=None, table=for_sample, work=planned) as executor:
        return measure_cost(
            planned, executor=executor, workers=lambda stage: stage_workers.get(stage, number), note=console.note
        )


def _show_plan(planned: "Plan") -> None:
    from ssem_dask.runtime.memory import PROCESS_BYTES

    for choice in planned.choices:
        console.note(choice)
    z, y, x = planned.job.shape
    gpu = any(estimate.gpu_memory for estimate in planned.estimates.values())
    rows = [
        [
            name,
            f"{e.tasks:,}",
            si(e.bytes_read, "B"),
            si(e.bytes_written, "B"),
            f"{e.files:,}",
            f"{e.requests:,}",
            si(e.memory, "B"),
            *([si(e.gpu_memory, "B") if e.gpu_memory else ""] if gpu else []),
        ]
        for name, e in planned.estimates.items()
    ]
    console.table(
        f"{planned.job.source} → {planned.job.output}: {z} sections of {y} × {x} px, {planned.job.info.dtype}"
        + (f", {plural(planned.job.info.planes, 'channel')}" if planned.job.info.channels else ""),
        columns=[
            "stage",
            "tasks",
            "read",
            "written (raw)",
            "files",
            "requests",
            "peak memory per task",
            *(["GPU memory"] if gpu else []),
        ],
        rows=rows,
    )
    console.note(
        f"Peak memory of a worker: {si(planned.worker_memory, 'B')}, of which {si(PROCESS_BYTES, 'B')} are the process "
        "itself."
    )


def _show_cost(cost: "Cost", *, cluster: str) -> None:
    rows = [
        [
            c.stage,
            str(c.timed),
            f"{c.timed_seconds:.3g} s" if c.timed else "–",
            "" if c.gpu else f"{c.worker_hours:.3g}",
            f"{c.worker_hours:.3g}" if c.gpu else "",
            str(c.workers),
            duration(c.wall_seconds),
        ]
        for c in cost.stages
    ]
    total = f"{cost.hours(gpu=False):.3g}", f"{cost.hours(gpu=True):.3g}"
    rows.append(["all", "", "", *total, "", duration(cost.wall_seconds)])
    console.table(
        f"Cost on --cluster {cluster}",
        columns=["stage", "timed tasks", "in", "CPU worker-hours", "GPU worker-hours", "workers", "wall time"],
        rows=rows,
    )
    for remark in cost.remarks:
        console.note(remark)


def status(
    output: Annotated[str, typer.Argument(help="The run (`OUT.zarr`), or a volume that `warp` or `export` writes.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the progress of a run until it ends, wherever it was started.")
    ] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between updates of --watch.")] = 2.0,
    pace: Annotated[
        bool, typer.Option("--pace", help="Show how fast sections are appended, and whether aligning keeps up.")
    ] = False,
    fail_on: FailOn = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show the status of a run: task counts by stage and outcome, failed chunks, and sections that need a look.

    Exit code 0 if the run is complete, 1 if not.
    """
    from ssem_dask.driver.run_status import run_status

    kinds = parse_kinds(fail_on)

    if watch:
        from ssem_dask.cli.watch_display import watch as watch_run  # needs the stages, to know the number of tasks

        watch_run(output, seconds=interval, as_json=as_json)
    if pace:
        _show_pace(output, as_json=as_json)
        return
    show_summary(run_status(output), as_json=as_json, fail_on=kinds, verbose=verbose)


def _show_pace(output: str, *, as_json: bool) -> None:
    from ssem_dask.driver.pace import pace_of
    from ssem_dask.storage.run_group import read_run

    found = pace_of(read_run(output).batches)
    if as_json:
        console.show_json(None if found is None else found.to_json())
    else:
        console.line("Fewer than two batches were appended." if found is None else found.sentence())
