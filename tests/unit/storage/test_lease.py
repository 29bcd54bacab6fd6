"""A run has one driver: alive, it keeps others out; dead, it is succeeded."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from ssem_dask.errors import OutputError
from ssem_dask.storage import lease, location
from ssem_dask.storage.lease import Holder, hold_lease, is_held, read_holder


def put(url: str, *, host: str, process: int = 4, beat: int = 0, name: str = "other") -> None:
    holder = Holder(name=name, host=host, process=process, born="7", since="then", beat=beat)
    location.write_bytes(url, json.dumps(asdict(holder)).encode())


def test_one_at_a_time(place: str):
    url = location.join(place, "driver.lease")
    assert not is_held(url)
    with hold_lease(url):
        assert is_held(url)
        with (
            pytest.raises(OutputError, match=f"process {os.getpid()} on .* is at work on this output"),
            hold_lease(url),
        ):
            raise AssertionError
        assert is_held(url)
    assert not is_held(url)
    with hold_lease(url) as again:
        again.check()


def test_of_many_at_once_one_wins(place: str):
    url = location.join(place, "driver.lease")
    inside, refused = [], []
    start, end = threading.Barrier(6), threading.Event()

    def drive() -> None:
        start.wait()
        try:
            with hold_lease(url):
                inside.append(1)
                end.wait(10)
        except OutputError:
            refused.append(1)
            if len(refused) == 5:
                end.set()

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 5)


def test_a_dead_process_of_this_host_is_succeeded_at_once(tmp_path: Path):
    url = str(tmp_path / "driver.lease")
    script = (
        "import os, signal\n"
        "from ssem_dask.storage.lease import hold_lease\n"
        f"with hold_lease({url!r}):\n os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert read_holder(url) is not None
    assert not is_held(url)
    with hold_lease(url) as own:
        own.check()


def test_another_host_is_given_time_to_show_that_it_lives(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "driver.lease")
    monkeypatch.setattr(lease, "EXPIRY_S", 1.0)
    monkeypatch.setattr(lease, "_POLL_S", 0.05)
    put(url, host="elsewhere")
    beats = threading.Timer(0.3, put, (url,), {"host": "elsewhere", "beat": 1})
    beats.start()
    with pytest.raises(OutputError, match="process 4 on elsewhere"), hold_lease(url):
        raise AssertionError
    beats.join()
    with hold_lease(url):  # it beats no more
        assert is_held(url)


def check_for(own: lease.Lease, *, seconds: float) -> None:
    """Check a lease until the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        own.check()
        time.sleep(0.01)


def test_one_that_was_taken_for_dead_stops(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "driver.lease")
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    with hold_lease(url) as own:
        own.check()
        put(url, host="elsewhere", name="successor")
        with pytest.raises(OutputError, match=r"elsewhere .* has taken this run over"):
            check_for(own, seconds=5.0)  # the next beat notices
    found = read_holder(url)
    assert found is not None
    assert found.name == "successor"  # whose lease is left alone


def test_the_lease_is_renewed(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "driver.lease")
    monkeypatch.setattr(lease, "RENEWAL_S", 0.02)
    with hold_lease(url) as own:
        while (found := read_holder(url)) is None or found.beat < 3:
            own.check()


def test_a_torn_lease_is_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "EXPIRY_S", 0.2)
    monkeypatch.setattr(lease, "_POLL_S", 0.05)
    url = str(tmp_path / "driver.lease")
    location.write_bytes(url, b'{"name": "x", "ho')
    with hold_lease(url) as own:
        own.check()
