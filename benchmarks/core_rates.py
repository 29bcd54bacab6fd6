"""Where the time of voxels goes, on one core: read, halve, warp, write; and what threads of one process give.

    python -m benchmarks.core_rates --source volume.zarr

Rates are MB of level 0 per second, over some shards of a volume with shards. Threads and processes copy a shard each.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ssem_dask.field.device import compute_device
from ssem_dask.field.grid import node_count
from ssem_dask.geometry.box import Box
from ssem_dask.image.pooling import halve
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.warped_volume import Warping, warp_box
from ssem_dask.storage.arrays import create_array
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray

_SPACING = 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="volume with shards")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 3, 8], help="threads, and processes, that copy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    volume = Volume.open(options.source)
    unit, shape = volume.write_unit(0), volume.info.shape
    whole = (
        Box((z, y, x), (z + unit[0], y + unit[1], x + unit[2]))
        for z in range(0, shape[0] - unit[0] + 1, unit[0])
        for y in range(0, shape[1] - unit[1] + 1, unit[1])
        for x in range(0, shape[2] - unit[2] + 1, unit[2])
    )
    boxes = list(islice(whole, max(options.shards, *options.workers, 1)))
    folder = Path(tempfile.mkdtemp(dir=Path(options.source).parent))
    try:
        _one_core(volume, boxes[: options.shards], folder)
        for count in options.workers:
            _say(f"copy, {count} threads of one process", _copied(ThreadPoolExecutor(count), volume, boxes, folder))
            pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
            _say(f"copy, {count} processes", _copied(pool, volume, boxes, folder))
    finally:
        shutil.rmtree(folder)


def _target(volume: Volume, path: Path, *, fields: str = "") -> Warping:
    """A warp of the volume, of which the target is created."""
    warping = Warping(
        source=volume.url,
        info=volume.info,
        fields=fields,
        spacing=_SPACING,
        target=str(path),
        mips=1,
        config=RenderStageConfig(chunk=volume.chunk(0), shard=volume.write_unit(0)),
    )
    warping.create()
    return warping


def _one_core(volume: Volume, boxes: list[Box], folder: Path) -> None:
    nodes = tuple(node_count(n, spacing=_SPACING) for n in volume.info.shape[1:])
    extent = (volume.info.shape[0], 2, *nodes)
    field = create_array(
        str(folder / "field.zarr"),
        shape=extent,
        dtype="float32",
        axes=("z", "c", "y", "x"),
        chunks=(1, 2, *nodes),
        shards=None,
        fill_value=0,
        attributes={},
    )
    field[: boxes[-1].stop[0]] = np.random.default_rng(1).normal(0, 4, (boxes[-1].stop[0], *extent[1:]))
    warping = _target(volume, folder / "one.zarr", fields=str(folder / "field.zarr"))
    target = Volume.open(warping.target)
    held: list[AnyArray] = []

    def timed(name: str, work: Callable[[int], object]) -> None:
        cpu, begin = time.process_time(), time.perf_counter()
        for number in range(len(boxes)):
            work(number)
        size = sum(box.size for box in boxes) * volume.info.dtype.itemsize / 1e6
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begin
        _say(name, size / wall, f"; {size / cpu:.0f} per CPU second")

    with fused_codecs():
        timed("read", lambda i: held.append(volume.read(boxes[i])))
        timed("halve", lambda i: halve(held[i]))
        timed("write", lambda i: target.write(boxes[i], held[i]))
        warp_box(warping, boxes[0])  # the first call loads what is loaded once
        timed(f"render whole, on {compute_device()}", lambda i: warp_box(warping, boxes[i]))


def _copied(pool: Executor, volume: Volume, boxes: list[Box], folder: Path) -> float:
    """MB per second."""
    warping = _target(volume, folder / "copy.zarr")
    with pool:
        list(pool.map(partial(_wait, folder), boxes))
        begin = time.perf_counter()
        list(pool.map(partial(_copy, warping), boxes))
        seconds = time.perf_counter() - begin
    shutil.rmtree(folder / "copy.zarr")
    return sum(box.size for box in boxes) * volume.info.dtype.itemsize / 1e6 / seconds


def _wait(folder: Path, box: Box) -> None:
    del folder, box
    time.sleep(0.2)


def _copy(warping: Warping, box: Box) -> None:
    with fused_codecs():
        Volume.open(warping.target).write(box, Volume.open(warping.source).read(box))


def _say(name: str, rate: float, more: str = "") -> None:
    sys.stderr.write(f"{name}: {rate:.0f} MB/s{more}\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
