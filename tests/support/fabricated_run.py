"""A run of any size with all that a report reads, through the writers that a real run uses; no section is aligned.

Ledger entries are those of the plan's own tasks; quality tables are made by the measure stage's `prepare` and written
block by block. Some windows fail, some are bad, one is empty, so that a report has something to show.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.geometry.box import Box
from ssem_dask.stages.measure.quality_frame import quality_info
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.quality import (
    BLOCK,
    CUTS,
    SECTION_COLUMNS,
    TIMES,
    WINDOW_COLUMNS,
    QualityInfo,
    write_reslice,
    write_sections,
    write_windows,
)
from ssem_dask.storage.run_group import update_run
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.task import Cause, Outcome, Task, TaskReport

_LOW_QUALITY = (
    "No node of the window could be registered.",
    "1 pair of sections could not be registered, even with a wider search: 9 to 8 (shift)",
)
"""Messages of the register stage's tasks."""
_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Fabricated:
    url: str
    tasks: int
    failed: int
    bad: tuple[int, int, int]
    """(z, row, column) of the window whose similarity is worst."""


def fabricate_run(folder: Path, *, sections: int, side: int, seed: int = 1) -> Fabricated:
    """Make OUT.zarr in `folder`; sections of side × side px have (side / 2048)² windows."""
    info = VolumeInfo(shape=(sections, side, side), dtype=np.dtype("uint8"), pixel_size=2.5, section_thickness=40.0)
    source = create_volume(str(folder / "source.zarr"), info=info, chunk=(1, 512, 512), shard=(1, 2048, 2048), mips=1)
    output = str(folder / "out.zarr")
    planned = pipeline.plan(make_config({"source": source.url, "output": output, "register": {"window": 2048}}))
    pipeline.open_run(planned)
    job = planned.job
    for stage in STAGES:
        if stage.name in planned.estimates:
            stage.prepare(job)
    chance = np.random.default_rng(seed)
    tasks = [task for stage in STAGES for generation in stage.generations(job) for task in generation]
    ended = [_report(task, i, chance) for i, task in enumerate(tasks)]
    ledger = open_ledger(output)
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(ledger.write, ended))
    bad = _measure(output, info=quality_info(job), chance=chance)
    open_coarse(f"{output}/fields/coarse", mode="r+")[:] = np.tile(np.eye(2, 3), (sections, 1, 1))
    _show(source, Volume.open(f"{output}/aligned"), bad=bad, chance=chance)
    update_run(output, state="incomplete")
    return Fabricated(output, len(tasks), sum(r.outcome is Outcome.FAILED for r in ended), bad)


def _report(task: Task, index: int, chance: np.random.Generator) -> TaskReport:
    outcome, cause, message = Outcome.OK, None, ""
    if task.stage == "register":
        draw = chance.random()
        if draw < 0.002:
            outcome, cause, message = Outcome.FAILED, Cause.OUT_OF_MEMORY, "RuntimeError: not enough memory"
        elif draw < 0.005:
            outcome, message = Outcome.LOW_QUALITY, _LOW_QUALITY[index % len(_LOW_QUALITY)]
        elif draw < 0.02:
            outcome, message = Outcome.NO_TISSUE, "The window is empty in every section."
    return TaskReport(
        key=task.key,
        digest=task.digest,
        outcome=outcome,
        cause=cause,
        message=message,
        worker=f"node{index % 40:02d}:{index % 7}",
        started=(_START + timedelta(seconds=index // 20)).isoformat(timespec="seconds"),
        seconds=round(float(chance.gamma(4.0, 2.0)), 3),
        pixels=task.pixels,
        bytes_read=task.pixels,
        bytes_written=task.pixels // 8,
    )


def _measure(output: str, *, info: QualityInfo, chance: np.random.Generator) -> tuple[int, int, int]:
    sections, (rows, columns), pixels = info.shape_mip0[0], info.windows, info.probe.shape[1]
    bad = sections // 3, rows // 2, columns // 2
    for start in range(0, sections, BLOCK):
        count = min(BLOCK, sections - start)
        table = {name: chance.normal(0.6, 0.05, count) for name in SECTION_COLUMNS}
        table |= {"fold_rate": np.zeros(count), "ncc_before": chance.normal(0.2, 0.05, count)}
        table["cpc_before"] = chance.normal(0.1, 0.05, count)
        table |= {"motion_dy": chance.normal(0, 0.3, count), "motion_dx": chance.normal(0, 0.3, count)}
        windows = {name: chance.normal(0.6, 0.05, (count, rows, columns)) for name in WINDOW_COLUMNS}
        windows["coverage"] = np.ones((count, rows, columns))
        if start <= bad[0] < start + count:
            windows["similarity"][bad[0] - start, bad[1], bad[2]] = -0.2
        write_sections(output, start=start, values=table)
        write_windows(output, start=start, values=windows)
        for cut in CUTS:
            for time in TIMES:
                write_reslice(
                    output, start=start, cut=cut, time=time, pixels=chance.integers(1, 255, (count, pixels), "uint8")
                )
    return bad


def _show(source: Volume, aligned: Volume, *, bad: tuple[int, int, int], chance: np.random.Generator) -> None:
    """Noise where the worst place is, as hard to compress as pixels can be."""
    side = 2048
    z, y, x = bad[0], bad[1] * side, bad[2] * side
    height, width = (min(n, a + side) - a for n, a in zip(source.info.shape[1:], (y, x), strict=True))
    box = Box((z, y, x), (z + 1, y + height, x + width))
    source.write(box, chance.integers(1, 255, box.shape, "uint8"))
    for mip in aligned.mips[:4]:
        depth, *unit = aligned.write_unit(mip)
        start = (z - z % depth, *(n // 2**mip // u * u for n, u in zip((y, x), unit, strict=True)))
        part = Box(start, tuple(a + u for a, u in zip(start, (depth, *unit), strict=True)), mip)
        part = part.clipped(aligned.shape_at(mip))
        aligned.write(part, chance.integers(1, 255, part.shape, "uint8"))
