"""The command `demo`: the whole product on a synthetic volume."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import expect_local_workers, observed_executor
from ssem_dask.cli.evaluate_command import save_evaluation
from ssem_dask.cli.options import Cluster, Json, Workers
from ssem_dask.cli.report_command import WORST_PLACES, write_report
from ssem_dask.errors import OutputError
from ssem_dask.extras import require_extra

if TYPE_CHECKING:
    from ssem_dask.driver.run_status import Summary
    from ssem_dask.storage.evaluation_file import Evaluation

_MARKER = "made-by-ssem-dask-demo"
_WRITTEN = ("observed.zarr", "aligned.zarr", "reslice.png", "report.html")
"""Names in the folder that a later demo replaces; others in it stay."""
_ROWS = (
    ("jump between adjacent sections, median", "jitter_median"),
    ("jump between adjacent sections, 95th percentile", "jitter_p95"),
    ("drift over the volume", "drift_max"),
)


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder to work in. An earlier demo in it is replaced.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random volume and its deformation.")] = 1,
    sections: Annotated[int, typer.Option("--sections", min=8, help="Number of sections.")] = 20,
    size: Annotated[int, typer.Option("--size", min=256, help="Side of a section, px.")] = 512,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Make a volume with known truth, deform it, align it, and show the error before and after."""
    require_extra("report", purpose="demo")  # before minutes of computing
    expect_local_workers(cluster)
    from ssem_dask.evaluation.protocol import evaluate
    from ssem_dask.report.page import make_report
    from ssem_dask.report.reslice import draw_reslices

    _claim(directory)
    observed, output, picture = directory / "observed.zarr", directory / "aligned.zarr", directory / "reslice.png"
    _simulate(observed, seed=seed, sections=sections, size=size)
    summary = _align(observed, output, cluster=cluster, workers=workers, as_json=as_json)
    if summary.state != "complete":
        for report in summary.failed:
            console.show_error(f"{report.key} failed ({report.cause}): {report.message}")
        raise typer.Exit(1)
    result = evaluate(str(output), truth=str(observed))
    save_evaluation(result)
    draw_reslices(str(output), picture=picture)
    page = write_report(make_report(str(output), worst=WORST_PLACES, viewer=None), directory / "report.html")
    if as_json:
        console.show_json({**result.to_json(), "picture": str(picture), "report": str(page)})
        return
    _show(result, picture=picture, page=page, output=output)


def _claim(directory: Path) -> None:
    """Take a folder that is new, empty, or of an earlier demo, whose files alone are deleted."""
    try:
        if directory.exists():
            if not directory.is_dir() or (any(directory.iterdir()) and not (directory / _MARKER).exists()):
                raise OutputError(f"demo: {directory} holds something that is not a demo; give another --dir.")
            for path in (directory / name for name in _WRITTEN):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _MARKER).touch()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"demo: cannot write to {directory} ({error.strerror}); give another --dir.") from error


def _simulate(observed: Path, *, seed: int, sections: int, size: int) -> None:
    from ssem_dask.evaluation.deformation import DeformationConfig
    from ssem_dask.evaluation.phantom import PhantomConfig
    from ssem_dask.evaluation.simulate import simulate_phantom
    from ssem_dask.evaluation.simulated_damage import DamageConfig

    console.note(f"Making {sections} sections of {size} × {size} px of synthetic tissue, each deformed at random …")
    with console.progress_bar("simulate", total=sections) as progress:
        simulate_phantom(
            PhantomConfig(seed=seed, shape=(sections, size, size), oblique=0.0),
            str(observed),
            seed=seed,
            deformation=DeformationConfig(),
            damage=DamageConfig(),
            progress=lambda done, _of: progress.update(progress.task_ids[0], completed=done),
        )


def _align(observed: Path, output: Path, *, cluster: str | None, workers: int | None, as_json: bool) -> "Summary":
    from ssem_dask.config.schema import make_config
    from ssem_dask.driver import pipeline

    plan = pipeline.plan(make_config({"source": str(observed), "output": str(output)}, where="demo"))
    with observed_executor(cluster, workers=workers, as_json=as_json, work=plan) as (executor, observer):
        return pipeline.run(plan, executor=executor, observer=observer)


def _show(result: "Evaluation", *, picture: Path, page: Path, output: Path) -> None:
    names = ("observed", "coarse", "aligned")
    rows = [[label, *(f"{result.value(name, metric):.2f}" for name in names)] for label, metric in _ROWS]
    console.table(
        "Alignment error against the known truth, px",
        columns=["", "before", "rigid only", "after"],
        rows=rows,
    )
    console.line(f"Picture, before | after:   {picture}")
    console.line(f"Report, open in a browser: {page}")
    console.line(f"Aligned volume:            {output}")
    console.note(f"More figures: ssem-dask evaluate {output} --truth {output.parent / 'observed.zarr'}")
