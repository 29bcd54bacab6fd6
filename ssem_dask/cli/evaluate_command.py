"""The command `evaluate`."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Run
from ssem_dask.errors import OutputError

if TYPE_CHECKING:
    from ssem_dask.storage.evaluation_file import Evaluation

_GOOD = {"low": "low", "high": "high", "one": "near 1", "neither": "as undeformed"}


def evaluate(
    output: Run,
    truth: Annotated[
        str | None, typer.Option("--truth", help="The simulated volume that was aligned; adds errors in px.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Segmentation in the frame of the source; adds label overlap.")
    ] = None,
    undeformed: Annotated[
        str | None,
        typer.Option(
            "--undeformed", help="A run on the undeformed sections; adds a null test and, with --truth, recovery."
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--fields",
            help="Fields of the same sections by another aligner, as a scene of OME-Zarr 0.6, a field array or a "
            "folder of NRRD files, or another run; adds a column. May be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure jitter, drift, similarity, label overlap and folds of a run: observed, coarse and aligned."""
    from ssem_dask.evaluation.protocol import evaluate as evaluate_run

    result = evaluate_run(output, truth=truth, labels=labels, undeformed_run=undeformed, fields=fields or ())
    save_evaluation(result)
    if as_json:
        console.show_json(result.to_json())
        return
    _show(result)


def save_evaluation(result: "Evaluation") -> None:
    """Save the result in the run, for `report`; do nothing but note it if the run is read-only.

    A result that was measured against a truth is not replaced by one without.
    """
    from ssem_dask.storage.evaluation_file import read_evaluation, write_evaluation
    from ssem_dask.storage.run_group import read_run

    digest = read_run(result.run).config_digest
    saved = read_evaluation(result.run, config_digest=digest)
    if result.truth is None and saved is not None and saved.truth:
        return
    try:
        write_evaluation(result, config_digest=digest)
    except OutputError as error:
        console.note(f"The figures could not be saved for the report: {error}")


def _show(result: "Evaluation") -> None:
    """Show a table of metrics (rows) by candidates (columns), and the notes."""
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
