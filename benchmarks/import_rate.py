"""How fast `import` writes uncompressed TIFF files with a pyramid, beside the best copy of the same volume.

    python -m benchmarks.import_rate --sections 32 --side 4096 --repeat 3

The import and the copy take turns on the same cores. Both have one process per core; the start of those of the import
counts. The copy has the compression of the import. Files and volumes are noise around smooth structures, written to
`--dir`, and removed.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.best_copy import best_copy
from ssem_dask.runtime.clusters.local import start_local
from ssem_dask.volumes.importing import plan_import, run_import


def main() -> None:
    """Write the files, import and copy in turns; print medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("bench/import"), help="made and removed")
    parser.add_argument("--sections", type=int, default=32)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes of the import; one per core without")
    options = parser.parse_args()
    files, volume, copied = (options.dir / name for name in ("files", "volume.zarr", "copy.zarr"))
    files.mkdir(parents=True)
    try:
        _write_files(files, sections=options.sections, side=options.side)
        seconds: dict[str, list[float]] = {"import": [], "copy": []}
        cpu: dict[str, list[float]] = {"import": [], "copy": []}
        for _ in range(options.repeat):
            shutil.rmtree(volume, ignore_errors=True)
            begin, used = time.perf_counter(), _cpu_seconds()
            _import(files, volume, workers=options.workers or _cores())
            seconds["import"].append(time.perf_counter() - begin)
            cpu["import"].append(_cpu_seconds() - used)
            used = _cpu_seconds()
            seconds["copy"].append(best_copy(volume, copied, processes=_cores(), codec="zstd")[0])
            cpu["copy"].append(_cpu_seconds() - used)
        medians = {f"{name}_s": round(statistics.median(times), 2) for name, times in seconds.items()}
        used_s = {f"{name}_cpu_s": round(statistics.median(times), 2) for name, times in cpu.items()}
        percent = round(100 * medians["copy_s"] / medians["import_s"])
        record = {"cores": _cores(), **medians, **used_s, "import_of_copy_percent": percent}
        sys.stdout.write(json.dumps(record) + "\n")
    finally:
        shutil.rmtree(options.dir, ignore_errors=True)


def _import(files: Path, volume: Path, *, workers: int) -> None:
    plan = plan_import(str(files), str(volume), pixel_size=5.0, section_thickness=40.0)
    with nullcontext() if workers == 1 else start_local(workers) as executor:
        run_import(plan, executor=executor)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, their imports included."""
    return sum(os.times()[:4])


def _write_files(folder: Path, *, sections: int, side: int) -> None:
    random = np.random.default_rng(1)
    smooth = np.add.outer(np.sin(np.arange(side) / 40), np.cos(np.arange(side) / 25)) * 30 + 128
    for z in range(sections):
        noisy = smooth + random.normal(0, 12, (side, side))
        tifffile.imwrite(folder / f"section_{z:04d}.tif", np.roll(noisy, z, axis=0).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
