"""`python -m benchmarks.challenge`: run every method that is installed, and write the page and its figures."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.real_data import DATA_DIR, REPOSITORY

_THREADS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENCV_FOR_THREADS_NUM", "OPENBLAS_NUM_THREADS")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if every method that is installed ran; 1 if one failed; 2 if options or data are wrong."""
    options = _options().parse_args(arguments)
    # Before anything loads a numerical library; inherited by the processes of the cells.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    from rich.console import Console

    from benchmarks.accuracy.scenes import MissingDataError
    from benchmarks.challenge.entries import SIZES, all_methods, run_methods
    from benchmarks.challenge.file_method import AdapterError
    from benchmarks.challenge.measures import figures_of
    from benchmarks.challenge.page import make_page

    say = Console(stderr=True, soft_wrap=True, highlight=False).print
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        methods = all_methods(options.adapter)
        unknown = set(options.methods or ()) - {method.name for method in methods}
        if unknown:
            say(f"No such method: {', '.join(sorted(unknown))}. There are: {', '.join(m.name for m in methods)}.")
            return 2
        size = SIZES[options.size]
        chosen = [m for m in methods if not options.methods or m.name in options.methods]
        entries = run_methods(chosen, size, work=work, data=options.data, jobs=options.jobs, progress=say)
    except (MissingDataError, AdapterError) as error:
        say(str(error))
        return 2
    (work / "challenge.html").write_text(make_page(entries, data=size.description), encoding="utf-8")
    results = {e.name: {"title": e.title, "figures": figures_of(e.records), "records": e.records} for e in entries}
    (work / "challenge.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    say(f"Leaderboard: {work / 'challenge.html'}")
    return 1 if any(record["state"] == "failed" for entry in entries for record in entry.records) else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.challenge", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / "bench" / "challenge",
        help="folder of page, figures, and what is kept",
    )
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="folder of the real volumes")
    parser.add_argument("--size", default="full", choices=["full", "small", "tiny"], help="tiny needs no real volumes")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="file of a method of your own")
    parser.add_argument("--methods", nargs="*", help="names of methods to run; all without")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
