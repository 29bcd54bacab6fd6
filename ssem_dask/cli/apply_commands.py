"""Commands that use an alignment: warp another volume, map points."""

import csv
import io
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import observed_executor
from ssem_dask.cli.options import Cluster, Json, Run, Workers
from ssem_dask.cli.summary_display import show_summary
from ssem_dask.errors import SourceError

if TYPE_CHECKING:
    from ssem_dask.types import Float64Array

_AXES = ("z", "y", "x")


class Direction(StrEnum):
    """Frames that points can be mapped to."""

    ALIGNED = "aligned"
    SOURCE = "source"


def warp(
    output: Run,
    volume: Annotated[
        str, typer.Argument(help="Volume to warp, in the frame of the run's source: Zarr, at a path or any fsspec URL.")
    ],
    destination: Annotated[str, typer.Argument(help="OME-Zarr image to write; resumed if it holds this very warp.")],
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="The values are segmentation ids: take the nearest pixel and, in the pyramid, the most frequent id.",
        ),
    ] = False,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size",
            help="Pixel size of VOLUME in y and x, nm, if it is not the source's; overrides its metadata.",
            show_default=False,
        ),
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Apply an alignment to another image (all its channels) or a segmentation of the same sections.

    Its pixels may be larger or smaller than those of the run's source, as in a segmentation at half resolution.

    Safe to interrupt: run the same command again to resume.
    """
    from ssem_dask.volumes.warping import plan_warp, run_warp

    plan = plan_warp(output, volume, destination, labels=labels, pixel_size=pixel_size)
    with observed_executor(cluster, workers=workers, as_json=as_json, work=plan.work()) as (executor, observer):
        summary = run_warp(plan, executor=executor, observer=observer)
    show_summary(summary, as_json=as_json)


def points(
    output: Run,
    file: Annotated[str, typer.Argument(help="CSV file with columns z, y, x (others are kept), or - for stdin.")],
    to: Annotated[
        Direction,
        typer.Option("--to", help="aligned: map points of the source to the aligned volume; source: the reverse."),
    ] = Direction.ALIGNED,
    as_json: Json = False,
) -> None:
    """Map points between the source and the aligned volume; writes CSV to stdout.

    z is the index of a section; y and x are mip-0 px, and the centre of pixel i is at i + 0.5. A point that the
    alignment does not cover becomes nan.
    """
    from ssem_dask.volumes.alignment import open_alignment

    alignment = open_alignment(output)
    columns, rows = _read_csv(file)
    positions = _parse_positions(file, columns=columns, rows=rows, sections=alignment.shape[0])
    mapped = alignment.map_points(positions, to=to.value)
    if as_json:
        keys = [row[columns.index("z")] for row in rows]
        records = [
            {"z": int(float(z)), "y": _finite_or_none(y), "x": _finite_or_none(x)}
            for z, (y, x) in zip(keys, mapped[:, 1:].tolist(), strict=True)
        ]
        console.show_json({"alignment": output, "to": to.value, "points": records})
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row, (_, y, x) in zip(rows, mapped.tolist(), strict=True):
        row[columns.index("y")], row[columns.index("x")] = f"{y:.4f}", f"{x:.4f}"
        writer.writerow(row)


def _read_csv(file: str) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the rows below them."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Points {file}: cannot be read ({error}); give a CSV file.") from error
    rows = list(csv.reader(io.StringIO(text.rstrip())))
    columns = [name.strip() for name in rows[0]] if rows else []
    missing = [axis for axis in _AXES if axis not in columns]
    if missing:
        raise SourceError(
            f"Points {file}: the first line has {', '.join(columns) or 'nothing'}, but columns z, y, x are needed; "
            f"add {', '.join(missing)}."
        )
    return columns, rows[1:]


def _parse_positions(file: str, *, columns: list[str], rows: list[list[str]], sections: int) -> "Float64Array":
    """Return the positions (n, 3) in the order z, y, x; SourceError if a row has none or its section does not exist."""
    import numpy as np

    indices = [columns.index(axis) for axis in _AXES]
    positions = np.empty((len(rows), 3))
    for i, row in enumerate(rows):
        try:
            positions[i] = [float(row[index]) for index in indices]
        except (ValueError, IndexError) as error:
            raise SourceError(
                f"Points {file}: line {i + 2} is {','.join(row)!r}, but z, y and x must be numbers; fix that line."
            ) from error
        if not (positions[i, 0].is_integer() and 0 <= positions[i, 0] < sections):
            raise SourceError(
                f"Points {file}: line {i + 2} has z = {row[indices[0]]}, but the sections are 0 … {sections - 1}; "
                "give the index of a section."
            )
    return positions


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
