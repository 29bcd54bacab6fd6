"""Time until the first pixels of a volume that is warped as it is looked at, and the memory that this takes.

    python -m benchmarks.first_pixels --side 16384

A section of noise is displaced by a smooth field. Chunks are asked for as neuroglancer does: all of a section on a
screen of 1,300 × 900 px, then a place of it at full resolution, 8 chunks at a time.
"""

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ssem_dask
from ssem_dask.field.affine import affine_field, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.report.viewer.live_volume import serve_warped
from ssem_dask.report.viewer.served_files import VirtualFiles
from ssem_dask.storage.fields import FieldInfo, create_field
from ssem_dask.storage.run_group import create_run
from ssem_dask.volumes.alignment import open_alignment
from ssem_dask.volumes.warping import warping_of

_SECTIONS = 2
_SPACING = 64
_CHUNK = 256
_AT_ONCE = 8
_SCREEN = (900, 1300)
_PIXEL_NM, _THICKNESS_NM = 4.0, 40.0


def make_run(folder: Path, *, side: int) -> tuple[str, str]:
    """Write a source of so many px a side with its pyramid, and a run of one field; return their URLs."""
    tile = np.random.default_rng(0).integers(1, 255, (1024, 1024), dtype=np.uint8)
    section = np.tile(tile, (ceil_div(side, 1024), ceil_div(side, 1024)))[:side, :side]
    sizes: dict[str, Any] = {"pixel_size": _PIXEL_NM, "section_thickness": _THICKNESS_NM}
    source, run = str(folder / "source.zarr"), str(folder / "run.zarr")
    ssem_dask.import_volume(np.broadcast_to(section, (_SECTIONS, side, side)), source, **sizes)
    register = {"neighbours": 3, "window": 1024, "halo": 64, "sections": 4, "mip": 0, "spacing": _SPACING}
    config = {"volume": sizes, "register": register, "render": {}, "downsample": {}}
    create_run(run, attributes={"state": "complete", "source": source, "config": config})
    grid = Grid.of_section((side, side), spacing=_SPACING)
    turned = affine_field(rotation_about(degrees=1.0, centre=(side / 2, side / 2), shift=(30, -20)), grid=grid)
    array = create_field(
        f"{run}/fields/section",
        info=FieldInfo(spacing=_SPACING, shape_mip0=(_SECTIONS, side, side)),
        leading=(),
        components=True,
        chunks=(1, 2, 256, 256),
        shards=None,
    )
    for z in range(_SECTIONS):
        array[z] = (turned + 6 * (grid.positions() / 700).sin()).numpy()
    return run, source


def look(files: VirtualFiles, *, mip: int, rows: range, columns: range) -> dict[str, float]:
    """Ask for chunks of section 0; return the seconds, and CPU seconds, until the first and until the last has come."""
    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        paths = [f"{mip}/c/0/{row}/{column}" for row in rows for column in columns]
        asked = [pool.submit(lambda path: files.read(path, start=0, stop=files.size(path)), path) for path in paths]
        times = []
        for done in as_completed(asked):
            assert len(done.result()) == _CHUNK**2
            times.append((round(time.perf_counter() - begun, 2), round(time.process_time() - cpu, 2)))
    (first, first_cpu), (last, last_cpu) = times[0], times[-1]
    return {
        "mip": mip,
        "chunks": len(paths),
        "first_s": first,
        "first_cpu_s": first_cpu,
        "all_s": last,
        "all_cpu_s": last_cpu,
    }


def peak_mb() -> int:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=16384, help="px of a section along y and x")
    side = parser.parse_args().side
    torch.set_num_threads(1)  # as in the viewer, whose threads are the chunks
    with tempfile.TemporaryDirectory() as folder:
        run, source = make_run(Path(folder), side=side)
        before = peak_mb()
        warping = warping_of(open_alignment(run), source, "", labels=False, pixel_size=None)
        files = serve_warped(warping.open_source(), warping)
        whole = max(0, int(np.log2(side / max(_SCREEN))))
        shown = ceil_div(side >> whole, _CHUNK)
        middle = side // _CHUNK // 2
        place = [range(middle, middle + ceil_div(length, _CHUNK)) for length in _SCREEN]
        figures = {
            "whole section": look(files, mip=whole, rows=range(shown), columns=range(shown)),
            "full resolution": look(files, mip=0, rows=place[0], columns=place[1]),
            "memory_mb": {"before": before, "after": peak_mb()},
        }
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
