"""Commands that use an alignment: warp another volume, carry points."""

import csv
import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import open_executor
from ssem_dask.cli.progress_display import observer_for
from ssem_dask.cli.run_commands import Cluster, Json, Workers, tell
from ssem_dask.errors import SourceError
from ssem_dask.types import Float64Array
from ssem_dask.volumes.alignment import Alignment, open_alignment
from ssem_dask.volumes.warping import plan_warp, run_warp

_AXES = ("z", "y", "x")


class Direction(StrEnum):
    """Where points are carried to."""

    ALIGNED = "aligned"
    SOURCE = "source"


def warp(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    volume: Annotated[str, typer.Argument(help="Volume in the source's frame: Zarr, any fsspec URL.")],
    destination: Annotated[str, typer.Argument(help="OME-Zarr image to write.")],
    labels: Annotated[bool, typer.Option("--labels", help="The values are ids of a segmentation.")] = False,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Apply an alignment to another channel or a segmentation of the same sections.

    Interrupt it whenever you like; the same command goes on where it was.
    """
    plan = plan_warp(output, volume, destination, labels=labels)
    executor = open_executor(cluster, workers=workers)
    try:
        with observer_for(executor, as_json=as_json) as observer:
            summary = run_warp(plan, executor=executor, observer=observer)
    finally:
        executor.close()
    tell(summary, as_json=as_json)


def points(
    output: Annotated[str, typer.Argument(help="The run: OUT.zarr.")],
    file: Annotated[str, typer.Argument(help="CSV with columns z, y, x (others are kept), or - for stdin.")],
    to: Annotated[
        Direction, typer.Option("--to", help="aligned: the points lie in the source; source: the other way round.")
    ] = Direction.ALIGNED,
    as_json: Json = False,
) -> None:
    """Carry points between the source and the aligned volume; writes CSV.

    z is the section's index; y and x are mip-0 px, the centre of pixel i at i + 0.5. Where the alignment knows nothing
    the result is nan.
    """
    alignment = open_alignment(output)
    columns, rows = _read(file)
    places = _places(file, columns, rows, alignment)
    mapped = alignment.map_points(places, to=to.value)
    if as_json:
        keys = [row[columns.index("z")] for row in rows]
        shown = [
            {"z": int(float(z)), "y": _or_none(y), "x": _or_none(x)}
            for z, (y, x) in zip(keys, mapped[:, 1:].tolist(), strict=True)
        ]
        console.show_json({"alignment": output, "to": to.value, "points": shown})
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row, (_, y, x) in zip(rows, mapped.tolist(), strict=True):
        row[columns.index("y")], row[columns.index("x")] = f"{y:.4f}", f"{x:.4f}"
        writer.writerow(row)


def _read(file: str) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows below them."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Points {file}: cannot be read ({error}); give a CSV file.") from error
    rows = list(csv.reader(io.StringIO(text.rstrip())))
    columns = [name.strip() for name in rows[0]] if rows else []
    missing = [axis for axis in _AXES if axis not in columns]
    if missing:
        raise SourceError(
            f"Points {file}: the first line names {', '.join(columns) or 'nothing'}, but columns z, y, x are needed; "
            f"add {', '.join(missing)}."
        )
    return columns, rows[1:]


def _places(file: str, columns: list[str], rows: list[list[str]], alignment: Alignment) -> Float64Array:
    at = [columns.index(axis) for axis in _AXES]
    out = np.empty((len(rows), 3))
    for i, row in enumerate(rows):
        try:
            out[i] = [float(row[column]) for column in at]
        except (ValueError, IndexError) as error:
            raise SourceError(
                f"Points {file}: line {i + 2} is {','.join(row)!r}, but z, y and x must be numbers; mend it."
            ) from error
        if not (out[i, 0].is_integer() and 0 <= out[i, 0] < alignment.shape[0]):
            raise SourceError(
                f"Points {file}: line {i + 2} has z = {row[at[0]]}, but the sections are 0 … {alignment.shape[0] - 1}; "
                "give the section's index."
            )
    return out


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
