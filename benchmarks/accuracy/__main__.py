"""`python -m benchmarks.accuracy`: run the cells that are missing, print the tables, write results and docs."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.real_data import DATA_DIR, REPOSITORY

_THREADS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENCV_FOR_THREADS_NUM", "OPENBLAS_NUM_THREADS")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if every cell that could be run was; 1 if one failed; 2 if the real volumes are not there."""
    options = _options().parse_args(arguments)
    # Before anything loads a numerical library; inherited by the processes of the cells.
    os.environ.update(dict.fromkeys(_THREADS, str(options.threads)))
    from rich.console import Console

    from benchmarks.accuracy import tables
    from benchmarks.accuracy.report import collected, write_docs
    from benchmarks.accuracy.runner import cells_of, in_own_process, run_missing
    from benchmarks.accuracy.scenes import MissingDataError

    console, progress = Console(width=options.width), Console(stderr=True)
    specs = [getattr(tables, name)(seeds=options.seeds) for name in options.tables]
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    wanted = set(options.methods or [m.name for spec in specs for m in spec.methods])
    unknown = wanted - {m.name for spec in specs for m in spec.methods}
    if unknown:
        progress.print(f"No such method: {', '.join(sorted(unknown))}.")
        return 2
    try:
        for spec in specs:
            chosen = [m for m in spec.methods if m.name in wanted]
            cells = cells_of(chosen, spec.scenes, work=work, data=options.data)
            if not options.only_table:
                run_missing(cells, jobs=options.jobs, execute=in_own_process, progress=progress.print)
    except MissingDataError as error:
        progress.print(str(error))
        return 2
    results: dict[str, Any] = {}
    made = {}
    for spec in specs:
        rows, table = collected(spec, work=work, data=options.data)
        made[spec.name] = table
        console.print(table.rich())
        for note in table.notes:
            console.print(note)
        (work / f"{spec.name}.md").write_text(table.markdown(), encoding="utf-8")
        results[spec.name] = {row.name: {"title": row.title, "cells": list(row.records)} for row in rows}
    (work / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    progress.print(f"Cells, tables and results.json are in {work}.")
    if options.docs:
        write_docs(REPOSITORY / "docs" / "accuracy.md", specs=specs, tables=made, results=results)
    failed = any(c["state"] == "failed" for t in results.values() for row in t.values() for c in row["cells"])
    return 1 if failed else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "bench", help="folder of cells and results")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA_DIR,
        help="folder of the real volumes",
    )
    parser.add_argument(
        "--tables", nargs="+", default=["comparison"], choices=["comparison", "ablation", "claims", "devices", "speed"]
    )
    parser.add_argument("--methods", nargs="*", help="names of methods to run; all without")
    parser.add_argument("--seeds", type=int, default=3, help="deformations for each warped scene")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each cell")
    parser.add_argument("--width", type=int, default=220, help="columns of the terminal's table")
    parser.add_argument("--only-table", action="store_true", help="run nothing, show what there is")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/accuracy.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
