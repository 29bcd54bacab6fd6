"""A volume of a petabyte through the real plan, ledger and driver, on simulated workers.

What is real: the volume's metadata on disk, `pipeline.plan`, `pipeline.run` with its lease, its search for stale
entries, the stages' own tasks, the count of what ends, and the pages of the ledger, which are written and read back.
What is simulated: a task is not done; it ends after the seconds that such a task takes, on a virtual clock, out of
order, as on the largest number of workers asked for. Its entry, which its worker would write, is counted, and written
only when its page is forgotten.

Of 25,000 sections the first `--sections` are taken; a section is whole. On the virtual clock every task costs the
driver 20 µs, and what Dask's client and scheduler take for a task that does nothing, measured on a local cluster.

    python -m benchmarks.scale                        # 1,000 sections: some minutes
    python -m benchmarks.scale --sections 25000       # all: about an hour
    python -m benchmarks.scale --json scale.json
"""

import argparse
import gc
import heapq
import json
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.events import SilentObserver
from ssem_dask.runtime.executor import Executor, ExecutorLoad, Work
from ssem_dask.storage.ledger import Ledger, encode
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.task import Cause, Outcome, Task, TaskReport
from tests.support.function_tasks import FunctionTask

SECTIONS = 25_000
SIDE = 200_000
WORKERS = (1, 10, 100, 1_000, 10_000)
SECONDS = {"coarse": 60.0, "register": 200.0, "compose": 60.0, "render": 160.0, "downsample": 4.0, "measure": 60.0}
"""Mean seconds of a task by stage, unless a recorded run gives others: about what a core of 2024 takes.
A task of render covers 4 × 4 shards of a large volume, of 10 s each."""
_FAILING = 2e-5
_NOTHING = SilentObserver()


class Cluster:
    """Some workers on a virtual clock: at most two tasks a worker are given out, one driver gives them out."""

    def __init__(self, workers: int, overhead: float) -> None:
        """`overhead`: seconds of the driver for each task, one after the other."""
        self.workers, self._overhead = workers, overhead
        self._free = [0.0] * workers
        self._ends: list[float] = []
        self._driver = 0.0
        self.busy = 0.0

    def do(self, seconds: float) -> float:
        """Give out a task; the time at which it ends."""
        if len(self._ends) >= 2 * self.workers:
            self._driver = max(self._driver, heapq.heappop(self._ends))
        self._driver += self._overhead
        end = max(self._free[0], self._driver) + seconds
        heapq.heapreplace(self._free, end)
        heapq.heappush(self._ends, end)
        self.busy += seconds
        return end

    def wait(self) -> float:
        """Wait for all, as between two generations; the time then."""
        self._driver = max(self._driver, *self._free)
        self._ends.clear()
        return self._driver


@dataclass
class Spent:
    """Cost of a driver, over all stages."""

    tasks: int = 0
    driver: float = 0.0
    """CPU seconds in the package's own code: making tasks, and taking reports."""


class SimulatedExecutor(Executor):
    """Ends each task after its time, in the order in which the largest of some simulated clusters would."""

    dashboard: str | None = None

    def __init__(
        self, workers: Sequence[int], *, overhead: float, seconds: Mapping[str, float], failing: float = 0.0
    ) -> None:
        self.clusters = [Cluster(count, overhead) for count in sorted(workers)]
        self._seconds, self._failing = seconds, failing
        self.spent: dict[str, Spent] = {}
        self.makespans: dict[str, list[float]] = {}
        """By stage, for each cluster, the time at which it ended."""

    def map(self, work: Work, tasks: Iterable[Task]) -> Iterator[TaskReport]:
        """Run no task; see above."""
        waiting = iter(tasks)
        limit = 2 * self.clusters[-1].workers
        flying: list[tuple[float, int, TaskReport]] = []
        stage, number = "", 0
        clock = time.process_time
        driver = 0.0
        while True:
            before = clock()
            task = next(waiting, None)
            driver += clock() - before
            if task is not None:
                stage, number = task.stage, number + 1
                chance = zlib.crc32(task.key.encode()) / 2**32
                seconds = self._seconds.get(stage, 10.0) * (0.5 + chance)
                end = [cluster.do(seconds) for cluster in self.clusters][-1]
                heapq.heappush(flying, (end, number, self._report(task, seconds, chance)))
            if not flying:
                break
            if task is None or len(flying) >= limit:
                report = heapq.heappop(flying)[2]
                before = clock()
                yield report
                driver += clock() - before
        if number:
            spent = self.spent.setdefault(stage, Spent())
            spent.tasks, spent.driver = spent.tasks + number, spent.driver + driver
            self.makespans[stage] = [cluster.wait() for cluster in self.clusters]

    def _report(self, task: Task, seconds: float, chance: float) -> TaskReport:
        failed = task.stage == "render" and chance < self._failing and task.attempt == 1
        return TaskReport(
            key=task.key,
            digest=task.digest,
            outcome=Outcome.FAILED if failed else Outcome.OK,
            cause=Cause.OUT_OF_MEMORY if failed else None,
            attempts=task.attempt,
            worker="node0001:4711",
            started="2026-01-02T03:04:05+00:00",
            seconds=seconds,
            pixels=task.pixels,
            bytes_read=task.pixels,
            bytes_written=task.pixels,
            files={f"fields/pairs/c/{task.key[-30:]}": 123456},
        )

    def load(self) -> ExecutorLoad:
        """Not asked."""
        return ExecutorLoad(running=0, workers=self.clusters[-1].workers)

    def publish(self, numbers: Mapping[str, Any]) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Measured:
    """Result of a simulated run."""

    sections: int
    side: int
    bytes: int
    tasks: int
    plan_seconds: float
    run_seconds: float
    """CPU seconds of the whole run, simulation included."""
    driver_microseconds: float
    """A task."""
    resume_seconds: float
    """CPU seconds of a second run that does again what had failed, and finds all else done."""
    done_again: int
    peak_bytes: int
    """Peak memory of this process, with everything that it has imported."""
    imported_bytes: int
    """Memory of this process before the plan."""
    pages: int
    ledger_bytes: int
    overhead_microseconds: float
    """CPU seconds of driver, Dask's client and scheduler per task."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    clusters: list[dict[str, float]] = field(default_factory=list)


def measure_dask(folder: Path, *, tasks: int = 3000) -> float:
    """CPU seconds that Dask's client and its scheduler, both in this process, take for a task that does nothing."""
    with open_cluster("local", workers=2) as executor:
        given = [FunctionTask(key=f"none/{i:06d}", output=str(folder), digest="", pixels=0) for i in range(tasks)]
        list(executor.map(nothing, given[:200]))
        start = time.process_time()
        count = sum(1 for _ in executor.map(nothing, given))
        return (time.process_time() - start) / count


