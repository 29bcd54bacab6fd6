import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssem_dask.errors import OutputError
from ssem_dask.storage import location
from ssem_dask.storage.ledger import Ledger, encode, page_of
from ssem_dask.task import Cause, Outcome, TaskReport
from tests.support.peak_memory import peak_growth


def report(key: str, *, outcome: Outcome = Outcome.OK, digest: str = "d") -> TaskReport:
    return TaskReport(key=key, digest=digest, outcome=outcome)


@given(
    entry=st.builds(
        TaskReport,
        key=st.just("register/z0000-y0000-x0000"),
        digest=st.text(),
        outcome=st.sampled_from(Outcome),
        cause=st.none() | st.sampled_from(Cause),
        message=st.text(),
        attempts=st.integers(1, 9),
        seconds=st.floats(0, 1e9),
        pixels=st.integers(0, 2**60),
        log=st.text(),
    )
)
def test_a_report_comes_back_as_it_was(entry: TaskReport):
    ledger = Ledger("memory://ledger-law")
    ledger.write(entry)
    assert ledger.read(entry.key) == entry


def test_reports_by_stage(place: str):
    ledger = Ledger(place)
    assert list(ledger.reports(None)) == []
    assert ledger.read("coarse/a") is None
    for key in ("register/z1", "coarse/a", "register/z0"):
        ledger.write(report(key))
    ledger.write(report("register/z2", outcome=Outcome.FAILED))
    ledger.write(report("register/z3", outcome=Outcome.NO_TISSUE, digest="other"))
    assert [entry.key for entry in ledger.reports("register")] == [f"register/z{z}" for z in range(4)]
    assert next(entry.key for entry in ledger.reports(None)) == "coarse/a"
    assert ledger.done("register") == {"register/z0": "d", "register/z1": "d", "register/z3": "other"}
    ledger.delete("register/z0")
    ledger.delete("register/z0")
    assert ledger.keys("register") == ["register/z1", "register/z2", "register/z3"]


def test_a_torn_entry_reads_as_not_done(place: str):
    ledger = Ledger(place)
    ledger.write(report("render/a"))
    whole = location.read_bytes(location.join(place, "render/a.json"))
    for length in range(len(whole)):
        location.write_bytes(location.join(place, "render/a.json"), whole[:length])
        assert ledger.read("render/a") is None
    assert ledger.done("render") == {}
    location.write_bytes(location.join(place, "render/a.json"), whole)
    assert ledger.done("render") == {"render/a": "d"}


@pytest.mark.parametrize(
    "content", [b"[]", b'{"key": "render/a"}', b"\xff\x00", b'{"key":"b","digest":"","outcome":"ok"}']
)
def test_an_invalid_entry_reads_as_not_done(place: str, content: bytes):
    location.write_bytes(location.join(place, "render/a.json"), content)
    assert Ledger(place).read("render/a") is None
    assert list(Ledger(place).reports("render")) == []
    assert Ledger(place).keys("render") == ["render/a"]


@pytest.mark.slow
def test_ten_thousand_entries_are_listed_and_read_quickly(tmp_path: Path):
    ledger = Ledger(str(tmp_path))
    ledger.write(report("register/z0"))
    content = (tmp_path / "register" / "z0.json").read_bytes()
    for z in range(1, 10_000):
        (tmp_path / "register" / f"z{z}.json").write_bytes(content.replace(b"z0", b"z%d" % z))
    start = time.process_time()  # not the clock on the wall, which other tests share
    assert len(ledger.keys("register")) == 10_000
    listed = time.process_time()
    assert len(ledger.done("register")) == 10_000
    assert listed - start < 1  # measured: 0.07 s
    assert time.process_time() - listed < 5  # measured: 0.55 s


