"""The command `evaluate`."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.options import Json, Run
from ssem_dask.errors import OutputError

if TYPE_CHECKING:
    from ssem_dask.storage.evaluation_file import Evaluation

_SHOWN = {
    "recovery_median": "known deformation that remains, median",
    "recovery_p95": "the same, 95th percentile",
    "jitter_median": "jump between adjacent sections, median",
    "jitter_p95": "the same, 95th percentile",
    "drift_max": "drift over the volume",
    "injected_jitter_median": "null test: jump put into undeformed sections",
    "dice_weighted_ratio": "overlap of labels, relative to undeformed sections",
    "cpc_64px": "similarity of adjacent sections (CPC)",
    "held_out_median": "disagreement with pairs farther apart, median",
    "fold_rate": "share of folded tissue",
}
"""Metrics that are shown without --all, with their names for a reader."""
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
    show_all: Annotated[
        bool, typer.Option("--all", help="Show all metrics, by the names that --json has, and what they mean.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure jitter, drift, similarity, label overlap and folds of a run: observed, coarse and aligned.

    The last line is the verdict: whether the alignment is good, or why nothing can be said.
    """
    from ssem_dask.evaluation.protocol import evaluate as evaluate_run

    with console.progress_bar("evaluate", total=None) as bar:
        result = evaluate_run(
            output,
            truth=truth,
            labels=labels,
            undeformed_run=undeformed,
            fields=fields or (),
            progress=lambda done, of: bar.update(bar.task_ids[0], completed=done, total=of),
        )
    save_evaluation(result)
    if as_json:
        console.show_json(result.to_json())
        return
    _show(result, is_whole=show_all)


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


def _show(result: "Evaluation", *, is_whole: bool) -> None:
    """Show a table of metrics (rows) by candidates (columns), the notes and the verdict.

    Args:
        result: what was measured.
        is_whole: show all metrics, with a legend.
    """
    names = [row.name for row in result.rows]
    metrics = {metric.name: metric for metric in result.metrics}
    rows, legend = [], []
    for name in metrics if is_whole else (name for name in _SHOWN if name in metrics):
        metric = metrics[name]
        values = [row.values.get(name, math.nan) for row in result.rows]
        shown = ["-" if math.isnan(value) else f"{value:.3g}" for value in values]
        good = "means little here" if name in result.in_doubt else _GOOD[metric.better]
        rows.append([name if is_whole else _SHOWN[name], *shown, metric.unit, good])
        legend.append(f"{name}: {metric.meaning}")
    console.table(f"{result.run}: {result.sections} sections", columns=["", *names, "unit", "good is"], rows=rows)
    for line in (*(legend if is_whole else ()), *result.notes):
        console.note(line)
    console.line(result.verdict)
    if not is_whole:
        console.note("All metrics: --all, or --json.")
