"""How often the coarse stage finds a section again, on real neighbours that are rotated and shifted at random.

A draw takes two real sections that are k apart in a published alignment, rotates the moving one by up to ±30° and
shifts it by up to ±25 % of its side on each axis; what leaves the frame is lost. Error: median distance over the
overlap to the map that the same pair gives undrawn (searched within 2° and 3 % of the published alignment), in px of
about 5 nm. An accepted pair with an error above 10 px is a failure. Unrelated pairs are drawn the same way from
sections that have nothing to find: a mirrored neighbour, one rotated by 90°, one of another volume.

    python -m benchmarks.coarse --seed 1 --draws 200 --json coarse.json
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import Tensor

from ssem_dask.field.affine import IDENTITY, apply_affine, compose_affine, invert_affine, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.image.pooling import pool
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.types import Float64Array
from ssem_dask.units import plural
from tests.support.real_data import DATA_DIR

FAILED = 10.0
"""px of about 5 nm."""
_THUMBNAIL = 256


@dataclass(frozen=True)
class Stack:
    """Sections that are aligned already."""

    name: str
    images: np.ndarray
    """`(z, y, x)`, 40 to 50 nm between sections."""
    unit: float
    """px of about 5 nm per px."""

    def section(self, z: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.images[z]).astype(np.float32))


@dataclass(frozen=True)
class Draw:
    """One pair: what was searched and what came out."""

    stack: str
    kind: str
    z: int
    degrees: float
    ratio: float
    error: float
    """px of about 5 nm; NaN for unrelated pairs."""


@dataclass(frozen=True)
class Row:
    """All draws of one kind."""

    kind: str
    draws: int
    accepted: int
    failures: int
    ratio_min: float
    ratio_median: float
    ratio_max: float
    error_median: float
    error_max: float
    """Both of accepted pairs."""


def stacks() -> list[Stack]:
    """VNC unchanged, and every 4th plane of the FIB-SEM volume along each axis."""
    vnc = tifffile.imread(DATA_DIR / "vnc_sstem" / "images.tif")
    fibsem = tifffile.imread(DATA_DIR / "flyem_fibsem" / "images.tif")
    turned = [Stack(f"FIB-SEM axis {axis}", np.moveaxis(fibsem, axis, 0)[::4], 2.0) for axis in range(3)]
    return [Stack("VNC", vnc, 1.0), *turned]


def draw_pairs(given: list[Stack], *, kind: str, count: int, seed: int, config: CoarseConfig) -> Iterator[Draw]:
    """Draw pairs, half of them from the first stack; `kind` is `k = 1`, `k = 2`, `k = 3` or `unrelated`."""
    rng = np.random.default_rng((seed, sum(kind.encode())))
    k = int(kind[-1]) if kind.startswith("k") else 1
    for number in range(count):
        stack = given[0] if rng.random() < 0.5 else given[int(rng.integers(1, len(given)))]
        z = int(rng.integers(k, len(stack.images)))
        fixed, moving = stack.section(z), stack.section(z - k)
        if kind == "unrelated":
            moving = _unrelated(moving, given, stack=stack, z=z, way=number % 4)
        side = fixed.shape[0]
        degrees, shift = float(rng.uniform(-30, 30)), rng.uniform(-0.25, 0.25, 2) * side
        pull = rotation_about(degrees=degrees, centre=(side / 2, side / 2), shift=(shift[0], shift[1]))
        a, b = prepared(fixed, config=config), prepared(_moved(moving, pull), config=config)
        pixel = side / a.shape[0]
        found = estimate_pair(fixed=a, moving=b, pixel=pixel, start=None)
        error = float("nan")
        if kind != "unrelated":
            still = estimate_pair(fixed=a, moving=prepared(moving, config=config), pixel=pixel, start=IDENTITY)
            truth = compose_affine(outer=invert_affine(pull), inner=still.affine)
            error = stack.unit * median_distance(found.affine, truth, side=side)
        yield Draw(stack.name, kind, z, degrees, found.ratio, error)


def prepared(image: Tensor, *, config: CoarseConfig) -> CoarseSection:
    """A section's thumbnail, as the stage makes it."""
    factor = 2 ** max(0, int(np.ceil(np.log2(max(image.shape) / _THUMBNAIL))))
    thumbnail = pool(image, factor)
    return CoarseSection(thumbnail, mask=tissue_mask(thumbnail), config=config)


