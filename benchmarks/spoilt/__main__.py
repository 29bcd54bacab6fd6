"""`python -m benchmarks.spoilt`: spoil one section of a real stack in 21 ways, and measure what that does.

Real sections are displaced by the default deformation of `simulate` and aligned once as they are, and once for each
kind with section 7 spoilt (`kinds`). Differences to the undamaged run are taken after one global translation.

- harm: median over the pixels of a section; the median and the largest over the sections that are sound, px.
- named: the product's own list of spoilt sections against the truth, over all kinds and seeds: precision, recall, and
  the share of right kinds; false names in undamaged stacks.
- back: median / 95th percentile over the tissue of the spoilt section, px; the worst one if several are spoilt.

`--mixed 0.05 0.1` spoils this share of the sections, each in another way; give `--data phantom --sections 200`.

    python -m benchmarks.spoilt --data vnc fibsem1 --seeds 3 --jobs 16 --json spoilt.json
    python -m benchmarks.spoilt --kinds fold_large turn180 --size 320 --methods default sift-dis
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.spoilt.aligners import METHODS
from benchmarks.spoilt.cases import MIXED, UNDAMAGED, Case, run_case
from benchmarks.spoilt.kinds import KINDS
from benchmarks.spoilt.names import naming_figures
from benchmarks.spoilt.stacks import DATA
from tests.support.real_data import DATA_DIR, REPOSITORY

FIRST_SEED = 501


def main(arguments: Sequence[str]) -> int:
    """Run all cases, print the table; exit code 1 if our own mode failed."""
    options = _options().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"))
    kinds = [f"{MIXED}{share:g}" for share in options.mixed] or options.kinds
    records, progress = [], Console(stderr=True)
    context = multiprocessing.get_context("spawn")
    # Undamaged runs first: all kinds of a stack are compared with them.
    for cases in (_cases(options, [UNDAMAGED]), _cases(options, kinds)):
        if options.jobs == 1:
            records += _shown(map(run_case, cases), progress)
            continue
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            futures = [pool.submit(run_case, case) for case in cases]
            records += _shown((future.result() for future in as_completed(futures)), progress)
    figures = naming_figures(records)
    records = [r for r in records if r["kind"] != UNDAMAGED or r["state"] != "done"]
    if options.json:
        options.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    Console(width=options.width).print(table_of(records))
    Console(width=options.width).print(figures)
    return 1 if any(r["state"] == "failed" for r in records) else 0


def _shown(records: Iterable[dict[str, Any]], progress: Console) -> list[dict[str, Any]]:
    out = []
    for record in records:
        progress.print(f"{record['data']} {record['seed']} {record['kind']}, {record['method']}: {_figures(record)}")
        out.append(record)
    return out


def _cases(options: argparse.Namespace, kinds: Sequence[str]) -> list[Case]:
    return [
        Case(
            data=data,
            seed=seed,
            kind=kind,
            method=method,
            sections=options.sections,
            size=options.size,
            corner=None if options.corner is None else tuple(options.corner),
            at=options.at,
            folder=options.folder,
            work=options.work.resolve(),
            keep=options.keep,
        )
        for data in options.data
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for kind in kinds
        for method in options.methods
    ]


def _figures(record: dict[str, Any]) -> str:
    if record["state"] != "done" or "harm" not in record:
        return str(record.get("cause", record["state"]))
    back = [f"{median:.2f}/{p95:.1f}" for median, p95 in record["back"].values()]
    return (
        f"harm {record['harm_median']:.2f}; {record['harm_largest']:.2f}, back {' '.join(back) or '–'}, "
        f"{record['seconds']:.0f} CPU s"
    )


def table_of(records: Sequence[dict[str, Any]]) -> Table:
    """One row per data, method and kind: harm and back, each the mean over the seeds and the worst of them."""
    table = Table(title="one spoilt section: px")
    for column in ("data", "method", "kind", "seeds", "harm: median; largest", "worst", "back: median / p95", "worst"):
        table.add_column(column)
    keys = dict.fromkeys((r["data"], r["method"], r["kind"]) for r in records)
    for data, method, kind in keys:
        rows = [r for r in records if (r["data"], r["method"], r["kind"]) == (data, method, kind)]
        done = [r for r in rows if r["state"] == "done"]
        if not done:
            table.add_row(data, method, kind, "0", rows[0].get("cause", rows[0]["state"]))
            continue
        harm = np.array([[r["harm_median"], r["harm_largest"]] for r in done])
        back = np.array([np.max(list(r["back"].values()), axis=0) for r in done if r["back"]])
        cells = ["{:.2f}; {:.2f}".format(*harm.mean(axis=0)), "{:.2f}; {:.2f}".format(*harm.max(axis=0))]
        if len(back):
            cells += ["{:.2f} / {:.1f}".format(*back.mean(axis=0)), "{:.2f} / {:.1f}".format(*back.max(axis=0))]
        table.add_row(data, method, kind, str(len(done)), *cells)
    return table


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spoilt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["vnc"], choices=DATA)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=["default"], choices=sorted(METHODS))
    parser.add_argument("--mixed", nargs="+", type=float, default=[], help="shares of the sections that are spoilt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--sections", type=int, default=20)
    parser.add_argument("--size", type=int, default=576, help="side of a section, px")
    parser.add_argument("--corner", nargs=2, type=int, help="first y and x in the volume; in the middle without")
    parser.add_argument("--at", type=int, default=7, help="section that is spoilt")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, each in a process of its own")
    parser.add_argument("--json", type=Path, help="file for all figures and remarks")
    parser.add_argument("--folder", type=Path, default=DATA_DIR, help="folder of the real volumes")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "bench" / "spoilt", help="folder of undamaged runs")
    parser.add_argument("--keep", action="store_true", help="keep runs and maps of the error in the folder of --work")
    parser.add_argument("--width", type=int, default=150, help="columns of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
