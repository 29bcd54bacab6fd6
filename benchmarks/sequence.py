"""Jitter, drift and label overlap against the number of sections, with a plot of drift against z.

Scenes: the phantom with obliquely running neurites, elastically deformed (presets `smooth` and `rough`), of any length,
and the FIB-SEM cube along its three axes (62 planes 40 nm apart, magnified to 5 nm, the default deformation), where it
is there. Each is aligned by our modes; the same run on the undeformed sections is the null test.

- J: rms of the jitter, divided by √2. drift: its maximum; without the linear trend along z; its log–log slope against
  the distance from the middle section, beyond 50 sections (0 is bounded).
- Dice back: of the size-weighted Dice of adjacent sections that the deformation took, the share that came back.
- NCC: of adjacent sections, relative to the undeformed ones; above 1.03 neighbours match better than tissue does.
- cost of damage (`--damage`): jitter between adjacent sections that are both sound, mean over such pairs of the median,
  against that of the same pairs in the run of the same seed without damage.

    python -m benchmarks.sequence --sections 20 200 1000 --seeds 3 --jobs 2 --json sequence.json --plot drift.png
    python -m benchmarks.sequence --sections 64 --size 224 --modes default --damage 5% 10% missing --phantom-only
"""

import argparse
import itertools
import json
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import interpolate

import ssem_dask
from ssem_dask.evaluation.candidates import EvaluatedRun
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.geometric import alignment_error
from ssem_dask.evaluation.metrics.drift import DriftMeter
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.protocol import evaluate
from ssem_dask.evaluation.simulate import simulate, simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.evaluation.truth import Truth
from ssem_dask.volumes.importing import import_volume
from tests.support.real_data import DATA_DIR

FIRST_SEED = 301
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "chain": {"compose": {"method": "chain"}, "coarse": {"sections": "match"}},
    "matched": {
        "compose": {"method": "relax", "relax": {"natural_motion": "remove"}},
        "coarse": {"sections": "match"},
    },
}
UNDAMAGED = "none"
DAMAGES = (UNDAMAGED, "5%", "10%", "missing")
"""Shares of damaged sections, of the usual kinds; `missing`: two in a row are lost, at a third and at two thirds."""
COLOURS = {"default": ("#0072b2", "#e69f00"), "chain": ("#d55e00", "#cc79a7"), "matched": ("#009e73", "#000000")}
"""Values per mode: smooth, rough."""
_LINEAR = 20.0
"""px of drift up to which a plot's axis is linear; logarithmic beyond, where there are modes that drift."""
_FAR = 50
_LABELS = "dice_weighted"
_COLUMNS = {
    "jitter": "jitter, px",
    "J": "J, px",
    "drift": "drift, px",
    "drift_no_trend": "without trend",
    "slope": "slope",
    "injected_jitter": "null: jitter",
    "injected_drift": "null: drift",
    "dice_back": "Dice back",
    "ncc_ratio": "NCC",
    "sound": "sound pairs, px",
    "cost": "cost of damage",
    "minutes": "CPU min",
}


@dataclass(frozen=True)
class Case:
    """One sequence, to be aligned by one mode."""

    kind: str
    """`phantom smooth`, `phantom rough` or `FIB-SEM axis N`."""
    sections: int
    size: int
    """Side of a section, px."""
    seed: int
    mode: str
    null: bool
    """Whether the undeformed sections are aligned too."""
    damage: str = UNDAMAGED
    """One of `DAMAGES`."""


