"""The driver that `fix` starts: its progress, its end, and its interruption, with real commands."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ssem_dask.report.fixing.apply_job import ApplyJob

pytestmark = pytest.mark.slow


def ended(job: ApplyJob) -> dict[str, Any]:
    end = time.monotonic() + 60
    while job.state()["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.05)
    return job.state()


def test_a_driver_that_succeeds_is_done_and_the_result_is_shown(tmp_path: Path) -> None:
    shown = threading.Event()
    job = ApplyJob(["certs", str(tmp_path / "tls")], ended=shown.set)
    assert job.state() == {"state": "idle"}
    assert job.start("v1")
    assert not job.start("v2")
    state = ended(job)
    assert (state["state"], state["version"]) == ("done", "v1")
    assert state["seconds"] > 0
    assert shown.is_set()


def test_the_next_driver_waits_ready_and_ends_with_the_page(tmp_path: Path) -> None:
    job = ApplyJob(["certs", str(tmp_path / "tls")], ended=lambda: None)
    job.keep_ready()
    waiting = job._ready
    assert waiting is not None
    assert job.start("v1")
    assert job._process is waiting.process
    assert ended(job)["state"] == "done"
    following = job._ready
    assert following is not None
    # Whoever kills the one that waits does no harm: another one is started.
    following.process.kill()
    following.process.wait()
    job._words = ["certs", str(tmp_path / "other")]
    assert job.start("v2")
    assert ended(job)["state"] == "done"
    last = job._ready
    job.close()
    assert last is not None
    assert last.process.wait(10) is not None
    assert job._ready is None


def test_a_driver_that_fails_says_why(tmp_path: Path) -> None:
    job = ApplyJob(["rerun", str(tmp_path / "none.zarr"), "--json"], ended=lambda: pytest.fail("nothing to show"))
    job.start("v1")
    state = ended(job)
    assert state["state"] == "failed"
    assert "none.zarr" in state["message"]
    assert not state["message"].startswith("error:")
    assert job.start("v2")  # it can be tried again
    ended(job)


def test_a_driver_can_be_interrupted(tmp_path: Path) -> None:
    words = ["simulate", "phantom", str(tmp_path / "v.zarr"), "--seed", "1", "--sections", "400", "--size", "1024"]
    job = ApplyJob(words, ended=lambda: pytest.fail("nothing to show"))
    job.start("v1")
    time.sleep(4.0)
    job.stop()
    state = ended(job)
    assert state["state"] == "failed"
    assert "Interrupted" in state["message"]


def test_events_become_progress() -> None:
    job = ApplyJob([], ended=lambda: None)
    job._state = {"state": "running", "started": time.monotonic(), "version": "v"}
    lines: Any = []
    job._hear('{"event": "progress", "stage": "register", "done": 2, "tasks": 5, "pixels": 7}', lines)
    job._hear('{"event": "note", "message": "a remark"}', lines)
    job._hear("error: broken", lines)
    job._hear("17", lines)
    assert job.state()["progress"] == {"stage": "register", "done": 2, "tasks": 5}
    assert lines == ["a remark", "error: broken", "17"]
