"""Gain of jumps, landmarks and far pairs, on synthetic volumes of affine sections with known truth.

    python -m benchmarks.pinning --sections 40 --seeds 3

The volumes are those of `tests.support.affine_volumes`; largest error along z, px, mean of the seeds.
"""

import argparse
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from ssem_dask.composition.separation.anchor_observations import Anchors
from tests.support.affine_volumes import affine_volume, far_pairs, landmarks, slow_drift, wander

FIRST_SEED = 301
JUMPS: dict[str, list[float] | None] = {
    "none": None,
    "shift (7, 0) px": [7.0, 0, 0, 0, 0, 0],
    "shift (40, -20) px": [40.0, -20.0, 0, 0, 0, 0],
    "rotation, 30 px rms": [0, 0, 30.0, 0, 0, 0],
    "scale, 6 px rms": [0, 0, 0, 6.0, 0, 0],
    "re-mounted: shift (300, -20), rotation 50, scale 8": [300.0, -20.0, 50.0, 8.0, 0, 0],
}


def slow_table(count: int, seeds: range) -> Table:
    """Slow distortion, and none, without and with what pins it."""
    table = Table("slow distortion", "pinned by", "shift y", "shift x", "rotation", "scale", "jitter, rms")
    for told, size in (("none", 0.0), ("60, 36 px shift, 20 px rotation, 15 px scale", 1.0)):
        rows: dict[str, list[np.ndarray]] = {}
        for seed in seeds:
            made = affine_volume(seed, count=count, slow=size * slow_drift(count))
            rng = np.random.default_rng(seed)
            points, far = landmarks(made, rng, count=count, wrong=1), far_pairs(made, rng, count=count)
            for name, anchors in (
                ("nothing", None),
                ("landmarks", Anchors(points, None, use_reference_frame=False)),
                ("far pairs", Anchors(None, far, use_reference_frame=False)),
                ("both", Anchors(points, far, use_reference_frame=False)),
            ):
                left = made.errors(made.separated(anchors=anchors))
                jitter = np.sqrt((np.diff(left, axis=0) ** 2).sum(axis=1).mean())
                rows.setdefault(name, []).append(np.append(wander(left), jitter))
        for name, found in rows.items():
            table.add_row(
                told, name, *(f"{v:.1f}" for v in np.mean(found, axis=0)[:4]), f"{np.mean(found, axis=0)[4]:.2f}"
            )
    return table


def jump_table(count: int, seeds: range) -> Table:
    """Jumps, left in and undone."""
    table = Table(f"jump before {count // 3} of {count}", "found", "found elsewhere", "left in, px", "undone, px")
    for name, jump in JUMPS.items():
        found, elsewhere = 0, 0
        left: list[float] = []
        undone: list[float] = []
        for seed in seeds:
            made = affine_volume(seed, count=count, jumps=None if jump is None else {count // 3: jump})
            kept, undone_volume = made.separated(undo_jumps=False), made.separated()
            places = [jump.z for jump in undone_volume.jumps]
            found += jump is not None and count // 3 in places
            elsewhere += len([z for z in places if jump is None or z != count // 3])
            for gathered, solution in ((left, kept), (undone, undone_volume)):
                gathered.append(np.linalg.norm(made.errors(solution), axis=1).max())
        table.add_row(
            name, f"{found} of {len(seeds)}", str(elsewhere), f"{np.mean(left):.1f}", f"{np.mean(undone):.1f}"
        )
    return table


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pinning", description=__doc__)
    parser.add_argument("--sections", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    seeds, console = range(FIRST_SEED, FIRST_SEED + options.seeds), Console(width=160)
    console.print(jump_table(options.sections, seeds))
    if options.sections > 32:
        console.print(slow_table(options.sections, seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