def run_case(case: Case) -> dict[str, Any]:
    """Make, align and measure one sequence; drift(z) is in the record."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="sequence-"))
    begun = time.process_time()
    try:
        observed, still = _sequence(case, folder)
        begun = time.process_time()
        out = _aligned(observed, folder / "out.zarr", case.mode)
        minutes = (time.process_time() - begun) / 60
        reference = _aligned(still, folder / "null.zarr", case.mode) if case.null else None
        found = evaluate(out, truth=observed, undeformed_run=reference)
        lengths, jumps, damaged = _errors(out, observed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    def value(name: str, candidate: str = "aligned") -> float:
        rows = {row.name: row.values for row in found.rows}
        return float(rows.get(candidate, {}).get(name, math.nan))

    lost = value(_LABELS, "undeformed") - value(_LABELS, "observed")
    return {
        "kind": case.kind,
        "sections": case.sections,
        "size": case.size,
        "mode": case.mode,
        "seed": case.seed,
        "jitter": value("jitter_median"),
        "J": value("jitter_rms"),
        "drift": value("drift_max"),
        "drift_no_trend": value("drift_trend_removed"),
        "slope": slope_beyond(lengths, _FAR),
        "injected_jitter": value("injected_jitter_median"),
        "injected_drift": value("injected_drift_max"),
        "dice_back": (value(_LABELS) - value(_LABELS, "observed")) / lost,
        "ncc_ratio": value("ncc") / value("ncc", "undeformed"),
        "minutes": minutes,
        "damage": case.damage,
        "damaged": damaged,
        "drift_of_z": [round(v, 3) for v in lengths],
        "jump_of_z": [round(v, 4) for v in jumps],
    }


def slope_beyond(lengths: Sequence[float], distance: int) -> float:
    """Log–log slope of drift against the distance from the middle section, from `distance` on.

    Distances are averaged over both sides and in ten logarithmic bins, so that the many far ones do not decide alone;
    NaN with fewer than 4 times as many sections.
    """
    count = len(lengths)
    if count < 4 * distance:
        return math.nan
    middle = count // 2
    away = np.abs(np.arange(count) - middle)
    edges = np.geomspace(distance, away.max() + 1, 11)
    at, mean = [], []
    for low, high in itertools.pairwise(edges):
        inside = (away >= low) & (away < high)
        if inside.any():
            at.append(float(np.log(away[inside]).mean()))
            mean.append(float(np.log(np.asarray(lengths)[inside].mean())))
    return float(np.polyfit(at, mean, 1)[0])


def _sequence(case: Case, folder: Path) -> tuple[str, str]:
    """URLs of the deformed sections and of the undeformed ones (empty where they are not wanted)."""
    observed, still = str(folder / "observed.zarr"), str(folder / "still.zarr")
    broken, whole = _damage_of(case), DeformationConfig.preset("none")
    if case.kind.startswith("phantom"):
        config = PhantomConfig(seed=case.seed, shape=(case.sections, case.size, case.size))
        preset = DeformationConfig.preset("smooth" if case.kind.endswith("smooth") else "rough")
        simulate_phantom(config, observed, seed=case.seed, deformation=preset, damage=broken)
        if case.null:
            simulate_phantom(config, still, seed=case.seed, deformation=whole, damage=DamageConfig())
        return observed, still
    planes, labels = (_planes(name, case) for name in ("images", "labels"))
    for values, name in ((planes, "still"), (labels, "labels")):
        tifffile.imwrite(folder / f"{name}.tif", values, photometric="minisblack")
        import_volume(
            str(folder / f"{name}.tif"),
            str(folder / f"{name}.zarr"),
            pixel_size=5.0,
            section_thickness=40.0,
            labels=name == "labels",
        )
    simulate(
        still,
        observed,
        seed=case.seed,
        deformation=DeformationConfig(),
        damage=broken,
        labels=str(folder / "labels.zarr"),
    )
    return observed, still


def _planes(name: str, case: Case) -> np.ndarray:
    """Planes 40 nm apart along an axis of the cube, twice as large, the middle of them."""
    cube = np.moveaxis(tifffile.imread(DATA_DIR / "flyem_fibsem" / f"{name}.tif"), int(case.kind[-1]), 0)
    values = torch.from_numpy(np.ascontiguousarray(cube[::4][: case.sections]).astype(np.float32))[:, None]
    if name == "images":
        large = interpolate(values, scale_factor=2, mode="bicubic", align_corners=False).round().clamp(0, 255)
    else:
        large = interpolate(values, scale_factor=2, mode="nearest")
    first = (large.shape[-1] - case.size) // 2
    cut = large[:, 0, first : first + case.size, first : first + case.size].numpy()
    return cut.astype(np.uint8 if name == "images" else np.uint32)


def _aligned(source: str, output: Path, mode: str) -> str:
    summary = ssem_dask.align(source, str(output), cluster="serial", **MODES[mode])
    if summary.state != "complete":
        raise RuntimeError(f"{mode}: {summary.failed[0].message}")
    return str(output)


def _damage_of(case: Case) -> DamageConfig:
    if case.damage == "missing":
        return DamageConfig(missing=tuple(case.sections * part // 3 + i for part in (1, 2) for i in (0, 1)))
    if case.damage == UNDAMAGED:
        return DamageConfig()
    return DamageConfig(fraction=float(case.damage.rstrip("%")) / 100)


def _errors(run_url: str, observed: str) -> tuple[tuple[float, ...], list[float], list[int]]:
    """Return, per section, drift and the median jump of the error from the one before it; the damaged sections."""
    truth, meter = Truth.open(observed), DriftMeter()
    aligned = next(c for c in EvaluatedRun.open(run_url).candidates() if c.name == "aligned")
    jumps, before = [], None
    for z in range(truth.shape[0]):
        if z in truth.missing:
            jumps.append(math.nan)
            before = None
            continue
        error = alignment_error(aligned, truth=truth, z=z)
        meter.add(z, error)
        jumps.append(math.nan if before is None else float((error - before).norm(dim=0).nanmedian()))
        before = error
    return meter.result().lengths, jumps, sorted(truth.damaged)


def with_cost_of_damage(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with `sound` and `cost`: jitter between sound sections, and by what share damage elsewhere raised it."""

    def sequence_of(r: dict[str, Any]) -> tuple[Any, ...]:
        return r["kind"], r["sections"], r.get("size"), r["mode"], r["seed"]

    undamaged = {sequence_of(r): r for r in records if r.get("damage", UNDAMAGED) == UNDAMAGED}
    out = []
    for r in records:
        same = undamaged.get(sequence_of(r))
        jumps = np.asarray(r.get("jump_of_z", []), dtype=np.float64)
        broken = set(r.get("damaged", []))
        pairs = [z for z in range(1, len(jumps)) if not {z, z - 1} & broken]
        sound = float(jumps[pairs].mean()) if pairs else math.nan
        cost = math.nan
        if same is not None and same is not r and pairs:
            cost = sound / float(np.asarray(same["jump_of_z"])[pairs].mean()) - 1.0
        out.append({**r, "sound": sound, "cost": cost})
    return out


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Return the requested cells, the longest first."""
    damages = dict.fromkeys((UNDAMAGED, *options.damage))
    for count in sorted(options.sections, reverse=True):
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            for mode in options.modes:
                for preset in ("smooth", "rough"):
                    for damage in damages:
                        null = preset == "smooth" and count <= options.null_up_to and damage == UNDAMAGED
                        yield Case(f"phantom {preset}", count, options.size, seed, mode, null=null, damage=damage)
    if not options.phantom_only and (DATA_DIR / "flyem_fibsem").exists():
        for axis in range(3):
            for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
                for mode in options.modes:
                    for count, damage in itertools.product((16, 62), damages):
                        null = seed == FIRST_SEED and damage == UNDAMAGED
                        yield Case(f"FIB-SEM axis {axis}", count, 448, seed, mode, null=null, damage=damage)


def table_of(records: Sequence[dict[str, Any]]) -> Table:
    """Mean ± standard deviation over the seeds."""
    table = Table("sequence", "sections", "px", "mode", "damage", *_COLUMNS.values())
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in with_cost_of_damage(records):
        size, damage = f"{r.get('size', '')}", r.get("damage", UNDAMAGED)
        key: tuple[str, ...] = r["kind"], f"{r['sections']:5d}", size, r["mode"], damage
        rows.setdefault(key, []).append(r)
    for key, same in sorted(rows.items()):
        table.add_row(*key, *(_told([r[name] for r in same]) for name in _COLUMNS))
    return table


def _told(values: Sequence[float]) -> str:
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else ""
    return f"{np.mean(known):.2f}{spread}"


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Drift against the distance from the middle section: mean and extremes of the seeds.

    Of the phantom's longest sequences without damage, the widest of them; no picture where there is none.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    sound = [r for r in records if r["kind"].startswith("phantom") and r.get("damage", UNDAMAGED) == UNDAMAGED]
    if not sound:
        return
    longest, size = max((r["sections"], r.get("size", 0)) for r in sound)
    lines: dict[tuple[str, str], list[list[float]]] = {}
    for r in sound:
        if (r["sections"], r.get("size", 0)) == (longest, size):
            lines.setdefault((r["mode"], r["kind"].split()[1]), []).append(r["drift_of_z"])
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    z = np.arange(longest) - longest // 2
    for (mode, preset), drifts in sorted(lines.items()):
        colour = COLOURS[mode][preset == "rough"]
        axes.fill_between(z, np.min(drifts, axis=0), np.max(drifts, axis=0), color=colour, alpha=0.25, lw=0)
        axes.plot(z, np.mean(drifts, axis=0), color=colour, lw=1, label=f"{mode}, {preset}")
    axes.set(xlabel="section, from the middle one", ylabel="drift, px", xlim=(z[0], z[-1]))
    if max(np.max(drifts) for drifts in lines.values()) > _LINEAR:
        axes.set_yscale("symlog", linthresh=_LINEAR)
    axes.set_ylim(0, None)
    axes.legend(frameon=False, ncols=min(3, len(lines)), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> int:
    """Run what is asked for; print the table, write JSON and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequence", description=__doc__)
    parser.add_argument("--sections", type=int, nargs="+", default=[20, 200, 1000])
    parser.add_argument("--size", type=int, default=256, help="side of the phantom's sections, px")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--null-up-to", type=int, default=200, help="longest phantom that the null test is run on")
    parser.add_argument("--damage", nargs="*", default=[], choices=list(DAMAGES), help="besides undamaged sequences")
    parser.add_argument("--phantom-only", action="store_true", help="leave the FIB-SEM cube out")
    parser.add_argument("--jobs", type=int, default=1, help="sequences at a time")
    parser.add_argument("--json", type=Path, default=Path("sequence.json"))
    parser.add_argument("--plot", type=Path, default=Path("sequence.png"))
    options = parser.parse_args()
    wanted, records = list(cases(options)), []
    console = Console(width=200)
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for record in pool.imap_unordered(run_case, wanted):
            records.append(record)
            options.json.write_text(json.dumps(records))
            console.print(
                f"{record['kind']}, {record['sections']}, {record['mode']}, {record['damage']}, seed {record['seed']}: "
                f"jitter {record['jitter']:.2f}, drift {record['drift']:.1f} px ({len(records)} of {len(wanted)})"
            )
    console.print(table_of(records))
    plot(records, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
