"""A run of which thousands of chunks failed: what is shown stays short, and what is planned has all of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssem_dask.config.schema import make_config
from ssem_dask.driver import pipeline
from ssem_dask.storage.ledger import encode, open_ledger
from ssem_dask.storage.run_group import update_run
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.task import Cause, Outcome, TaskReport
from tests.support.cli import ssem_dask
from tests.support.runs import SMALL

SHAPE = (40, 1500, 1500)
"""Windows of 4 sections × 96² px: 2,560 tasks of stage register."""
LOG = "\n".join(f'  File "/opt/ssem_dask/stages/register.py", line {i}, in a_function_of_some_name' for i in range(30))


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """A run whose windows have all failed, each with its log, and the keys of these."""
    folder = tmp_path_factory.mktemp("failures")
    info = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=4.0, section_thickness=40.0)
    source = create_volume(str(folder / "source.zarr"), info=info, chunk=(1, 512, 512), shard=(1, 1536, 1536), mips=1)
    output = str(folder / "out.zarr")
    planned = pipeline.plan(make_config({"source": source.url, "output": output, **SMALL}))
    pipeline.open_run(planned)
    register = next(stage for stage in planned.stages if stage.name == "register")
    keys, ledger = set(), open_ledger(output)
    for number, task in enumerate(task for generation in register.generations(planned.job) for task in generation):
        report = TaskReport(
            key=task.key,
            digest=task.digest,
            outcome=Outcome.FAILED,
            cause=(Cause.IO, Cause.OUT_OF_MEMORY, Cause.BUG)[number % 3],
            message=f"{task.key}: {'something failed that nobody foresaw; ' * 12}try again.",
            attempts=3,
            worker=f"node{number % 40:02d}:4711",
            seconds=1.5,
            log=LOG,
        )
        entry = Path(ledger.entry_url(task.key))
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_bytes(encode(replace(report, pixels=task.pixels)))
        keys.add(task.key)
    update_run(output, state="incomplete")
    return output, keys


def test_all_are_there(failed: tuple[str, set[str]]) -> None:
    assert len(failed[1]) == 2560


def test_status_is_short_and_counts_all(failed: tuple[str, set[str]]) -> None:
    shown = ssem_dask("status", failed[0])
    assert shown.returncode == 1
    text = shown.stdout + shown.stderr
    assert len(text.splitlines()) < 60, text
    assert "2,560 chunks failed: 853 bug, 854 io, 853 out_of_memory" in text
    listed = text.count("│ register/z")
    assert listed >= 3
    assert f"and {2560 - listed} more; --json lists all." in text


def test_json_lists_all(failed: tuple[str, set[str]]) -> None:
    shown = ssem_dask("status", failed[0], "--json")
    assert shown.returncode == 1
    assert {report["key"] for report in json.loads(shown.stdout)["failed"]} == failed[1]


def test_the_report_is_small(failed: tuple[str, set[str]], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    made = ssem_dask("report", failed[0], "--file", str(page))
    assert made.returncode == 0, made.stderr
    assert 10_000 < page.stat().st_size < 500_000
    assert "2560" in page.read_text().replace(",560", "560")


def test_rerun_plans_all(failed: tuple[str, set[str]]) -> None:
    planned = ssem_dask("rerun", failed[0], "--failed", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    again = json.loads(planned.stdout)["again"]
    assert set(again["chosen"]) == failed[1]
    assert not again["changed"] + again["dependent"]


def test_rerun_shows_few(failed: tuple[str, set[str]]) -> None:
    planned = ssem_dask("rerun", failed[0], "--failed", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert len((planned.stdout + planned.stderr).splitlines()) < 60, planned.stdout
    assert "2560" in planned.stdout