def nothing(task: Task) -> TaskReport:
    """Do nothing."""
    return TaskReport(key=task.key, digest=task.digest, outcome=Outcome.OK)


def make_source(folder: Path, *, sections: int, side: int) -> str:
    """A volume of which one chunk holds something."""
    info = VolumeInfo(shape=(sections, side, side), dtype=np.dtype("uint8"), pixel_size=2.5, section_thickness=40.0)
    volume = create_volume(str(folder / "source.zarr"), info=info, chunk=(1, 512, 512), shard=(1, 2048, 2048), mips=1)
    middle = sections // 2
    box = Box((middle, 0, 0), (middle + 1, min(2048, side), min(2048, side)))
    volume.write(box, np.random.default_rng(1).integers(1, 255, box.shape, dtype="uint8"))
    return volume.url


def simulate_run(
    folder: Path,
    *,
    sections: int,
    side: int,
    workers: Sequence[int],
    dask_seconds: float,
    seconds: Mapping[str, float] = SECONDS,
    driver_seconds: float = 20e-6,
    failing: float = _FAILING,
) -> Measured:
    """Plan a volume and run it on simulated workers, twice.

    Args:
        folder: for the source's metadata and the run.
        sections: of the volume.
        side: of a section, px.
        workers: numbers of them.
        dask_seconds: a task.
        seconds: mean of a task by stage.
        driver_seconds: of the driver's own for each task on the virtual clock.
        failing: share of the tasks of stage render that fail at first.
    """
    source = make_source(folder, sections=sections, side=side)
    gc.collect()
    imported = _peak()
    start = time.process_time()
    planned = pipeline.plan(make_config({"source": source, "output": str(folder / "out.zarr")}))
    plan_seconds = time.process_time() - start
    overhead = dask_seconds + driver_seconds
    executor = SimulatedExecutor(workers, overhead=overhead, seconds=seconds, failing=failing)
    start = time.process_time()
    first = pipeline.run(planned, executor=executor, observer=_NOTHING, allow_missing=True)
    run_seconds = time.process_time() - start
    tasks = sum(spent.tasks for spent in executor.spent.values())
    driver = sum(spent.driver for spent in executor.spent.values())
    again = SimulatedExecutor(workers[-1:], overhead=overhead, seconds=seconds)
    start = time.process_time()
    with patch.object(Ledger, "forget_page", _forget_page):
        second = pipeline.run(planned, executor=again, observer=_NOTHING, allow_missing=True)
    resume_seconds = time.process_time() - start
    if second.state != "complete":
        raise RuntimeError(f"The second run left {len(second.failed)} tasks; something is wrong with the ledger.")
    ledger = Ledger(str(folder / "out.zarr" / "ledger"))
    measured = Measured(
        sections=sections,
        side=side,
        bytes=sections * side * side,
        tasks=tasks,
        plan_seconds=plan_seconds,
        run_seconds=run_seconds,
        driver_microseconds=driver / tasks * 1e6,
        resume_seconds=resume_seconds,
        done_again=sum(spent.tasks for spent in again.spent.values()),
        peak_bytes=_peak(),
        imported_bytes=imported,
        pages=len(ledger.pages(None)),
        ledger_bytes=sum(path.stat().st_size for path in (folder / "out.zarr" / "ledger").rglob("whole.page")),
        overhead_microseconds=overhead * 1e6,
    )
    assert first.counts.keys() == second.counts.keys()
    for stage, spent in executor.spent.items():
        mean = seconds.get(stage, 10.0)
        measured.stages[stage] = {
            "tasks": spent.tasks,
            "seconds": mean,
            "driver_microseconds": spent.driver / spent.tasks * 1e6,
            "workers_kept_busy": mean / overhead,
        }
    for i, cluster in enumerate(executor.clusters):
        makespan = max(ends[i] for ends in executor.makespans.values())
        measured.clusters.append(
            {
                "workers": cluster.workers,
                "makespan": makespan,
                "ideal": cluster.busy / cluster.workers,
                "efficiency": cluster.busy / cluster.workers / makespan,
                "ledger_operations_per_second": (tasks + measured.pages) / makespan,
            }
        )
    return measured


