"""The challenge at its smallest size, a method in one file, and the order of the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.challenge.__main__ import main
from benchmarks.challenge.entries import ADAPTERS, all_methods
from benchmarks.challenge.file_method import AdapterError, section_fields
from benchmarks.challenge.page import Entry, leaderboard, make_page

SHAPE = (3, 40, 50)
MINE = '''
"""Nothing moves."""
import numpy as np

TITLE = "mine <b>"

def align(images, *, pixel_size, section_thickness):
    assert images.dtype == np.uint8 and pixel_size == 5.0 and section_thickness == 40.0
    return np.zeros((len(images), 2, -(-images.shape[1] // 8), -(-images.shape[2] // 8))), 8
'''


def records(**metrics: float) -> list[dict[str, Any]]:
    """Records of a method with some figures."""
    named = {"null": "injected_jitter_median", "recovery": "recovery_median"}
    return [
        {"scene": "a-undeformed", "state": "done", "metrics": {named["null"]: metrics["null"]}},
        {"scene": "a-warped-1", "state": "done", "metrics": {named["recovery"]: metrics["recovery"]}},
    ]


@pytest.mark.slow
def test_a_method_in_one_file_takes_part(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = ["--size", "tiny", "--adapter", str(tmp_path / "mine.py"), "--work", str(tmp_path / "work")]
    assert main([*words, "--methods", "mine", "phase-shift", "no-such"]) == 2
    assert main([*words, "--methods", "mine", "phase-shift"]) == 0
    results = json.loads((tmp_path / "work" / "challenge.json").read_text())
    mine, shift = (results[name]["figures"] for name in ("mine", "phase-shift"))
    assert set(mine) == set(shift) == {"null", "recovery", "recovery_p95", "harm", "back", "seconds"}
    assert mine["null"] == mine["harm"] == 0.0
    assert mine["recovery"] > 3  # px: nothing was undone
    page = (tmp_path / "work" / "challenge.html").read_text()
    assert "mine &lt;b&gt;" in page
    assert "mine <b>" not in page
    assert "shift by phase correlation" in page
    assert "What went wrong" not in page


def test_the_page_says_where_each_is_better_and_worse() -> None:
    entries = [
        Entry("still", "still", records(null=0.0, recovery=9.0)),
        Entry("good", "good", records(null=0.5, recovery=1.0)),
        Entry("same", "same", records(null=0.52, recovery=1.02)),
        Entry("bad", "bad", records(null=3.0, recovery=12.0)),
        Entry("nothing", "nothing", records(null=0.0, recovery=14.0), is_reference=True),
        Entry("absent", "absent", [{"scene": "a-undeformed", "state": "not installed", "cause": "no such package"}]),
    ]
    rows = {row.name: row for row in leaderboard(entries)}
    assert list(rows)[-2:] == ["bad", "nothing"]
    assert rows["nothing"].best == frozenset()
    assert rows["still"].best == {"null"}
    assert rows["good"].best == rows["same"].best == {"recovery"}  # what differs by less than counts is a draw
    assert "null test (3)" in rows["still"].better
    assert "recovery (2)" in rows["still"].worse
    assert rows["bad"].better == ""
    page = make_page(entries, data="made up")
    assert "<li>absent: no such package</li>" in page
    assert "nothing, for comparison" in page


def test_every_adapter_of_the_folder_takes_part_but_the_template() -> None:
    names = {method.name for method in all_methods()}
    files = {path.stem.replace("_", "-") for path in ADAPTERS.glob("*.py")}
    assert files - {"template", "--init--"} <= names
    assert not names & {"template", "--init--"}


def test_what_an_adapter_returns_is_checked(tmp_path: Path) -> None:
    moved = np.tile(np.eye(3), (3, 1, 1))
    moved[:, 0, 2], moved[:, 1, 2] = 2.0, -1.0
    fields = section_fields(moved, shape=SHAPE, where="mine.py")
    np.testing.assert_allclose(fields.values[:, 0], -1.0, atol=1e-5)
    np.testing.assert_allclose(fields.values[:, 1], 2.0, atol=1e-5)
    with pytest.raises(AdapterError, match=r"mine\.py: its fields are \(3, 2, 4, 4\), wanted is \(3, 2, 5, 7\)"):
        section_fields((np.zeros((3, 2, 4, 4)), 8), shape=SHAPE, where="mine.py")
    with pytest.raises(AdapterError, match="wanted are matrices"):
        section_fields(np.zeros((2, 3, 3)), shape=SHAPE, where="mine.py")
    with pytest.raises(AdapterError, match="is not there"):
        all_methods([tmp_path / "none.py"])
    (tmp_path / "identity.py").write_text(MINE)
    with pytest.raises(AdapterError, match="there is a method identity already"):
        all_methods([tmp_path / "identity.py"])