def median_distance(found: Float64Array, truth: Float64Array, *, side: int) -> float:
    """Median over the overlap, px."""
    positions = Grid((side // 4, side // 4), 4.0).positions()
    target = apply_affine(truth, positions)
    inside = Grid((side, side), 1.0).contains(target)
    return float(torch.linalg.vector_norm(apply_affine(found, positions) - target, dim=0)[inside].median())


def summary(draws: list[Draw], *, min_ratio: float) -> Row:
    """Count what was accepted and what of it was wrong."""
    ratio, error = np.array([d.ratio for d in draws]), np.array([d.error for d in draws])
    taken = ratio >= min_ratio
    known = error[taken & np.isfinite(error)]
    return Row(
        kind=draws[0].kind,
        draws=len(draws),
        accepted=int(taken.sum()),
        failures=int((known > FAILED).sum()),
        ratio_min=float(ratio.min()),
        ratio_median=float(np.median(ratio)),
        ratio_max=float(ratio.max()),
        error_median=float(np.median(known)) if len(known) else float("nan"),
        error_max=float(known.max()) if len(known) else float("nan"),
    )


def cpu_seconds(stack: Stack, *, sections: int, neighbours: int, config: CoarseConfig) -> float:
    """CPU seconds of all pairs of some sections from their thumbnails, in this process."""
    images = [stack.section(z) for z in range(sections)]
    start = time.process_time()
    ready = [prepared(image, config=config) for image in images]
    for z in range(sections):
        for k in range(1, min(z, neighbours) + 1):
            estimate_pair(fixed=ready[z], moving=ready[z - k], pixel=1.0, start=None)
    return time.process_time() - start


def _unrelated(moving: Tensor, given: list[Stack], *, stack: Stack, z: int, way: int) -> Tensor:
    if way < 2:
        return moving.flip(way)
    if way == 2:
        return moving.rot90()
    other = given[(given.index(stack) + 1) % len(given)]
    image = other.section(z % len(other.images))
    scale = stack.images.shape[1] / image.shape[0]
    return torch.nn.functional.interpolate(image[None, None], scale_factor=scale, mode="bilinear")[0, 0][
        : moving.shape[0], : moving.shape[1]
    ]


def _moved(image: Tensor, pull: Float64Array) -> Tensor:
    """The image seen through `pull`, 0 where that is unknown."""
    grid = Grid((image.shape[0], image.shape[1]), 1.0)
    values, mask = sample_image(image[None], grid=grid, positions=apply_affine(pull, grid.positions()), kind="bilinear")
    return values[0] * mask


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path("coarse.json"))
    arguments = parser.parse_args()
    if not (DATA_DIR / "vnc_sstem").exists():
        sys.exit(f"The real sections are not at {DATA_DIR}; set SSEM_DATA_DIR.")
    config, given = CoarseConfig(), stacks()
    out = sys.stdout.write
    out("pairs | draws | accepted | failures | ratio min, median, max | error of accepted, median, max (px)\n")
    rows, draws = [], []
    with torch.inference_mode():
        for kind in ("k = 1", "k = 2", "k = 3", "unrelated"):
            new = list(draw_pairs(given, kind=kind, count=arguments.draws, seed=arguments.seed, config=config))
            draws += new
            row = summary(new, min_ratio=config.min_ratio)
            rows.append(row)
            out(
                f"{row.kind} | {row.draws} | {row.accepted} | {row.failures} | {row.ratio_min:.2f}, "
                f"{row.ratio_median:.2f}, {row.ratio_max:.2f} | {row.error_median:.2f}, {row.error_max:.2f}\n"
            )
        seconds = cpu_seconds(given[0], sections=20, neighbours=3, config=config)
    threads = plural(torch.get_num_threads(), "thread")
    out(f"20 sections, K = 3, thumbnails of 256 px: {seconds:.1f} CPU s on {threads}\n")
    result = {"rows": [asdict(r) for r in rows], "draws": [asdict(d) for d in draws], "cpu_seconds": seconds}
    arguments.json.write_text(json.dumps({"seed": arguments.seed, **result}, indent=1))


if __name__ == "__main__":
    main()
