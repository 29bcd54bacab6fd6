"""`python -m benchmarks.contrast`: how much of a simulated change of contrast `[render] contrast = "match"` takes back.

Real sections are displaced by the default deformation of `simulate`; then their contrast is changed by a known amount.
Scenes:

- `none`: no change, so every correction is one too many.
- `third`: a third of the sections with gain, offset and gamma as `simulate` draws them for damage of kind `contrast`.
- `all`: every section with a gain (15 %), an offset (8 grey values), a gamma (15 %) and a shading across it (10 %).
- `slow`: gain and level change slowly from the first section to the last.
- `spoilt`: one section is black and one shows another place; corrections of the others are compared with `none`.

Gain and level of a section are those of the regression of its pixels on the pixels before the change. Figures: rms over
the sections, and of the step from a section to the next, before → after.

    python -m benchmarks.contrast --data vnc fibsem1 --seeds 3 --size 512
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.spoilt.stacks import DATA, deform_stack, load_stack
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import open_run, plan
from ssem_dask.evaluation.stains import draw_contrast_change
from ssem_dask.geometry.box import Box
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.contrast_table import ContrastTable, read_contrast
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.types import AnyArray, Float64Array
from tests.support.real_data import DATA_DIR

SCENES = ("none", "third", "all", "slow", "spoilt")
FIRST_SEED = 701
BLACK, FOREIGN = 7, 12
_RANGE = 255.0
_NO_TISSUE = 0.5
"""Grey value below which a pixel shows nothing."""


def change_contrast(images: Float64Array, scene: str, *, seed: int) -> Float64Array:
    """Return sections (z, y, x) of changed contrast; pixels without tissue stay 0."""
    generator = np.random.default_rng([seed, 9])
    count, height, width = images.shape
    out = images / _RANGE
    if scene == "third":
        for z in generator.permutation(count)[: round(count / 3)]:
            change = draw_contrast_change(generator=generator)
            out[z] = change.paint(torch.from_numpy(out[z]), positions=torch.zeros(2))[0].numpy()
    elif scene == "all":
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        for z in range(count):
            gain, gamma = np.exp(generator.normal(0, 0.15, 2))
            offset, angle = generator.normal(0, 8 / _RANGE), generator.uniform(0, 2 * np.pi)
            shading = 1 + 0.1 * generator.normal() * (np.cos(angle) * y + np.sin(angle) * x)
            out[z] = (0.5 + (out[z] ** gamma - 0.5) * gain * 0.8 + offset) * shading
    elif scene == "slow":
        t = np.linspace(0, 1, count)[:, None, None]
        out = 0.5 + (out - 0.5) * 0.7 * np.exp(0.3 * np.sin(2 * np.pi * t)) + 20 / _RANGE * (t - 0.5)
    return np.where(images < _NO_TISSUE, 0.0, np.clip(out * _RANGE, 1, _RANGE).round())


def match(images: AnyArray, *, pixel_size: float, section_thickness: float) -> ContrastTable:
    """Align the sections (z, y, x) and return their gains and offsets; nothing is rendered."""
    with tempfile.TemporaryDirectory(prefix="contrast-") as folder:
        shape = (images.shape[0], images.shape[1], images.shape[2])
        info = VolumeInfo(
            shape=shape, dtype=np.dtype("uint8"), pixel_size=pixel_size, section_thickness=section_thickness
        )
        volume = create_volume(f"{folder}/source.zarr", info=info, chunk=(1, 256, 256), shard=(1, 256, 256), mips=1)
        volume.write(Box((0, 0, 0), shape), images.astype(np.uint8))
        tree: dict[str, Any] = {"source": volume.url, "output": f"{folder}/run.zarr", "render": {"contrast": "match"}}
        planned = plan(make_config(tree))
        open_run(planned)
        for stage in STAGES:
            stage.prepare(planned.job)
            for tasks in stage.generations(planned.job):
                for task in tasks:
                    task.run()
                    if task.key == "render/gains-all":
                        table = read_contrast(planned.job.output)
                        assert table is not None
                        return table
    raise AssertionError


def linear_parts(images: Float64Array, changed: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return log gain, mean difference and mean (z,) of changed sections against the originals."""
    gains, levels, means = [], [], []
    for image, other in zip(images, changed, strict=True):
        shown = (image >= _NO_TISSUE) & (other >= _NO_TISSUE)
        first, second = image[shown], other[shown]
        gains.append(np.log(np.cov(first, second)[0, 1] / first.var()) if shown.any() else np.nan)
        levels.append((second - first).mean() if shown.any() else np.nan)
        means.append(second.mean() if shown.any() else np.nan)
    return np.array(gains), np.array(levels), np.array(means)


