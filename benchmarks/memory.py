"""Peak memory of a task of each stage, stated by `plan` and measured, each in a process of its own.

    python -m benchmarks.memory --sections 8 --side 1024

The first task of each generation is run on a made-up volume; its peak is the resident memory beyond what the process
held before. Linux only.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.memory import PROCESS_BYTES, keep_freed_memory
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.task import Task

_PIXEL, _THICKNESS = 5.0, 40.0  # nm


def make_source(folder: Path, *, sections: int, side: int) -> str:
    """Blurred noise that shifts a little from section to section."""
    info = VolumeInfo(
        shape=(sections, side, side), dtype=np.dtype("uint8"), pixel_size=_PIXEL, section_thickness=_THICKNESS
    )
    volume = create_volume(str(folder / "source.zarr"), info=info, chunk=(1, 512, 512), shard=(1, 1024, 1024), mips=1)
    chance = np.random.default_rng(1)
    blurred = gaussian_filter(chance.normal(size=(side + sections, side + sections)).astype(np.float32), 2)
    for z in range(sections):
        image = blurred[z : z + side, z // 2 : z // 2 + side] / blurred.std() * 40 + 128
        noisy = image + chance.normal(size=image.shape) * 5
        volume.write(Box((z, 0, 0), (z + 1, side, side)), noisy.clip(1, 255).astype(np.uint8)[None])
    return volume.url


def measure(folder: Path, *, sections: int, side: int, settings: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Bytes `stated` and `measured` by stage."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as workers do
    source = make_source(folder, sections=sections, side=side)
    planned = pipeline.plan(make_config({"source": source, "output": str(folder / "out.zarr"), **settings}))
    pipeline.open_run(planned)
    found = {}
    for stage in (stage for stage in STAGES if stage.name in planned.estimates):
        stage.prepare(planned.job)
        firsts = [task for generation in stage.generations(planned.job) for task in islice(generation, 1)]
        peaks = [_peak(task) for task in firsts]
        found[stage.name] = {"stated": planned.estimates[stage.name].memory, "measured": max(peaks)}
    _give_back()
    found["process"] = {"stated": PROCESS_BYTES, "measured": _status("VmRSS")}
    return found


def _peak(task: Task) -> int:
    """Bytes that a task takes beyond what a fork of this process holds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _give_back()
            _map_libraries()
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before = _status("VmRSS")
            task.run()
            os.write(writing, str(_status("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    told = os.read(reading, 100)
    os.close(reading)
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"{task.key} failed; see above.")
    return int(told)


def _give_back() -> None:
    """Have the system take what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _map_libraries() -> None:
    """Have the pages of libraries in this process, which a fork leaves out: the task would seem to take them."""
    madvise, populate_read = ctypes.CDLL(None).madvise, 22  # asm-generic/mman-common.h
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".so" in line:
            start, stop = (int(end, 16) for end in line.split()[0].split("-"))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), populate_read)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=8)
    parser.add_argument("--side", type=int, default=1024, help="px")
    parser.add_argument("--settings", type=json.loads, default={}, help="tables of the configuration, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), sections=given.sections, side=given.side, settings=given.settings)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
