"""Display of the progress of a run that was started elsewhere: `ssem-dask status --watch`."""

import json
import time
from collections.abc import Callable

from rich.live import Live

from ssem_dask.cli import console
from ssem_dask.cli.progress_display import bars, describe
from ssem_dask.cli.streams import reader_is_gone
from ssem_dask.driver.rerun import stored_plan
from ssem_dask.runtime.progress import StageProgress
from ssem_dask.runtime.watch import LedgerWatch
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import read_run
from ssem_dask.units import plural

RUNNING = "running"


def watch(output: str, *, seconds: float, as_json: bool, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the progress of a run until it ends.

    Args:
        output: URL of the run.
        seconds: time between two updates.
        as_json: write one JSON object per update to stderr instead of bars.
        sleep: function that waits.

    Raises:
        SourceError: the run does not exist, or its source cannot be read.
    """
    planned = stored_plan(output)
    ledger = LedgerWatch(
        open_ledger(output),
        tasks={name: estimate.tasks for name, estimate in planned.estimates.items()},
        pixels={name: estimate.pixels for name, estimate in planned.estimates.items()},
        digests=planned.job.digests,
    )
    if as_json:
        _repeat(output, ledger, _write_event, seconds=seconds, sleep=sleep)
    elif console.out.is_terminal:
        with Live(console=console.out, auto_refresh=False) as live:
            _repeat(
                output,
                ledger,
                lambda _, stages: live.update(bars(stages, now=time.monotonic(), load=None), refresh=True),
                seconds=seconds,
                sleep=sleep,
            )
    else:
        _repeat(output, ledger, _Lines().show, seconds=seconds, sleep=sleep)


def _repeat(
    output: str,
    ledger: LedgerWatch,
    show: Callable[[str, list[StageProgress]], None],
    *,
    seconds: float,
    sleep: Callable[[float], None],
) -> None:
    while True:
        state = read_run(output).state  # read before the ledger, so that the last update misses nothing
        show(state, ledger.poll())
        if state != RUNNING or reader_is_gone():
            return
        sleep(seconds)


def _write_event(state: str, stages: list[StageProgress]) -> None:
    now = time.monotonic()
    line = {"event": "progress", "state": state, "stages": [stage.numbers(now, None) for stage in stages]}
    console.err.file.write(json.dumps(line) + "\n")
    console.err.file.flush()


class _Lines:
    """One line per update about the running stage."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, _state: str, stages: list[StageProgress]) -> None:
        """Print the line, if it differs from the last one."""
        now = time.monotonic()
        stage = next((s for s in stages if s.done < s.tasks), stages[-1])
        line = f"{stage.stage}: {stage.done:,} of {plural(stage.tasks, 'task')}, {describe(stage, now=now, load=None)}"
        if line != self._last:
            self._last = line
            console.line(line)