def test_a_page_that_is_complete_is_read_at_once_and_forgotten_before_an_entry_changes(place: str):
    ledger = Ledger(place)
    keys = [f"register/z000008-y0000000-x{x:07d}" for x in range(3)]
    for key in (*keys, "coarse/sections"):
        ledger.write(report(key))
    assert ledger.pages("register") == ["register/z000008"]
    assert ledger.complete_page("register/z000008") is None
    ledger.write_page("register/z000008", [encode(report(key)) for key in keys])
    assert ledger.entries("register/z000008") == {key: report(key) for key in keys}
    assert ledger.pages(None) == ["coarse", "register/z000008"]
    assert [entry.key for entry in ledger.reports(None)] == ["coarse/sections", *keys]
    assert ledger.keys("register") == keys
    changed = report(keys[1], outcome=Outcome.STALE)
    ledger.replace_all([changed])
    assert ledger.complete_page("register/z000008") is None
    assert ledger.entries("register/z000008")[keys[1]] == changed
    ledger.write_page("register/z000008", [encode(report(key)) for key in keys])
    ledger.delete(keys[0])
    assert list(ledger.entries("register/z000008")) == keys[1:]


def test_a_torn_page_is_read_entry_by_entry(place: str):
    ledger = Ledger(place)
    for x in range(3):
        ledger.write(report(f"render/z0-y0-x{x}"))
    ledger.write_page("render/z0", [encode(report(f"render/z0-y0-x{x}")) for x in range(3)])
    file = location.join(place, "render/z0/whole.page")
    whole = location.read_bytes(file)
    for length in range(len(whole)):
        location.write_bytes(file, whole[:length])
        assert len(ledger.done("render")) == 3


@pytest.mark.parametrize(
    ("key", "page"),
    [
        ("register/z000008-y0002048-x0000000", "register/z000008"),
        ("downsample/mip3-z000008-y0002048-x0000000", "downsample/mip3-z000008"),
        ("compose/sections-00012-y000000-x000000", "compose/sections-00012"),
        ("compose/affine-00012", "compose/affine"),
        ("coarse/sections", "coarse"),
        ("measure/z000008", "measure"),
        ("odd/a-you", "odd/a"),
    ],
)
def test_what_belongs_to_one_page(key: str, page: str):
    assert page_of(key) == page


def test_a_ledger_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="in the way"):
        Ledger(str(tmp_path / "file")).write(report("a/b"))


def test_a_page_of_any_size_comes_back(tmp_path: Path):
    """A small page is decoded as a whole, a large one report by report."""
    ledger = Ledger(str(tmp_path))
    for count, log in ((1, 10), (40, 10), (40, 300_000)):
        reports = [replace(report(f"render/z000000-y{i:07d}-x0000000"), log="[,\n]" * (log // 4)) for i in range(count)]
        ledger.write_page("render/z000000", [encode(entry) for entry in reports])
        assert ledger.complete_page("render/z000000") == reports


def test_a_page_of_other_tasks_does_not_count(tmp_path: Path):
    ledger = Ledger(str(tmp_path))
    ledger.write_page("render/z000000", [encode(report("render/z000004-y0000000-x0000000"))])
    assert ledger.complete_page("render/z000000") is None


def test_a_page_that_expands_beyond_any_page_takes_no_memory(tmp_path: Path):
    ledger = Ledger(str(tmp_path))
    for number, piece in enumerate(
        (b"\0", b"0,", b"0,\n", encode(report("render/z000000-y0000000-x0000000")) + b",\n")
    ):
        stream = zlib.compressobj(1)
        block = piece * ((1 << 20) // len(piece))
        content = [stream.compress(b"["), *(stream.compress(block) for _ in range(300)), stream.flush()]
        location.write_bytes(location.join(ledger.url, f"render/z00000{number}/whole.page"), b"".join(content))
    grown = peak_growth(f"""
        from ssem_dask.storage.ledger import Ledger
        ledger = Ledger({str(tmp_path)!r})
        ledger.complete_page("render/z000009")
        begin()
        for number in range(4):
            assert ledger.complete_page(f"render/z00000{{number}}") is None
    """)
    assert grown < 400 << 20