def recorded_seconds(run: str) -> dict[str, float]:
    """Mean seconds of the tasks of a finished run by stage; a task is of the size that run had."""
    total: dict[str, list[float]] = {}
    for report in Ledger(f"{run}/ledger").reports(None):
        if report.pixels:
            total.setdefault(report.stage, []).append(report.seconds)
    return {stage: float(np.mean(values)) for stage, values in total.items()}


def show(measured: Measured, console: Console) -> None:
    """Print it."""
    share = SECTIONS * SIDE**2 / measured.bytes
    console.print(
        f"{measured.sections:,} sections of {measured.side:,}² px = {measured.bytes / 1e12:,.1f} TB, "
        f"{'1/' + format(share, '.3g') if share > 1 else 'all'} of a petabyte; {measured.tasks:,} tasks, "
        f"windows of register as planned"
    )
    console.print(
        f"plan: {measured.plan_seconds:.2f} s. driver: {measured.driver_microseconds:.1f} µs CPU a task, peak "
        f"{measured.peak_bytes / 2**20:,.0f} MiB, of which {measured.imported_bytes / 2**20:,.0f} MiB before the plan. "
        f"second run: {measured.resume_seconds:.1f} s CPU, {measured.done_again:,} tasks done again"
    )
    console.print(
        f"ledger: {measured.tasks:,} entries written by workers, {measured.pages:,} pages by the driver "
        f"({measured.ledger_bytes / 1e6:,.0f} MB); Dask and driver: {measured.overhead_microseconds:.0f} µs a task"
    )
    stages = Table("stage", "tasks", "s a task (assumed)", "driver µs a task", "workers that one driver keeps busy")
    for name, row in measured.stages.items():
        stages.add_row(
            name,
            f"{row['tasks']:,.0f}",
            f"{row['seconds']:.3g}",
            f"{row['driver_microseconds']:.1f}",
            f"{row['workers_kept_busy']:,.0f}",
        )
    console.print(stages)
    clusters = Table("workers", "makespan (h)", "of ideal", "scheduler overhead (h)", "ledger writes a s")
    for row in measured.clusters:
        clusters.add_row(
            f"{row['workers']:,}",
            f"{row['makespan'] / 3600:,.2f}",
            f"{row['efficiency']:.0%}",
            f"{(row['makespan'] - row['ideal']) / 3600:,.2f}",
            f"{row['ledger_operations_per_second']:,.1f}",
        )
    console.print(clusters)
    least = min(row["workers_kept_busy"] for row in measured.stages.values())
    console.print(
        f"It stops scaling at about {least:,.0f} workers, where the shortest tasks end faster than one driver "
        "gives them out."
    )


def _forget_page(ledger: Ledger, page: str, forget: Callable[[Ledger, str], None] = Ledger.forget_page) -> None:
    """Forget a page, whose entries are then there, as its workers would have written them."""
    for report in ledger.complete_page(page) or ():
        path = Path(ledger.entry_url(report.key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(report))
    forget(ledger, page)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=1000)
    parser.add_argument("--side", type=int, default=SIDE, help="px")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--recorded", help="a finished run, whose tasks' mean seconds are taken")
    parser.add_argument("--dask", type=float, help="µs that Dask takes a task; default: measured here")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console(width=130)
    seconds = {**SECONDS, **(recorded_seconds(given.recorded) if given.recorded else {})}
    with tempfile.TemporaryDirectory() as folder:
        dask = measure_dask(Path(folder)) if given.dask is None else given.dask * 1e-6
        measured = simulate_run(
            Path(folder),
            sections=given.sections,
            side=given.side,
            workers=sorted(given.workers),
            dask_seconds=dask,
            seconds=seconds,
        )
    show(measured, console)
    if given.json:
        given.json.write_text(json.dumps(asdict(measured), indent=1))


if __name__ == "__main__":
    main()
