"""Commands that align: align, plan, run; and status, which tells how a run stands."""

from dataclasses import asdict
from typing import Annotated, Any, get_args

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import open_executor
from ssem_dask.cli.progress_display import observer_for
from ssem_dask.cli.watch_display import watch as watch_run
from ssem_dask.config.schema import RunConfig, cluster_settings, load_config, make_config
from ssem_dask.driver import pipeline
from ssem_dask.driver.cost import Cost, measure_cost
from ssem_dask.driver.run_status import Summary, run_status
from ssem_dask.runtime.clusters import refuse_small_workers
from ssem_dask.task import TaskReport
from ssem_dask.types import StageName
from ssem_dask.units import duration, plural, si

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and progress as JSON lines on stderr.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="SSEM_DASK_CLUSTER",
        help="Where to run: serial, local, local-gpu, slurm, the address of a Dask scheduler, or a TOML file with a "
        "[cluster] table. Default: local.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Workers of a cluster that is started; GPUs with local-gpu. Default: all."),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Go on where chunks failed; the output is then incomplete, the exit code 1."),
]
PixelSize = Annotated[
    float | None, typer.Option("--pixel-size", help="nm per pixel, if the source does not say.", show_default=False)
]
Thickness = Annotated[
    float | None,
    typer.Option("--section-thickness", help="nm per section, if the source does not say.", show_default=False),
]
_SHOWN = 20


