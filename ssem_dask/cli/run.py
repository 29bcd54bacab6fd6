"""Commands that align: align, plan, run, status."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ssem_dask import pipeline
from ssem_dask.cli import console
from ssem_dask.cli.cluster import open_executor
from ssem_dask.config import RunConfig, load_config, make_config
from ssem_dask.runtime.execute import open_ledger
from ssem_dask.storage.run import read_run
from ssem_dask.task import Outcome, TaskReport

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
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
    int | None, typer.Option("--workers", min=1, help="Workers of a cluster that is started. Default: one a core.")
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
    _run(settings, cluster=cluster, workers=workers, as_json=as_json)


def run(
    config: Annotated[str, typer.Argument(help="TOML file with at least `source` and `output`.")],
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Align as a config says; goes on where an interrupted run was."""
    _run(load_config(config), cluster=cluster, workers=workers, as_json=as_json)


def plan(
    config: Annotated[str, typer.Argument(help="TOML file with at least `source` and `output`.")],
    as_json: Json = False,
) -> None:
    """Show what a run would do: tasks, bytes, files, memory. Touches nothing."""
    planned = pipeline.plan(load_config(config))
    if as_json:
        console.show_json(
            {
                "source": planned.job.source,
                "output": planned.job.output,
                "config_digest": planned.digest,
                "choices": planned.choices,
                "stages": {name: asdict(estimate) for name, estimate in planned.estimates.items()},
            }
        )
        return
    for choice in planned.choices:
        console.note(choice)
    z, y, x = planned.job.shape
    rows = [
        [
            name,
            f"{e.tasks:,}",
            console.si(e.bytes_read, "B"),
            console.si(e.bytes_written, "B"),
            f"{e.files:,}",
            console.si(e.memory, "B"),
        ]
        for name, e in planned.estimates.items()
    ]
    console.table(
        f"{planned.job.source} → {planned.job.output}: {z} sections of {y} × {x} px, {planned.job.info.dtype}",
        columns=["stage", "tasks", "read", "written (raw)", "files", "peak memory a task"],
        rows=rows,
    )


def status(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    as_json: Json = False,
) -> None:
    """Tell how a run stands: counts by stage and outcome, and every failed chunk with its cause.

    Exit code 0 if the run is complete, 1 if not.
    """
    attributes = read_run(output)
    counts: dict[str, dict[str, int]] = {}
    failed: list[TaskReport] = []
    remarks: list[TaskReport] = []
    for report in open_ledger(output).reports(None):
        stage = counts.setdefault(report.stage, {})
        stage[report.outcome] = stage.get(report.outcome, 0) + 1
        if report.outcome is Outcome.FAILED:
            failed.append(report)
        elif report.message:
            remarks.append(report)
    tell(
        pipeline.Summary(output=output, state=attributes["state"], counts=counts, failed=failed, remarks=remarks),
        as_json=as_json,
    )


def _run(settings: RunConfig, *, cluster: str | None, workers: int | None, as_json: bool) -> None:
    planned = pipeline.plan(settings)
    executor = open_executor(cluster, workers=workers, table=settings.cluster, plan=planned)
    try:
        with console.observer() as observer:
            summary = pipeline.run(planned, executor=executor, observer=observer)
    finally:
        executor.close()
    tell(summary, as_json=as_json)


def tell(summary: pipeline.Summary, *, as_json: bool) -> None:
    """Show how a run stands, and leave with the exit code that says the same."""
    if as_json:
        console.show_json(asdict(summary))
    else:
        outcomes = sorted({outcome for counts in summary.counts.values() for outcome in counts})
        order = [stage.NAME for stage in pipeline.STAGES]
        rows = [
            [stage, *(str(summary.counts[stage].get(outcome, 0)) for outcome in outcomes)]
            for stage in sorted(summary.counts, key=order.index)
        ]
        console.table(f"{summary.output}: {summary.state}", columns=["stage", *outcomes], rows=rows)
        for report in summary.remarks[:_SHOWN]:
            console.note(f"{report.key}: {report.outcome}: {report.message}")
        for report in summary.failed[:_SHOWN]:
            console.complain(f"{report.key} failed ({report.cause}): {report.message}")
        if len(summary.failed) > _SHOWN:
            console.note(f"… and {len(summary.failed) - _SHOWN} more; --json lists all.")
    if summary.state != "complete":
        raise typer.Exit(1)
