"""`python -m benchmarks.fix`: actions of a person about one spoilt section, kind by kind, and what they repair.

A stack is aligned without a fault, and once for each kind with one section spoilt (`benchmarks.spoilt.kinds`). If the
section is not within 1.5 px (median) of where it is without the fault, the fix follows: the one that the run proposes,
for one key, or else the one that a person would draw or type. Differences are taken after one global translation.

- actions: keys and clicks on the page of `ssem-dask fix`, with the one that goes to the place and the one that applies
- CPU s: of the apply, without the start of Python
- section, others: median error of the spoilt section, and the largest one of the other sections, before → after, px

    python -m benchmarks.fix                                  # a phantom, minutes
    python -m benchmarks.fix --data vnc --sections 20 --size 576
    python -m benchmarks.fix --scenario --data vnc --size 1024 # three faults and a wrong pair of fields in one stack
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.fix.rounds import Round, Undamaged, fix_round
from benchmarks.fix.scenario import scenario_rounds
from benchmarks.spoilt.kinds import KINDS, spoil_stack
from benchmarks.spoilt.stacks import DATA, DeformedStack, deform_stack, load_stack
from tests.support.real_data import DATA_DIR

_KINDS = tuple(kind for kind in KINDS if kind != "three_bad")


def main(arguments: Sequence[str]) -> int:
    """Run the rounds and print the table."""
    options = _options().parse_args(arguments)
    stack = deform_stack(
        load_stack(options.data, sections=options.sections, size=options.size, data=options.folder), seed=options.seed
    )
    config: dict[str, Any] = {"coarse": {"search": False, "parts": False}} if options.unsearched else {}
    work = Path(tempfile.mkdtemp(prefix="fix-")) if options.work is None else options.work
    console = Console(stderr=True)
    try:
        undamaged = Undamaged.of(stack, work / "undamaged", config)
        rounds = []
        for made in _rounds(options, stack, undamaged, config, work):
            console.print(_line(made))
            rounds.append(made)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(made) for made in rounds], indent=1), encoding="utf-8")
    Console(width=options.width).print(table_of(rounds))
    return 0


def _rounds(
    options: argparse.Namespace, stack: DeformedStack, undamaged: Undamaged, config: dict[str, Any], work: Path
) -> Any:
    if options.scenario:
        yield from scenario_rounds(undamaged, folder=work / "scenario", config=config, seed=options.seed)
        return
    for kind in options.kinds:
        spoilt = spoil_stack(stack.images, kind, at=options.at, seed=options.seed, foreign=stack.foreign)
        yield fix_round(kind, spoilt, undamaged, folder=work / kind, config=config, seed=options.seed)
        if options.work is None:
            shutil.rmtree(work / kind, ignore_errors=True)


def _line(made: Round) -> str:
    how = "; ".join(said.how for said in made.said) or "nothing to say"
    return (
        f"{made.kind} ({made.named}): {how}: {made.actions} actions, {made.seconds:.1f} CPU s, "
        f"section {_change(made.section)}, others {_change(made.others)}"
    )


def table_of(rounds: Sequence[Round]) -> Table:
    """Return one row per round."""
    table = Table(title="fixes by hand")
    for column in ("kind", "named", "what is said", "actions", "CPU s", "section, px", "others, px"):
        table.add_column(column, overflow="fold")
    for made in rounds:
        how = "; ".join(said.how for said in made.said) or "–"
        cells = str(made.actions), f"{made.seconds:.1f}", _change(made.section), _change(made.others)
        table.add_row(made.kind, made.named, how, *cells)
    return table


def _change(values: tuple[float, float]) -> str:
    before, after = (f"{value:.1f}" if np.isfinite(value) else "–" for value in values)
    return f"{before} → {after}"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="phantom", choices=DATA)
    parser.add_argument("--kinds", nargs="+", default=list(_KINDS), choices=_KINDS)
    parser.add_argument("--scenario", action="store_true", help="several faults at once, fixed one round after another")
    parser.add_argument("--unsearched", action="store_true", help="let the run search for no fault by itself")
    parser.add_argument("--seed", type=int, default=501)
    parser.add_argument("--sections", type=int, default=12)
    parser.add_argument("--size", type=int, default=320, help="side of a section, px")
    parser.add_argument("--at", type=int, default=6, help="section that is spoilt")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--folder", type=Path, default=DATA_DIR, help="folder of the real volumes")
    parser.add_argument("--work", type=Path, help="folder that keeps the runs; a temporary one without")
    parser.add_argument("--width", type=int, default=150, help="columns of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
