"""How fast this machine copies a volume with its pyramid: one process per core, nothing shared, no scheduler.

It is the yardstick of `benchmarks.e2e`. A process reads shards, writes them, and makes coarser levels from the pixels
that it holds, as stage render does; levels that are made of several processes' shards are made afterwards.
"""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import zarr

from ssem_dask.geometry.box import Box
from ssem_dask.stages.configs import RenderStageConfig
from ssem_dask.stages.downsample import halve_shard, level_boxes
from ssem_dask.stages.warped_volume import Warping, task_boxes
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.volume import Volume

_START_S = 0.5
"""Seconds that each process waits in its first call, so that every process gets one."""


def best_copy(source: Path, target: Path, *, processes: int, codec: str) -> tuple[float, dict[str, float]]:
    """Copy a volume; return the seconds, and those of level 0 with what is made of it in memory, and of the rest.

    The start of the processes is not included.

    Args:
        source: the volume.
        target: the copy.
        processes: one per core.
        codec: compression of the copy, as `[render] codec`.
    """
    shutil.rmtree(target, ignore_errors=True)
    volume = Volume.open(str(source))
    warping = Warping(
        source=str(source),
        info=volume.info,
        fields="",
        spacing=1,
        target=str(target),
        mips=len(volume.mips),
        config=RenderStageConfig.model_validate(
            {"chunk": volume.chunk(0), "shard": volume.write_unit(0), "codec": codec}
        ),
    )
    warping.create()
    seconds = {}
    with get_context("spawn").Pool(processes, initializer=_one_thread) as pool:
        pool.map(_wait, range(processes), chunksize=1)
        begin = time.perf_counter()
        _run(pool, partial(_copy_box, warping), [box for _, box in task_boxes(warping)])
        seconds["copy"] = round(time.perf_counter() - begin, 2)
        for mip in range(warping.levels.count, warping.mips):
            _run(pool, partial(_level_box, warping), [box for _, box in level_boxes(warping, mip)])
        total = round(time.perf_counter() - begin, 2)
    return total, {**seconds, "levels": round(total - seconds["copy"], 2)}


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})


def _wait(number: int) -> None:
    del number
    time.sleep(_START_S)


def _run(pool: Pool, work: Callable[[Box], None], boxes: list[Box]) -> None:
    for _ in pool.imap_unordered(work, boxes, chunksize=1):
        pass


def _copy_box(warping: Warping, box: Box) -> None:
    with fused_codecs():
        source, target = Volume.open(warping.source), Volume.open(warping.target)
        warping.levels.write(box, pixels_of=source.read, write=target.write, labels=False)


def _level_box(warping: Warping, box: Box) -> None:
    with fused_codecs():
        halve_shard(warping, box)
