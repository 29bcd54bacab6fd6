"""Command evaluate."""

import math
from typing import Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.run_commands import Json
from ssem_dask.errors import OutputError
from ssem_dask.evaluation.protocol import evaluate as evaluate_run
from ssem_dask.evaluation.record import Evaluation
from ssem_dask.storage.quality import read_evaluation, write_evaluation
from ssem_dask.storage.run_group import read_run

_GOOD = {"low": "low", "high": "high", "one": "near 1", "neither": "as undeformed"}


def evaluate(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    truth: Annotated[
        str | None, typer.Option("--truth", help="The simulated volume that was aligned; gives errors in px.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Segmentation in the frame of the source.")] = None,
    undeformed: Annotated[
        str | None,
        typer.Option("--undeformed", help="A run on the undeformed sections: null test, and recovery with --truth."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run: jitter, drift, similarity, label overlap, folds; as observed, coarse and aligned."""
    result = evaluate_run(output, truth=truth, labels=labels, undeformed_run=undeformed)
    keep(result)
    if as_json:
        console.show_json(result.to_json())
        return
    show(result)


def keep(result: Evaluation) -> None:
    """Keep the result beside the run, where `report` finds it; a run that can only be read is fine too.

    What was measured against a truth is not replaced by what was measured without one.
    """
    digest = read_run(result.run)["config_digest"]
    kept = read_evaluation(result.run)
    if result.truth is None and kept is not None and kept.get("truth") and kept.get("config_digest") == digest:
        return
    try:
        write_evaluation(result.run, {**result.to_json(), "config_digest": digest})
    except OutputError as error:
        console.note(f"The figures were not kept for the report: {error}")


def show(result: Evaluation) -> None:
    """A table of metrics (rows) by candidates (columns), and the notes."""
    names = [row.name for row in result.rows]
    rows, legend = [], []
    for metric in result.metrics:
        values = [row.values.get(metric.name, math.nan) for row in result.rows]
        shown = ["-" if math.isnan(value) else f"{value:.3g}" for value in values]
        rows.append([metric.name, *shown, metric.unit, _GOOD[metric.better]])
        legend.append(f"{metric.name}: {metric.meaning}")
    console.table(f"{result.run}: {result.sections} sections", columns=["", *names, "unit", "good is"], rows=rows)
    for line in legend:
        console.note(line)
    for note in result.notes:
        console.note(note)
