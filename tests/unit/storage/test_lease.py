"""An output has one holder at a time: alive, it keeps others out; dead, it is succeeded; replaced, it finds out."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ssem_dask.errors import LeaseLostError, OutputError
from ssem_dask.storage import holder as holders
from ssem_dask.storage import lease, local_files, location
from ssem_dask.storage.holder import Holder, this_process
from ssem_dask.storage.lease import hold_lease, is_held, read_holder
from ssem_dask.storage.untrusted import JSON_OBJECT, read_hint

ELSEWHERE = Holder(name="other", host="elsewhere", boot="4", namespace="4", process=4, born="7", since="then")


class StepClock(lease.SystemClock):
    """A clock that moves only when somebody sleeps or a test moves it; nothing is repeated by itself."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def repeat(self, call, *, every):
        self.call = call
        return lambda: None


def put(url: str, *, number: int = 1, holder: Holder = ELSEWHERE) -> None:
    location.write_bytes(location.join(url, f"{number:08d}"), json.dumps(asdict(holder)).encode())


def beat(url: str, *, number: int = 1, beats: int = 0) -> None:
    location.write_bytes(location.join(url, f"{number:08d}.beat"), json.dumps({"beats": beats}).encode())


@contextmanager
def hold_quickly(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[lease.Lease]:
    """Hold a lease that is renewed 20 times a second."""
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    with hold_lease(url) as own:
        yield own


def check_for(own: lease.Lease, *, seconds: float) -> None:
    """Check a lease until the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        own.check()
        time.sleep(0.01)


def test_one_at_a_time(place: str):
    url = location.join(place, "drivers.lease")
    assert not is_held(url)
    with hold_lease(url) as first:
        assert is_held(url)
        with pytest.raises(OutputError, match=f"process {os.getpid()} on .* is at work"), hold_lease(url):
            raise AssertionError
        assert is_held(url)
        first.confirm()
    assert not is_held(url)
    with hold_lease(url) as again:
        again.confirm()
        assert again.claim.generation == first.claim.generation + 1
        with pytest.raises(LeaseLostError):
            first.confirm()


def test_of_many_at_once_one_wins(place: str):
    url = location.join(place, "drivers.lease")
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


def test_of_many_that_succeed_a_dead_one_one_wins(place: str):
    url = location.join(place, "drivers.lease")
    dead = replace(this_process(), process=1 << 22, born="1")  # beyond the highest id of a process
    for _ in range(5):
        number = len(location.list_names(url)) + 1
        put(url, number=number, holder=dead)
        held: list[lease.Lease] = []
        start, end = threading.Barrier(4), threading.Barrier(4)

        def drive() -> None:
            start.wait()  # noqa: B023
            try:
                with hold_lease(url) as own:
                    held.append(own)  # noqa: B023
                    end.wait(10)  # noqa: B023
                    own.confirm()
            except OutputError:
                end.wait(10)  # noqa: B023

        threads = [threading.Thread(target=drive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1


def test_a_dead_process_of_this_host_is_succeeded_at_once(tmp_path: Path):
    url = str(tmp_path / "drivers.lease")
    script = (
        "import os, signal\n"
        "from ssem_dask.storage.lease import hold_lease\n"
        f"with hold_lease({url!r}):\n os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert read_holder(url) is not None
    assert not is_held(url)
    clock = StepClock()
    with hold_lease(url, clock=clock) as own:
        own.confirm()
    assert clock.now() == 0


@pytest.mark.parametrize("field", ["host", "boot", "namespace"])
def test_a_process_is_looked_up_only_where_it_runs(place: str, field: str):
    """A holder on a machine of the same name, or in another container, is given time, however /proc looks here."""
    url = location.join(place, "drivers.lease")
    clock = StepClock()
    put(url, holder=replace(this_process(), process=1 << 22, **{field: "another"}))
    assert is_held(url)
    with hold_lease(url, clock=clock):
        assert clock.now() >= lease.EXPIRY_S


def test_a_lease_that_this_process_could_not_give_back_is_nobodys(place: str):
    url = location.join(place, "drivers.lease")
    put(url, holder=this_process())
    assert not is_held(url)
    with hold_lease(url) as own:
        own.confirm()


def test_another_host_is_given_time_to_show_that_it_lives(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "drivers.lease")
    monkeypatch.setattr(lease, "EXPIRY_S", 1.0)
    monkeypatch.setattr(lease, "_POLL_S", 0.05)
    put(url)
    beats = threading.Timer(0.3, beat, (url,), {"beats": 1})
    beats.start()
    with pytest.raises(OutputError, match="process 4 on elsewhere"), hold_lease(url):
        raise AssertionError
    beats.join()
    with hold_lease(url):  # it beats no more
        assert is_held(url)


def test_one_that_was_taken_for_dead_stops(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "drivers.lease")
    with hold_quickly(url, monkeypatch) as own:
        own.check()
        put(url, number=2, holder=replace(ELSEWHERE, name="successor"))
        with pytest.raises(LeaseLostError, match=r"elsewhere .* has taken it over"):
            check_for(own, seconds=5.0)  # the next beat notices
    found = read_holder(url)
    assert found is not None
    assert found.name == "successor"  # whose lease is left alone


def test_one_that_slept_is_stopped_though_its_successor_has_ended(place: str):
    url = location.join(place, "drivers.lease")
    clock = StepClock()
    with hold_lease(url, clock=clock, holder=replace(this_process(), host="first")) as sleeper:
        beat_of_sleeper = clock.call
        for _ in range(5):  # so many that the first claim is deleted
            with hold_lease(url, clock=clock) as other:
                other.check()
        assert not is_held(url)
        with pytest.raises(LeaseLostError, match="has taken it over"):
            sleeper.check()  # no beat: the clock counts the time of its sleep
        assert not beat_of_sleeper()
    assert not is_held(url)


def test_the_cheap_check_relies_on_no_beat_that_is_old(place: str):
    clock = StepClock()
    url = location.join(place, "drivers.lease")
    with hold_lease(url, clock=clock) as own:
        put(url, number=2)
        clock.seconds += lease.VALID_S - 1
        own.check()  # nobody could have taken it over yet
        clock.seconds += 2
        with pytest.raises(LeaseLostError):
            own.check()


@pytest.mark.parametrize("other", [None, ELSEWHERE])
def test_an_output_that_was_removed_is_reported_as_such(place: str, other: Holder | None):
    url = location.join(place, "ledger", "drivers.lease")
    clock = StepClock()
    with hold_lease(url, output=place, clock=clock) as own:
        location.delete(place, recursive=True)
        if other is not None:  # and begun again by somebody else
            put(url, holder=other)
        with pytest.raises(LeaseLostError, match=f"{place}: the output was removed while it was written"):
            own.confirm()
        assert not clock.call()
    assert location.exists(place) == (other is not None)  # the beats do not make it again


def test_the_lease_is_renewed(place: str, monkeypatch: pytest.MonkeyPatch):
    url = location.join(place, "drivers.lease")
    with hold_quickly(url, monkeypatch) as own:
        beats = lambda: read_hint(location.join(url, "00000001.beat"), JSON_OBJECT) or {"beats": 0}  # noqa: E731
        while beats()["beats"] < 3:
            own.check()


def test_a_lease_that_is_not_kept_leaves_nothing(place: str):
    url = location.join(place, "import.lease")
    for _ in range(2):
        with hold_lease(url, keep=False) as own:
            own.confirm()
            assert own.claim.generation == 1
        assert location.list_names(url) == []
        with pytest.raises(LeaseLostError):
            own.confirm()


def test_who_begins_to_count_anew_meets_nobody_who_goes_on(place: str, monkeypatch: pytest.MonkeyPatch):
    """A contender listed the claims of a lease that then was not kept: it must not hold it beside one that is new."""
    url = location.join(place, "import.lease")
    clock = StepClock()
    put(url, number=6)
    held: list[lease.Lease] = []
    create = location.create_bytes

    def interrupted(at: str, content: bytes) -> bool:
        monkeypatch.setattr(location, "create_bytes", create)
        location.delete(location.join(url, f"{6:08d}"), recursive=False)
        context = hold_lease(url, clock=clock)
        held.append(context.__enter__())
        held[0].context = context  # type: ignore[attr-defined]  # or it would end here
        return create(at, content)

    monkeypatch.setattr(location, "create_bytes", interrupted)
    with pytest.raises(OutputError, match="is at work"), hold_lease(url, clock=clock):
        raise AssertionError
    held[0].confirm()
    held[0].release()


@pytest.mark.parametrize("content", [b"", b'{"name": "x", "ho', b"[]", b'{"name": 4}', b"\xff"])
def test_a_torn_claim_is_succeeded(place: str, content: bytes):
    url = location.join(place, "drivers.lease")
    location.write_bytes(location.join(url, "00000001"), content)
    with hold_lease(url, clock=StepClock()) as own:
        own.confirm()
        assert own.claim.generation == 2


def test_a_claim_that_cannot_be_read_is_succeeded(tmp_path: Path):
    (tmp_path / "00000001").symlink_to("/nonexistent/x")
    with hold_lease(str(tmp_path), clock=StepClock()) as own:
        own.confirm()


def test_a_folder_that_points_nowhere_is_refused(tmp_path: Path):
    url = tmp_path / "drivers.lease"
    url.symlink_to("/nonexistent/x")
    with pytest.raises(OutputError, match="a file is in the way"), hold_lease(str(url)):
        raise AssertionError


def test_a_store_that_contradicts_itself_is_given_up(place: str, monkeypatch: pytest.MonkeyPatch):
    clock = StepClock()
    monkeypatch.setattr(location, "create_bytes", lambda url, content: False)
    with pytest.raises(OutputError, match="refuses a new file"), hold_lease(location.join(place, "x"), clock=clock):
        raise AssertionError
    assert 0 < clock.now() < 60


def test_a_store_without_exclusive_creation_lets_the_later_one_hold(place: str, monkeypatch: pytest.MonkeyPatch):
    def overwrite(url: str, content: bytes) -> bool:
        location.write_bytes(url, content)
        return True

    monkeypatch.setattr(location, "create_bytes", overwrite)
    url = location.join(place, "drivers.lease")
    with hold_lease(url, clock=StepClock()) as first:
        put(url, number=1)
        with pytest.raises(LeaseLostError):
            first.confirm()


def test_a_file_system_without_hard_links_holds_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with hold_lease(str(tmp_path / "x")) as own:
        own.confirm()
        with pytest.raises(OutputError, match="is at work"), hold_lease(str(tmp_path / "x")):
            raise AssertionError
    assert not local_files.create_file(tmp_path / "x" / "00000001", b"")
    assert location.list_names(str(tmp_path / "x")) == ["00000001", "00000001.beat"]


def test_live_names_hold_no_name_of_an_ended_lease(place: str):
    with hold_lease(location.join(place, "x")) as own:
        assert own.claim.name in holders.LIVE_NAMES
    assert own.claim.name not in holders.LIVE_NAMES
