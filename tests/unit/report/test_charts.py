"""Charts do not grow with the volume, show the worst, and leave out what is not known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssem_dask.report.charts import make_charts
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.ledger_summary import FAILED, LOW_QUALITY
from ssem_dask.report.report_data import mark_unplaced
from ssem_dask.section_record import Action, Attention, Kind, SectionRecord
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.quality import WINDOW_COLUMNS
from ssem_dask.task import Outcome, TaskReport, box_name
from tests.support.made_up_report import report_data


@pytest.mark.slow
def test_fifty_thousand_sections_stay_small() -> None:
    charts = make_charts(report_data(sections=50_000, side=4096, cut=512)).plain()
    size = len(json.dumps(charts))
    assert charts["bin"] == 13
    assert all(len(line["values"]) == len(charts["z"]) for chart in charts["curves"] for line in chart["lines"])
    assert {m["columns"] for m in charts["maps"]} == {len(charts["z"])}
    assert 1_000_000 < size < 8_000_000, size


def test_the_worst_section_of_a_bin_is_shown() -> None:
    ncc = np.full(10_000, 0.9, np.float32)
    ncc[5000] = -0.5
    folds = np.zeros(10_000, np.float32)
    folds[7001] = 0.25
    data = report_data(sections=10_000, side=512, cut=8)
    data.sections["ncc"], data.sections["fold_rate"] = ncc, folds
    charts = {chart.id: chart for chart in make_charts(data).curves}
    assert min(v for v in charts["similarity"].lines[0].values if v is not None) == -0.5
    assert charts["folds"].lines[0].values[7001 // 3] == 25.0


def test_what_is_not_known_is_left_out() -> None:
    data = report_data(sections=20, side=512, cut=8)
    data.sections["uncertainty"][:] = np.nan
    data.sections["motion_median"][:] = np.nan
    data.sections["confidence"][3] = np.nan
    charts = {chart.id: chart for chart in make_charts(data).curves}
    assert "jitter" not in charts
    assert "true-jitter" not in charts
    assert charts["confidence"].lines[0].values[3] is None
    assert all(v is not None for v in charts["confidence"].lines[0].values[4:])


def test_the_course_of_the_tissue_is_the_sum_of_what_is_left() -> None:
    """Each section is 0.5 px further: the motion points from a section back to the one before."""
    data = report_data(sections=21, side=512, cut=8)
    data.sections["motion_dy"][:] = -0.5
    data.sections["motion_dx"][:] = 0.0
    data.sections["motion_dy"][0] = np.nan
    charts = {chart.id: chart for chart in make_charts(data).curves}
    values = [v for v in charts["drift"].lines[0].values if v is not None]
    assert values == pytest.approx([(z - 10) * 0.5 for z in range(21)])


def test_find_hotspots_are_apart_and_hold_both_kinds() -> None:
    data = report_data(sections=64, side=1024, cut=8)
    for name in WINDOW_COLUMNS:
        data.windows[name][:] = np.random.default_rng(1).normal(0.6, 0.01, data.windows[name].shape)
    data.windows["coverage"][:] = 1.0
    data.windows["similarity"][30:33, 1, 1] = [0.2, 0.1, 0.2]
    data.windows["motion"][50, 0, 0] = 30.0
    data.ledger.window_codes[8:16, 0, 1] = FAILED
    hotspots = find_hotspots(data, count=4)
    assert [(p.z, p.row, p.column) for p in hotspots[:1]] == [(8, 0, 1)]
    assert {(31, 1, 1), (50, 0, 0)} <= {(p.z, p.row, p.column) for p in hotspots}
    assert not {(30, 1, 1), (32, 1, 1)} & {(p.z, p.row, p.column) for p in hotspots}
    assert hotspots[0].reason == "Registration failed."
    assert any("30.0 px" in p.reason for p in hotspots)


def test_a_place_shows_the_message_of_its_own_task(tmp_path: Path) -> None:
    """A window fails for several reasons, and only its task knows which."""
    data = report_data(sections=16, side=1024, cut=8, url=str(tmp_path / "out.zarr"))
    data.ledger.window_codes[8:, 1, 0] = FAILED
    message = "1 pair of sections could not be registered, even with a wider search: 9 to 8 (shift)"
    key = f"register/{box_name((8, 512, 0))}"
    open_ledger(data.run.url).write(TaskReport(key=key, digest="d", outcome=Outcome.FAILED, message=message))
    (hotspot,) = find_hotspots(data, count=1)
    assert (hotspot.z, hotspot.row, hotspot.column) == (8, 1, 0)
    assert message in hotspot.reason


def test_spoilt_sections_are_the_worst_places_and_their_neighbours_are_none() -> None:
    data = report_data(sections=40, side=1024, cut=8)
    for name in WINDOW_COLUMNS:
        data.windows[name][:] = np.random.default_rng(1).normal(0.6, 0.01, data.windows[name].shape)
    data.windows["coverage"][:] = 1.0
    data.windows["similarity"][20:22] = 0.1  # the next section is compared with the spoilt one
    data.windows["similarity"][20, 1, 0] = 0.0
    data.windows["motion"][33, 0, 1] = 30.0
    records = (SectionRecord(z=20, kind=Kind.FOLD, certainty=0.8), SectionRecord(z=30, kind=Kind.DIRT, certainty=0.9))
    data = replace(data, attention=Attention(sections=40, records=records))
    places = find_hotspots(data, count=3)
    assert [(p.z, p.row, p.column) for p in places[1:]] == [(20, 1, 0), (33, 0, 1)]
    assert places[0].z == 30
    assert places[1].reason == "Fold; aligned unchanged (certainty 0.80)."
    assert places[0].is_outlier


def test_sections_that_need_a_look_are_marked_in_the_charts() -> None:
    records = (SectionRecord(z=5, kind=Kind.FOLD), SectionRecord(z=9000, kind=Kind.FOREIGN, action=Action.LEFT_OUT))
    data = report_data(sections=10_000, side=512, cut=8, attention=Attention(sections=10_000, records=records))
    charts = make_charts(data)
    assert [(mark.column, mark.text) for mark in charts.marks] == [
        (5 // charts.bin, "5 fold"),
        (9000 // charts.bin, "9000 foreign"),
    ]


def test_only_sections_without_a_place_are_shown_as_not_registered() -> None:
    data = report_data(sections=16, side=1024, cut=8, attention=Attention(sections=16, unplaced=(3, 9)))
    data.ledger.window_codes[9, 0, 0] = FAILED
    mark_unplaced(data)
    codes = data.ledger.window_codes
    assert np.flatnonzero((codes == LOW_QUALITY).any(axis=(1, 2))).tolist() == [3, 9]
    assert codes[9, 0, 0] == FAILED


def test_empty_windows_are_no_bad_places() -> None:
    data = report_data(sections=16, side=512, cut=8)
    for name in WINDOW_COLUMNS:
        data.windows[name][:] = 0.6
    data.windows["coverage"][:] = 1.0
    data.windows["similarity"][4] = 0.0
    data.windows["coverage"][3] = 0.1
    assert find_hotspots(data, count=3) == []
