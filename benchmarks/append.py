"""Sections appended in batches, in the order in which they arrive, against one run over all of them.

The phantom, elastically deformed (preset `smooth`), is aligned at once. Then a run over its first sections is appended
to in batches. With `--shuffle`, sections arrive up to that many places too early or too late, so that a batch has gaps,
which are filled by a later one. Jitter and drift are those of `ssem-dask evaluate`.

    python -m benchmarks.append --sections 96 --fitted 40 --batch 1 5 20 --shuffle 10
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssem_dask.config.schema import make_config
from ssem_dask.driver import append as append_module
from ssem_dask.driver.append import AppendPlan, execute_append, plan_append
from ssem_dask.driver.pipeline import plan, run
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.protocol import evaluate
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import SerialExecutor
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.volume import Volume, create_volume


def arrivals(count: int, *, first: int, shuffle: int, seed: int) -> list[int]:
    """Return the sections from `first` on in the order of their arrival, each at most `shuffle` places from its own."""
    rng = np.random.default_rng(seed)
    places = np.arange(first, count) + rng.uniform(0, max(shuffle, 1e-9), count - first)
    return [first + int(i) for i in np.argsort(places, kind="stable")]


def write_present(source: Volume, target: str, present: Sequence[int]) -> str:
    """Write the sections that are there, up to the last of them; the others are blank."""
    count = max(present) + 1
    there = set(present)
    _, height, width = source.info.shape
    info = replace(source.info, shape=(count, height, width))
    shutil.rmtree(target, ignore_errors=True)
    volume = create_volume(target, info=info, chunk=(1, height, width), shard=(1, height, width), mips=1)
    for z in sorted(there):
        box = Box((z, 0, 0), (z + 1, height, width))
        volume.write(box, source.read(box))
    return target


def append(output: str, source: str) -> tuple[AppendPlan, float]:
    """Append; return the plan and the CPU seconds."""
    begun = time.process_time()
    planned = plan_append(output, source)
    summary = execute_append(planned, executor=SerialExecutor(), observer=SilentObserver())
    if summary.state != "complete":
        raise RuntimeError(f"{summary.state}: {[report.message for report in summary.failed]}")
    return planned, time.process_time() - begun


def align(source: str, output: str) -> None:
    """Align at once."""
    summary = run(
        plan(make_config({"source": source, "output": output}, where="benchmark")),
        executor=SerialExecutor(),
        observer=SilentObserver(),
    )
    if summary.state != "complete":
        raise RuntimeError(f"{summary.state}: {[report.message for report in summary.failed]}")


def fields(output: str) -> np.ndarray:
    """Return the fields of all sections of a run."""
    return np.asarray(open_array(f"{output}/{SECTION.path}", mode="r")[:])


def measured(output: str, truth: str) -> dict[str, float]:
    """Return jitter and drift."""
    rows = {row.name: row.values for row in evaluate(output, truth=truth).rows}
    values = rows.get("aligned", {})
    names = "jitter_median", "jitter_rms", "drift_max", "drift_trend_removed"
    return {name: float(values.get(name, math.nan)) for name in names}


def main(arguments: Sequence[str]) -> int:
    """Print one line per variant."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(1)
    append_module.FEW_FITTED = 0  # the statistics are to stay, however few sections they were fitted to
    folder = Path(tempfile.mkdtemp(prefix="append-"))

    def show(**values: Any) -> None:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()

    try:
        observed = str(folder / "observed.zarr")
        config = PhantomConfig(seed=options.seed, shape=(options.sections, options.size, options.size))
        simulate_phantom(
            config,
            observed,
            seed=options.seed,
            deformation=DeformationConfig.preset(options.preset),
            damage=DamageConfig(),
        )
        volume = Volume.open(observed)
        whole = str(folder / "whole.zarr")
        begun = time.process_time()
        align(observed, whole)
        show(variant="one run", cpu_seconds=round(time.process_time() - begun, 1), **measured(whole, observed))
        first = str(folder / "first.zarr")
        align(write_present(volume, str(folder / "first-source.zarr"), range(options.fitted)), first)
        for batch in options.batch:
            output = str(folder / f"batch-{batch}.zarr")
            shutil.copytree(first, output)
            order = arrivals(options.sections, first=options.fitted, shuffle=options.shuffle, seed=options.seed)
            seconds, unlocked, before = [], 0, fields(output)
            for start in range(0, len(order), batch):
                present = [*range(options.fitted), *order[: start + batch]]
                source = write_present(volume, str(folder / f"source-{batch}-{start}.zarr"), present)
                planned, cpu = append(output, source)
                seconds.append(cpu)
                now = fields(output)
                # Gaps that are filled now change what is around them; all else is locked.
                late = min([z for z in order[start : start + batch] if z < len(before)], default=len(before))
                locked = min(planned.locked, max(0, late - 16) // 8 * 8)
                unlocked += int(not np.array_equal(now[:locked], before[:locked], equal_nan=True))
                before = now
            show(
                variant=f"batches of {batch}",
                cpu_seconds=round(sum(seconds), 1),
                per_batch=round(float(np.median(seconds)), 1),
                last_batches=round(float(np.median(seconds[-3:])), 1),
                batches_that_moved_locked_sections=unlocked,
                **measured(output, observed),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=96)
    parser.add_argument("--fitted", type=int, default=40, help="sections of the first run")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--shuffle", type=int, default=0)
    parser.add_argument("--seed", type=int, default=301)
    parser.add_argument("--preset", default="smooth")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