def align(
    source: Annotated[
        str, typer.Argument(help="Source volume: Zarr, any fsspec URL (see `import` for other formats).")
    ],
    output: Annotated[str, typer.Argument(help="Where the result goes, by custom ending in .zarr.")],
    config: Annotated[
        str | None, typer.Option("--config", help="TOML file; what it does not say stays default.")
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    pixel_size: PixelSize = None,
    section_thickness: Thickness = None,
    allow_missing: AllowMissing = False,
    as_json: Json = False,
) -> None:
    """Align a volume with defaults: everything from source to aligned pyramid.

    Interrupt it whenever you like; the same command goes on where it was.
    """
    overrides: dict[str, Any] = {"source": source, "output": output}
    sizes = {"pixel_size": pixel_size, "section_thickness": section_thickness}
    if config is not None:
        settings = load_config(config, **overrides)
        given = {key: value for key, value in sizes.items() if value is not None}
        settings = settings.model_copy(update={"volume": settings.volume.model_copy(update=given)})
    else:
        settings = make_config({**overrides, "volume": sizes}, where="align")
    _run(settings, cluster=cluster, workers=workers, allow_missing=allow_missing, as_json=as_json)


def run(
    config: Annotated[str, typer.Argument(help="TOML file with at least `source` and `output`.")],
    cluster: Cluster = None,
    workers: Workers = None,
    allow_missing: AllowMissing = False,
    as_json: Json = False,
) -> None:
    """Align as a config says; goes on where an interrupted run was."""
    _run(load_config(config), cluster=cluster, workers=workers, allow_missing=allow_missing, as_json=as_json)


def plan(
    config: Annotated[str, typer.Argument(help="TOML file with at least `source` and `output`.")],
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Time a sample there, as `run --cluster` would compute, and tell worker-hours and wall time; writes "
            "beside the output, and removes it.",
        ),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: tasks, bytes, files, requests, memory; with --cluster also how long. Touches nothing.

    Refuses what the cluster's workers could not hold; of a scheduler by address that is known only when it is joined.
    """
    settings = load_config(config)
    planned = pipeline.plan(settings)
    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    refuse_small_workers(
        where.name,
        workers=where.workers,
        settings=where,
        task_memory=planned.worker_memory,
        task_gpu_memory=planned.gpu_memory,
    )
    cost = None if cluster is None else _cost(planned, settings, cluster, workers)
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
    for choice in planned.choices:
        console.note(choice)
    z, y, x = planned.job.shape
    gpu = any(e.gpu_memory for e in planned.estimates.values())
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
        f"{planned.job.source} → {planned.job.output}: {z} sections of {y} × {x} px, {planned.job.info.dtype}",
        columns=[
            "stage",
            "tasks",
            "read",
            "written (raw)",
            "files",
            "requests",
            "peak memory a task",
            *(["on a GPU"] if gpu else []),
        ],
        rows=rows,
    )
    console.note(
        f"Peak memory of a worker: {si(planned.worker_memory, 'B')}, of which {si(pipeline.PROCESS, 'B')} are the "
        "process itself."
    )
    if cost is not None:
        _show_cost(cost, cluster=cluster or "")


def _cost(planned: pipeline.Plan, settings: RunConfig, cluster: str, workers: int | None) -> Cost:
    """Time a sample on the cluster, on no more batch jobs than a sample can use."""
    where = cluster_settings(cluster, workers=workers, table=settings.cluster)
    wanted: dict[str, int] = {str(stage): number for stage, number in where.stage_workers.items()}
    few = where.model_copy(update={"stage_workers": {}, "workers": None if where.name == "slurm" else where.workers})
    executor = open_executor(None, workers=None, table=few, plan=planned)
    number = None if where.name == "local-gpu" else where.workers  # there it is that of the GPUs
    try:
        return measure_cost(
            planned, executor=executor, workers=lambda stage: wanted.get(stage, number), note=console.note
        )
    finally:
        executor.close()


def _show_cost(cost: Cost, *, cluster: str) -> None:
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
    output: Annotated[str, typer.Argument(help="The run, OUT.zarr; or a volume that was warped or exported.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show how far a run is until it ends; started anywhere.")
    ] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Tell how a run stands: counts by stage and outcome, and every failed chunk with its cause.

    Exit code 0 if it is complete, 1 if not.
    """
    if watch:
        watch_run(output, seconds=interval, as_json=as_json)
    tell(run_status(output), as_json=as_json)


def _run(settings: RunConfig, *, cluster: str | None, workers: int | None, allow_missing: bool, as_json: bool) -> None:
    planned = pipeline.plan(settings)
    executor = open_executor(cluster, workers=workers, table=settings.cluster, plan=planned)
    try:
        with observer_for(executor, as_json=as_json) as observer:
            summary = pipeline.run(planned, executor=executor, observer=observer, allow_missing=allow_missing)
    finally:
        executor.close()
    tell(summary, as_json=as_json)


def tell(summary: Summary, *, as_json: bool) -> None:
    """Show how a run stands, and leave with the exit code that says the same."""
    if as_json:
        console.show_json(asdict(summary))
    else:
        outcomes = sorted({outcome for counts in summary.counts.values() for outcome in counts})
        order = [*get_args(StageName), *summary.counts]
        rows = [
            [stage, *(str(summary.counts[stage].get(outcome, 0)) for outcome in outcomes)]
            for stage in sorted(summary.counts, key=order.index)
        ]
        console.table(f"{summary.output}: {summary.state}", columns=["stage", *outcomes], rows=rows)
        for report in summary.remarks[:_SHOWN]:
            console.note(f"{report.key}: {report.outcome}: {report.message}")
        if summary.failed:
            _show_failed(summary.failed)
    if summary.state != "complete":
        raise typer.Exit(1)


def _show_failed(failed: list[TaskReport]) -> None:
    causes: dict[str, int] = {}
    for report in failed:
        causes[str(report.cause)] = causes.get(str(report.cause), 0) + 1
    console.table(
        f"{plural(len(failed), 'chunk')} failed: {', '.join(f'{n} {cause}' for cause, n in sorted(causes.items()))}",
        columns=["chunk", "cause", "attempts", "seconds", "worker", "message"],
        rows=[[r.key, str(r.cause), str(r.attempts), f"{r.seconds:.1f}", r.worker, r.message] for r in failed[:_SHOWN]],
    )
    if len(failed) > _SHOWN:
        console.note(f"… and {len(failed) - _SHOWN} more; --json lists all.")