def measure(name: str, scene: str, *, seed: int, size: int, sections: int) -> dict[str, float]:
    """Return the figures of one scene."""
    stack = deform_stack(load_stack(name, sections=sections, size=size, data=DATA_DIR), seed=seed)
    images = stack.images.astype(np.float64)
    kwargs = {"pixel_size": stack.pixel_size, "section_thickness": stack.section_thickness}
    changed = change_contrast(images, scene, seed=seed)
    if scene == "spoilt":
        undamaged = match(images, **kwargs)
        changed[BLACK] = 0
        changed[FOREIGN] = stack.foreign[::-1, ::-1]
        table = match(changed, **kwargs)
        others = ~np.isin(np.arange(len(images)), (BLACK, FOREIGN))
        level = images.mean()
        moved = (table.gain * level + table.offset) - (undamaged.gain * level + undamaged.offset)
        return {
            "unchanged": float((~table.matched).sum()),
            "gain": float(np.abs(np.log(table.gain / undamaged.gain))[others].max()),
            "level": float(np.abs(moved)[others].max()),
        }
    table = match(changed, **kwargs)
    gain, level, mean = linear_parts(images, changed)
    after_gain = gain + np.log(table.gain)
    after_level = level + (table.gain - 1) * mean + table.offset
    figures: dict[str, float] = {}
    for label, before, after in (("gain", gain, after_gain), ("level", level, after_level)):
        figures[f"{label} before"], figures[f"{label} after"] = float(before.std()), float(after.std())
        figures[f"{label} change"] = float((after - before).std())
        figures[f"{label} step before"] = float(np.sqrt((np.diff(before) ** 2).mean()))
        figures[f"{label} step after"] = float(np.sqrt((np.diff(after) ** 2).mean()))
    return figures


def main(arguments: Sequence[str]) -> int:
    """Measure all scenes and print the table."""
    options = _options().parse_args(arguments)
    table = Table(title=f"Contrast, sections of {options.size} px, mean of {options.seeds} seeds")
    for column in ("data", "scene", "log gain, rms", "level, rms", "log gain, step", "level, step", "changed by"):
        table.add_column(column)
    progress = Console(stderr=True)
    for name in options.data:
        for scene in options.scenes:
            seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
            found = [measure(name, scene, seed=s, size=options.size, sections=options.sections) for s in seeds]
            progress.print(f"{name}, {scene}: {found}")
            f = {key: float(np.mean([figures[key] for figures in found])) for key in found[0]}
            if scene == "spoilt":
                worst = {key: max(figures[key] for figures in found) for key in found[0]}
                what = f"others at most {worst['gain']:.3f}, {worst['level']:.1f}"
                table.add_row(name, scene, "", "", "", "", what)
                continue
            table.add_row(
                name,
                scene,
                f"{f['gain before']:.3f} → {f['gain after']:.3f}",
                f"{f['level before']:.1f} → {f['level after']:.1f}",
                f"{f['gain step before']:.3f} → {f['gain step after']:.3f}",
                f"{f['level step before']:.1f} → {f['level step after']:.1f}",
                f"{f['gain change']:.3f}, {f['level change']:.1f}",
            )
    Console(width=160).print(table)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.contrast", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=["vnc", "fibsem1"])
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="side of a section, px")
    parser.add_argument("--sections", type=int, default=40)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
