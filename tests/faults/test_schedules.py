"""Random schedules of two drivers and two workers end as one undisturbed run, or in an exit that says why.

Drivers are started, with the same or another configuration; drivers and workers are suspended and killed; shards of
workers arrive late. A schedule is given by its events and by the seed of the interleaving; hypothesis shows both if one
fails. `make fuzz` runs many more.
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from ssem_dask.driver.run_status import run_status
from ssem_dask.storage import arrays, location
from ssem_dask.storage.late_writes import read_notes
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.run_group import is_run
from tests.support.faults import SCHEDULE_SEED, SCHEDULES
from tests.support.shard_pipeline import Config
from tests.support.simulated_drivers import Event, Simulation, simulated

CONFIGS = st.builds(Config, value=st.integers(0, 2), depth=st.sampled_from([1, 2]))
SECONDS = st.sampled_from([1.0, 10.0, 25.0, 40.0, 100.0, 400.0])
LONG = st.sampled_from([100.0, 400.0])
DELAYS = st.integers(0, 60)
"""Steps between two events; a run that nothing disturbs takes about 300."""
DRIVERS = WORKERS = st.integers(0, 1)


@st.composite
def single_event(draw: st.DrawFn) -> list[Event]:
    """Anything happens to anybody."""
    kind = draw(st.sampled_from(["start", "suspend", "kill", "hang"]))
    of_worker = kind == "hang" or (kind != "start" and draw(st.booleans()))
    return [Event(draw(DELAYS), kind, draw(DRIVERS), of_worker, draw(SECONDS), draw(CONFIGS))]


@st.composite
def takeover(draw: st.DrawFn) -> list[Event]:
    """A driver is killed or falls asleep for long, perhaps with late shards of its workers; the other one starts."""
    driver = draw(DRIVERS)
    late = [Event(draw(DELAYS), "hang", draw(WORKERS), True, draw(SECONDS)) for _ in range(draw(st.integers(0, 2)))]
    loss = Event(draw(DELAYS), draw(st.sampled_from(["kill", "suspend"])), driver, False, draw(LONG))
    return [*late, loss, Event(draw(DELAYS), "start", 1 - driver, config=draw(CONFIGS))]


@st.composite
def schedules(draw: st.DrawFn) -> list[Event]:
    """Return some such events, one after the other."""
    events, step = [Event(0, "start", 0, config=draw(CONFIGS))], 0
    for group in draw(st.lists(takeover() | single_event(), min_size=1, max_size=5)):
        for late in group:
            step += late.step
            events.append(replace(late, step=step))
    return events


def assert_as_undisturbed(output: str, config: Config) -> None:
    """The store has the pixels and entries of the configuration, and each page says what its entries say."""
    for stage in ("first", "second"):
        array = arrays.open_array(location.join(output, stage), mode="r")
        assert array.chunks[0] == config.depth
        assert np.asarray(array[:, 0]).tolist() == config.expected(stage).tolist()
        done = open_ledger(output).done(stage)
        assert set(done.values()) == {config.digest(stage)}
    ledger = open_ledger(output)
    for page in ledger.pages(None):
        complete = ledger.complete_page(page)
        assert complete is not None
        loose = ledger.loose_entries(page)
        assert {report.key: report for report in complete} == loose


@seed(SCHEDULE_SEED)
@settings(
    max_examples=SCHEDULES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,) if os.environ.get("NOSHRINK") else (Phase.generate, Phase.shrink),
)
@given(events=schedules(), interleaving=st.integers(0, 2**32 - 1), one_host=st.booleans())
def test_schedules(events: list[Event], interleaving: int, one_host: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="schedule"))
    output = str(folder / "out.zarr")
    try:
        simulation = Simulation(output, seed=interleaving, one_host=one_host)
        with simulated(simulation):
            simulation.run(events)
            simulation.close()
            for error in simulation.errors:
                raise error
            note("\n".join(map(str, simulation.endings)))
            last = max(simulation.endings)
            if simulation.is_unknowable:  # a limit that docs/architecture.md states
                return
            begun = is_run(output)
            config = simulation.config() if begun else events[0].config
            if begun and run_status(output).state == "complete":
                assert_as_undisturbed(output, config)
            elif last.how == "complete":
                assert read_notes(open_ledger(output))  # a shard arrived after that
            for ending in simulation.endings:
                assert ending.how in ("complete", "incomplete", "killed") or ending.how.endswith("."), ending
            simulation.finish(config)
            assert simulation.endings[-1].how == "complete"
            assert run_status(output).state == "complete"
            assert_as_undisturbed(output, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
