"""From a volume to its aligned pyramid, beside the best copy of the same volume with its pyramid on the same cores.

    python -m benchmarks.e2e --dir /data --sections 104 --side 4096 --gpus 1 2 --kill

The volume is synthetic tissue at 2.5 nm (registration works at 5 nm) or 5 nm, each section displaced by a smooth
random field; it has a pyramid, as an imported volume has. The copy is that of `benchmarks.best_copy`: one process per
core. The run uses a cluster that is up already; the cost of its start is reported separately. `--gpus 0` is `--cluster
local`. With `--kill` the last run is repeated, a worker is killed while it registers, and the results are compared.
`--cores` gives each number of GPUs its share of the cores, to see what a machine of that size would do. A run that
takes long can be done in several calls: `--gpus` without a number makes the volume alone, `--go-on` resumes an
alignment that was begun.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure

from benchmarks.best_copy import best_copy
from benchmarks.made_volume import DEPTH, make_volume
from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.geometry.region import Footprint
from ssem_dask.runtime.clusters.local import start_local, start_on_gpus
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import Executor
from ssem_dask.storage.arrays import open_array
from ssem_dask.task import Outcome, Result, Task, TaskReport

_KILL_AFTER = 8
"""Windows that are registered before a worker is killed."""


def main() -> None:
    """Make the volume, copy it, align it; print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", type=Path, default=Path("bench/e2e"), help="where volumes are written; made and removed"
    )
    parser.add_argument("--sections", type=int, default=104)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--pixel-size", type=float, default=2.5, choices=[2.5, 5.0], help="nm")
    parser.add_argument(
        "--gpus", type=int, nargs="*", default=[0], help="numbers of GPUs to run with, one after another"
    )
    parser.add_argument("--per-gpu", type=int, help="worker processes that share a GPU")
    parser.add_argument("--gpu-threads", type=int, help="threads of each of these processes")
    parser.add_argument("--cores", type=int, nargs="+", help="cores to use with each of these numbers; all without")
    parser.add_argument("--config", default="{}", help="JSON of further configuration")
    parser.add_argument("--kill", action="store_true", help="repeat the last run with a worker killed")
    parser.add_argument("--keep", action="store_true", help="leave the aligned volumes")
    parser.add_argument("--no-copy", action="store_true", help="align only")
    parser.add_argument("--go-on", action="store_true", help="with the alignment that is there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="picture of the stages' seconds")
    parser.add_argument("--draw", type=Path, nargs="+", help="run nothing, draw what earlier runs wrote with --json")
    options = parser.parse_args()
    if options.draw:
        draw([json.loads(path.read_text()) for path in options.draw], options.plot or Path("e2e.png"))
        return
    options.dir.mkdir(parents=True, exist_ok=True)
    source, everything = options.dir / "source.zarr", os.sched_getaffinity(0)
    begin = time.perf_counter()
    if not source.exists():
        make_volume(str(source), sections=options.sections, side=options.side, pixel_size=options.pixel_size)
    record: dict[str, Any] = {
        "sections": options.sections,
        "side": options.side,
        "pixel_size": options.pixel_size,
        "cores": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "made_s": round(time.perf_counter() - begin, 1),
        "runs": [],
    }
    sys.stderr.write(f"volume: {record['made_s']} s\n")
    for turn, count in enumerate(options.gpus):
        if options.cores:
            os.sched_setaffinity(0, sorted(everything)[: options.cores[turn]])
        record["runs"].append(_measured(source, options, count, last=turn == len(options.gpus) - 1))
        _tell(record, options.json)
    if options.kill:
        record["runs"].append(_disturbed(source, options, options.gpus[-1]))
        _tell(record, options.json)
    if options.plot:
        draw([record], options.plot)
    if not options.keep:
        shutil.rmtree(options.dir / "aligned.zarr", ignore_errors=True)
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


def _tell(record: dict[str, Any], path: Path | None) -> None:
    sys.stderr.write(json.dumps(record["runs"][-1]) + "\n")
    if path:
        path.write_text(json.dumps(record, indent=1))


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """One bar a run, of its stages one on the other, in seconds for a gigapixel; the copy beside it."""
    runs = [(record, run) for record in records for run in record["runs"] if not run.get("killed")]
    figure = Figure(figsize=(1.6 + 1.15 * len(runs), 4.2), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab10"]
    names = list(dict.fromkeys(stage for _, run in runs for stage in run["stages_s"]))
    for place, (record, run) in enumerate(runs):
        gigapixels, below = record["sections"] * record["side"] ** 2 / 1e9, 0.0
        for number, stage in enumerate(names):
            height = run["stages_s"].get(stage, 0.0) / gigapixels
            label = stage if place == 0 else None
            axes.bar(place - 0.17, height, 0.34, bottom=below, color=colours(number), label=label)
            below += height
        axes.text(place - 0.17, below, f"{run['align_s']:.0f} s", ha="center", va="bottom", fontsize=8)
        if "copy_s" in run:
            label = "best copy with pyramid" if place == 0 else None
            axes.bar(place + 0.2, run["copy_s"] / gigapixels, 0.34, color="lightgrey", label=label)
    ticks = [
        f"{r['sections']} × {r['side']}²\n{run['gpus']} GPU, {run.get('cores', r['cores'])} cores" for r, run in runs
    ]
    axes.set_xticks(range(len(runs)), ticks, fontsize=8)
    axes.set_ylabel("seconds for a gigapixel")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _measured(source: Path, options: argparse.Namespace, gpus: int, *, last: bool) -> dict[str, Any]:
    """Copy, then alignment on a cluster of the same cores; the last alignment stays as `aligned.zarr`."""
    row: dict[str, Any] = {"gpus": gpus}
    output = options.dir / "aligned.zarr"
    if not options.no_copy:
        _copies(source, options, row)
    with _cluster(gpus, options, row) as executor:
        _align(source, output, options, executor, row, _Clock(gpus))
    if "copy_s" in row:
        row["ratio"] = round(row["align_s"] / row["copy_s"], 2)
        written = sum(row["stages_s"].get(stage, 0.0) for stage in ("render", "downsample"))
        row["render_of_copy_percent"] = round(100 * row["copy_s"] / written)
    row["mpx_s"] = round(options.sections * options.side**2 / row["align_s"] / 1e6, 1)
    if not (last and options.kill) and not options.keep:
        shutil.rmtree(output, ignore_errors=True)
    return row


def _copies(source: Path, options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Copy with the compression that the run will have, and with zstd if that is another one."""
    copy = options.dir / "copy.zarr"
    config = make_config({**json.loads(options.config), "source": str(source), "output": str(copy)})
    codec, processes = pipeline.plan(config).job.render.codec, len(os.sched_getaffinity(0))
    for name in dict.fromkeys([codec, "zstd"]):
        try:
            seconds, parts = best_copy(source, copy, processes=processes, codec=name)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        sys.stderr.write(f"best copy with pyramid, codec {name}: {seconds} s {parts}\n")
        row |= {"codec": name, "copy_s": seconds} if name == codec else {}
        row[f"copy_{name}_s"] = seconds


def _disturbed(source: Path, options: argparse.Namespace, gpus: int) -> dict[str, Any]:
    """Repeat the alignment with a worker killed while it registers; return how far the result is from the last one."""
    row: dict[str, Any] = {"gpus": gpus, "killed": True}
    output = options.dir / "disturbed.zarr"
    with _cluster(gpus, options, row) as executor:
        clock = _Clock(gpus, kill_after=_KILL_AFTER)
        _align(source, output, options, executor, row, clock)
        row["killed_worker"] = clock.killed
    row["largest_difference_px"], _ = _apart(options.dir / "aligned.zarr", output, "fields/section")
    row["largest_difference_grey"], row["pixels_that_differ"] = _apart(
        options.dir / "aligned.zarr", output, "aligned/0"
    )
    shutil.rmtree(output, ignore_errors=True)
    return row


def _apart(one: Path, other: Path, name: str) -> tuple[float, int]:
    """The largest difference of two arrays, and in how many places they differ."""
    a, b = (open_array(str(root / name), mode="r") for root in (one, other))
    largest, count = 0.0, 0
    for z in range(0, a.shape[0], DEPTH):
        x, y = (np.asarray(part[z : z + DEPTH], dtype=np.float32) for part in (a, b))
        count += int(np.count_nonzero(~((x == y) | (np.isnan(x) & np.isnan(y)))))
        largest = max(largest, float(np.nan_to_num(np.abs(x - y)).max()))
    return largest, count


@contextmanager
def _cluster(gpus: int, options: argparse.Namespace, row: dict[str, Any]) -> Iterator[Executor]:
    """Workers that have loaded what they load once."""
    begin = time.perf_counter()
    row["cores"] = len(os.sched_getaffinity(0))
    names = [str(i) for i in range(gpus)]
    executor = start_on_gpus(names, per_gpu=options.per_gpu, threads=options.gpu_threads) if gpus else start_local(None)
    with executor:
        _warm(executor)
        row["start_s"] = round(time.perf_counter() - begin, 2)
        sys.stderr.write(f"cluster up after {row['start_s']} s\n")
        yield executor


def _align(
    source: Path, output: Path, options: argparse.Namespace, executor: Executor, row: dict[str, Any], clock: "_Clock"
) -> None:
    if not options.go_on:
        shutil.rmtree(output, ignore_errors=True)
    config = make_config({**json.loads(options.config), "source": str(source), "output": str(output)})
    begin = time.perf_counter()
    planned = pipeline.plan(config)
    with clock.watching():
        summary = pipeline.run(planned, executor=executor, observer=clock)
    row["align_s"] = round(time.perf_counter() - begin, 2)
    row["stages_s"], row["counts"] = clock.seconds, summary.counts
    row["remarks"] = [f"{r.key}: {r.message}"[:200] for r in summary.remarks[:5]]
    row["failed"] = [f"{r.key}: {r.message}"[:300] for r in summary.failed[:5]]
    row["busy_s"] = {name: round(seconds, 1) for name, seconds in clock.busy.items()}
    row["gpu_busy_percent"] = clock.gpu_busy()
    row["read_mb"], row["written_mb"] = clock.read, clock.written
    row["peak_mb"] = {name: {kind: round(size / 1e6) for kind, size in p.items()} for name, p in clock.peak.items()}
    row["planned_mb"] = {
        name: {"task": round(e.memory / 1e6), "gpu": round(e.gpu_memory / 1e6)} for name, e in planned.estimates.items()
    }
    row["task_s"] = {name: sorted(seconds)[:: max(1, len(seconds) // 12)] for name, seconds in clock.tasks.items()}


class _Clock(SilentObserver):
    """Seconds of every stage and of its tasks together, what they read and wrote, and how busy the GPUs are."""

    def __init__(self, gpus: int, *, kill_after: int | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.tasks: dict[str, list[float]] = {}
        self.read: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.killed = ""
        self._gpus, self._kill_after = gpus, kill_after
        self._since, self._stage = 0.0, ""
        self._seen: dict[str, list[float]] = {}
        self.peak: dict[str, dict[str, float]] = {}
        """Most bytes that were held in each stage: by this process, by one of the workers, by all of them, on a GPU."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at memory twice a second, and ask the driver of the GPUs how busy they are, some times a second."""
        ended = threading.Event()
        memory = threading.Thread(target=self._watch_memory, args=(ended,), daemon=True)
        memory.start()
        try:
            with self._watching_gpus():
                yield
        finally:
            ended.set()
            memory.join()

    def _watch_memory(self, ended: threading.Event) -> None:
        own = psutil.Process()
        while not ended.wait(0.5):
            workers = []
            for child in own.children(recursive=True):
                with suppress(psutil.Error):
                    workers.append(float(child.memory_info().rss))
            self._peaked(driver=float(own.memory_info().rss), worker=max(workers, default=0.0), workers=sum(workers))

    def _peaked(self, **now: float) -> None:
        peak = self.peak.setdefault(self._stage, {})
        for kind, size in now.items():
            peak[kind] = max(peak.get(kind, 0.0), size)

    @contextmanager
    def _watching_gpus(self) -> Iterator[None]:
        asked = "--query-gpu=index,utilization.gpu,memory.used"
        if not self._gpus or shutil.which("nvidia-smi") is None:
            yield
            return
        command = ["nvidia-smi", asked, "--format=csv,noheader,nounits", "-lms", "200"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            watcher = threading.Thread(target=self._watch, args=(process,), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                process.terminate()
                watcher.join()

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            index, percent, held = (part.strip() for part in line.split(","))
            if int(index) < self._gpus and percent.isdigit():
                self._seen.setdefault(self._stage, []).append(float(percent))
                self._peaked(gpu=float(held) * 2**20)

    def gpu_busy(self) -> dict[str, float]:
        """Share of the time in which a GPU had something to do, by stage, mean over the GPUs in use."""
        return {stage: round(float(np.mean(seen)), 1) for stage, seen in self._seen.items() if stage}

    def stage_started(self, event: Any) -> None:
        self._since, self._stage = time.perf_counter(), str(event.stage)

    def task_ended(self, report: TaskReport) -> None:
        self.busy[report.stage] = self.busy.get(report.stage, 0.0) + report.seconds
        self.tasks.setdefault(report.stage, []).append(report.seconds)
        for totals, size in ((self.read, report.bytes_read), (self.written, report.bytes_written)):
            totals[report.stage] = totals.get(report.stage, 0) + round(size / 1e6)
        if report.stage == "register" and len(self.tasks["register"]) == self._kill_after:
            self.killed = report.worker
            os.kill(int(report.worker.rpartition(":")[2]), signal.SIGKILL)

    def stage_ended(self, stage: str) -> None:
        self.seconds[stage] = round(time.perf_counter() - self._since, 2)
        each = sorted(self.tasks.get(stage, [0.0]))
        sys.stderr.write(
            f"{stage}: {self.seconds[stage]} s; {len(each)} tasks, {sum(each):.1f} s, each {each[0]:.2f} to "
            f"{each[-1]:.2f} s, median {each[len(each) // 2]:.2f} s\n"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WarmTask(Task):
    """Loads what a worker loads once."""

    def run(self) -> Result:
        """Do nothing: `_woken` does the work."""
        return Result()

    def footprint(self) -> Footprint:
        """Nothing of a run."""
        return Footprint(reads=(), writes=())


def _warm(executor: Executor) -> None:
    """Wait until every worker has done something."""
    list(executor.map(_woken, (_WarmTask(key=f"render/{i}", output="", digest="", pixels=0) for i in range(64))))


def _woken(task: Task) -> TaskReport:
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
    time.sleep(0.1)
    return TaskReport(key=task.key, digest="", outcome=Outcome.OK)


if __name__ == "__main__":
    main()
