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
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.digest import digest_of_sources
from benchmarks.accuracy.methods import NotInstalledError, SectionFields
from benchmarks.spoilt.aligners import METHODS, align_images
from benchmarks.spoilt.kinds import KINDS, SpoiltStack, spoil_sections, spoil_stack
from benchmarks.spoilt.measure import measure, truth_maps
from benchmarks.spoilt.names import names_of, naming_figures
from benchmarks.spoilt.stacks import DATA, DeformedStack, deform_stack, load_stack
from tests.support.real_data import DATA_DIR, REPOSITORY

FIRST_SEED = 501
UNDAMAGED = "undamaged"
_MIXED = "mixed "
_DECIDING = (
    "composition",
    "config",
    "diagnosis",
    "driver",
    "field",
    "geometry",
    "image",
    "registration",
    "stages",
    "storage",
)
"""Folders of the package that decide the fields and the names."""


@dataclass(frozen=True)
class Case:
    """One stack, spoilt in one way, for one method."""

    data: str
    seed: int
    kind: str
    """One of `KINDS`, `undamaged`, or `mixed` and a share of the sections."""
    method: str
    sections: int
    size: int
    corner: tuple[int, int] | None
    at: int
    folder: Path
    work: Path
    keep: bool
    """Whether the run and the maps of the error are kept in `work`."""

    @property
    def name(self) -> str:
        """Unique name among the cases of one call."""
        return f"{self.data}-{self.seed}-{self.kind.replace(' ', '-')}-{self.method}"

    def stack(self) -> DeformedStack:
        """Make the observed sections."""
        made = load_stack(self.data, sections=self.sections, size=self.size, data=self.folder, corner=self.corner)
        return deform_stack(made, seed=self.seed)

    def spoil(self, stack: DeformedStack) -> SpoiltStack:
        """Spoil them."""
        if self.kind == UNDAMAGED:
            return SpoiltStack(stack.images, {}, {})
        if not self.kind.startswith(_MIXED):
            return spoil_stack(stack.images, self.kind, at=self.at, seed=self.seed, foreign=stack.foreign)
        rng, count = np.random.default_rng([self.seed, 7]), len(stack.images)
        many = round(float(self.kind.removeprefix(_MIXED)) * count)
        single = [kind for kind in KINDS if kind not in ("swapped", "three_bad")]
        places = rng.choice(np.arange(1, count - 1), size=many, replace=False)
        wanted = {int(z): str(single[i]) for z, i in zip(places, rng.permutation(many) % len(single), strict=True)}
        return spoil_sections(stack.images, wanted, seed=self.seed, foreign=stack.foreign)


def run_case(case: Case) -> dict[str, Any]:
    """Align and measure a case; what goes wrong in a method is its state."""
    import torch

    torch.set_num_threads(1)
    record: dict[str, Any] = {"data": case.data, "seed": case.seed, "kind": case.kind, "method": case.method}
    try:
        stack = case.stack()
        reference = _undamaged(case, stack)
        if case.kind == UNDAMAGED:
            notes = list(reference.notes)
            return record | {"state": "done", "spoilt": {}, "named": names_of(notes), "notes": notes}
        spoilt = case.spoil(stack)
        begun = time.process_time()
        found = align_images(
            METHODS[case.method],
            spoilt.images,
            pixel_size=stack.pixel_size,
            section_thickness=stack.section_thickness,
            keep=case.work / case.name if case.keep else None,
        )
        seconds = time.process_time() - begun
        sound = truth_maps(reference, stack, {})
        made = measure(truth_maps(found, stack, spoilt.sources), sound, spoilt)
    except NotInstalledError as error:
        return record | {"state": "not installed", "cause": str(error)}
    except Exception as error:  # noqa: BLE001  whatever it raises, the table says so
        return record | {"state": "failed", "cause": f"{type(error).__name__}: {error}"}
    if case.keep:
        np.savez(case.work / case.name / "error.npz", np.stack([made.maps[z] for z in sorted(made.maps)]))
    return record | {
        "state": "done",
        "seconds": seconds,
        "spoilt": {str(z): kind for z, kind in spoilt.spoilt.items()},
        "harm": {str(z): value for z, value in made.harm.items()},
        "harm_median": made.harm_median,
        "harm_largest": made.harm_largest,
        "back": {str(z): list(value) for z, value in made.back.items()},
        "named": names_of(found.notes),
        "notes": list(found.notes),
    }


def _undamaged(case: Case, stack: DeformedStack) -> SectionFields:
    """Return the fields of the undamaged stack, from the cache if the same code has found them."""
    settings = [METHODS[case.method].settings(), case.sections, case.size, case.corner]
    of_code = digest_of_sources(*_DECIDING) if case.method == "default" else ""
    of_pixels = hashlib.sha256(stack.images.tobytes()).hexdigest()
    digest = hashlib.sha256(json.dumps([of_code, of_pixels, settings]).encode()).hexdigest()[:16]
    path = case.work / "undamaged" / f"{case.data}-{case.seed}-{case.method}-{digest}.npz"
    if path.exists():
        return SectionFields.load(path)
    found = align_images(
        METHODS[case.method], stack.images, pixel_size=stack.pixel_size, section_thickness=stack.section_thickness
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    found.save(part)
    part.replace(path)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run all cases, print the table; exit code 1 if our own mode failed."""
    options = _options().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"))
    kinds = [f"{_MIXED}{share:g}" for share in options.mixed] or options.kinds
    records, progress = [], Console(stderr=True)
    context = multiprocessing.get_context("spawn")
    # Undamaged runs first: all kinds of a stack are compared with them.
    for cases in (_cases(options, [UNDAMAGED]), _cases(options, kinds)):
        if options.jobs == 1:
            results: Iterator[dict[str, Any]] = map(run_case, cases)
            records += _told(results, progress)
            continue
        with context.Pool(options.jobs) as pool:
            records += _told(pool.imap_unordered(run_case, cases), progress)
    figures = naming_figures(records)
    records = [r for r in records if r["kind"] != UNDAMAGED or r["state"] != "done"]
    if options.json:
        options.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    Console(width=options.width).print(table_of(records))
    Console(width=options.width).print(figures)
    return 1 if any(r["state"] == "failed" for r in records) else 0


def _told(records: Iterator[dict[str, Any]], progress: Console) -> list[dict[str, Any]]:
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
