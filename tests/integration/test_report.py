"""The report of a real run, of one that was broken off, and of one of 2,000 sections × 64 windows."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.page import make_report
from ssem_dask.report.report_data import read_report_data
from ssem_dask.storage import quality
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.evaluation_file import read_evaluation, write_evaluation
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import create_run, read_run
from ssem_dask.task import Cause, Outcome
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.fabricated_run import fabricate_run
from tests.support.runs import SEPARATE


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("report") / "out.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


def embedded(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_the_run_was_measured(run: str) -> None:
    columns = quality.read_sections(run)
    for name in ("ncc", "cpc", "motion_median", "confidence", "known"):
        assert np.isnan(columns[name][0]), name
        assert np.isfinite(columns[name][1:]).all(), name
    assert (columns["ncc"][1:] > columns["ncc_before"][1:]).all()
    assert np.median(columns["ncc"][1:] - columns["ncc_before"][1:]) > 0.1
    assert (columns["coverage"] > 0.7).all()
    assert (columns["strain_p99"] > 0).all()
    assert np.median(columns["motion_median"][1:]) < 5
    windows = quality.read_window_column(run, "similarity")
    assert windows.shape == (10, 2, 2)
    assert np.isfinite(windows[1:]).all()
    before, after = (quality.read_reslice(run, cut="xz", time=time).astype(float) for time in quality.TIMES)
    inner = slice(30, -30)
    jump = [np.abs(np.diff(cut[:, inner], axis=0)).mean() for cut in (before, after)]
    assert jump[1] < jump[0]


def test_a_fold_and_a_jump_are_seen_where_they_are(observed: str, run: str, tmp_path: Path) -> None:
    """The measure stage alone is done again on fields that were spoilt in one window of one section."""
    output = str(tmp_path / "out.zarr")
    shutil.copytree(run, output)
    # An earlier run resumes under its new name as the same one, but for its output.
    field = open_array(join(output, "fields", "section"), mode="r+")
    values = np.asarray(field[5])
    values[0, 1:4, 1:4] += np.array([[0.0, 60.0, 0.0], [0.0, -60.0, 0.0], [0.0, 0.0, 0.0]])
    field[5] = values
    pairs = np.asarray(open_array(join(output, "fields", "pairs"), mode="r")[0, 7])
    open_array(join(output, "fields", "pairs"), mode="r+")[0, 7] = pairs + 9.0
    shutil.rmtree(join(output, "ledger", "measure"))
    ssem_dask.align(observed, output, cluster="serial", **SEPARATE)
    columns, before = quality.read_sections(output), quality.read_sections(run)
    assert list(np.flatnonzero(columns["fold_rate"] > 0)) == [5]
    assert columns["strain_p99"][5] > 2 * before["strain_p99"][5]
    assert columns["motion_median"][7] > before["motion_median"][7] + 5
    np.testing.assert_allclose(columns["motion_dy"][7] - before["motion_dy"][7], 9.0, atol=0.5)
    np.testing.assert_allclose(columns["motion_median"][[1, 2, 3, 8]], before["motion_median"][[1, 2, 3, 8]])


def test_without_a_truth_it_says_so(run: str) -> None:
    html = make_report(run, worst=3, viewer=None).html
    assert "No truth is known" in html
    data = embedded(html)
    ids = {chart["id"] for chart in data["curves"]}
    assert {"similarity", "uncertainty", "drift", "strain", "coverage", "confidence"} == ids
    assert len(data["reslices"]) == 4
    assert {m["id"] for m in data["maps"]} == {"similarity", "confidence", "motion"}
    assert all(len(line["values"]) == 10 for chart in data["curves"] for line in chart["lines"])
    assert all(chart["unit"] for chart in data["curves"])


def test_it_needs_no_network(run: str) -> None:
    html = make_report(run, worst=3, viewer=None).html
    assert not re.findall(r'(?:src|href)="(?!data:|#|http://127\.0\.0\.1)[^"]*"', html)
    assert not re.findall(r"@import|url\((?!data:)", html)


def test_it_shows_all_parameters_versions_and_digests(run: str) -> None:
    html = make_report(run, worst=0, viewer=None).html
    record = read_run(run)
    for shown in (record.config_digest, str(record.encoder_digest), "register.neighbours", "torch"):
        assert shown in html


def test_links_lead_to_the_place(run: str) -> None:
    report = make_report(run, worst=3, viewer="http://127.0.0.1:1234")
    assert len(report.hotspots) == 3
    for shown in report.hotspots:
        assert shown.link.startswith(f"http://127.0.0.1:1234/at?run={read_run(run).config_digest[:16]}&z=")
        assert shown.link.replace("&", "&amp;") in report.html
        assert [p.name for p in shown.pictures] == ["fixed", "moving", "warped", "field"]
        assert all(p.uri.startswith("data:image/") for p in shown.pictures), [p.note for p in shown.pictures]


def test_with_a_truth_the_true_errors_appear(observed: str, run: str) -> None:
    assert command("evaluate", run, "--truth", observed).returncode == 0
    html = make_report(run, worst=0, viewer=None).html
    assert "A known truth is available" in html
    charts = {chart["id"]: chart for chart in embedded(html)["curves"]}
    lines = {line["label"]: line["values"] for line in charts["true-jitter"]["lines"]}
    assert lines["aligned"][0] is None
    aligned, observed_ = np.median(lines["aligned"][1:]), np.median(lines["before alignment"][1:])
    assert aligned < observed_
    digest = read_run(run).config_digest
    evaluation = read_evaluation(run, config_digest=digest)
    assert evaluation is not None
    # An evaluation without the truth does not take the errors away; one of another configuration does not count.
    assert command("evaluate", run).returncode == 0
    assert read_report_data(run).has_truth
    write_evaluation(evaluation, config_digest="another")
    assert read_report_data(run).evaluation is None
    # The curve's sections make up the volume's figure.
    assert aligned == pytest.approx(evaluation.value("aligned", "jitter_median"), rel=0.35)


def test_the_command_writes_beside_the_run(run: str, tmp_path: Path) -> None:
    assert command("report", run, "--worst", "1").returncode == 0
    assert (Path(run).parent / "out.report.html").stat().st_size < 10_000_000
    ended = command("report", run, "--worst", "1", "--file", str(tmp_path / "deep" / "r.html"), "--json")
    printed = json.loads(ended.stdout)
    assert printed["report"] == str(tmp_path / "deep" / "r.html")
    assert len(printed["worst"]) == 1


def test_a_run_that_has_only_begun(observed: str, tmp_path: Path) -> None:
    url = str(tmp_path / "out.zarr")
    config = {
        "volume": {"pixel_size": 5.0, "section_thickness": 40.0},
        "register": {"window": 96, "spacing": 16, "sections": 4, "neighbours": 2},
    }
    create_run(
        url,
        attributes={
            "config": config,
            "config_digest": "ab" * 32,
            "source": observed,
            "state": "incomplete",
            "version": "0",
            "format": 1,
        },
    )
    html = make_report(url, worst=5, viewer=None).html
    assert "Nothing was measured yet" in html
    assert embedded(html)["curves"] == []
    assert "Outcome of registration: not done 100, in % of the windows, in all sections" in html


HOSTILE = "</script></title></style>--><img src=x onerror=alert(1)><script>alert(2)</script>'\"{{ 7 * 191 }}&lt;"


def test_markup_of_a_store_is_only_text(run: str, tmp_path: Path) -> None:
    """Attributes of a run, reports of its tasks, names of sections and the run's own name come from others."""
    url = str(tmp_path / "<b>x<script>.zarr")
    shutil.copytree(run, url)
    metadata = Path(url) / "zarr.json"
    tree = json.loads(metadata.read_text())
    attributes = tree["attributes"]["ssem_dask"]
    attributes |= {"state": HOSTILE, "version": HOSTILE, "config_digest": HOSTILE, "encoder_digest": HOSTILE}
    attributes |= {"environment": {HOSTILE: HOSTILE}, "section_names": [f"{HOSTILE}{z}" for z in range(10)]}
    attributes["source"] = attributes["given"]["source"] = f"/nowhere/{HOSTILE}.zarr"
    attributes["config"]["register"][HOSTILE] = HOSTILE
    attributes["config"]["render"]["interpolation"] = HOSTILE
    metadata.write_text(json.dumps(tree))
    ledger = open_ledger(url)
    changed: dict[str, Any] = {"message": HOSTILE, "worker": HOSTILE, "log": HOSTILE, "started": HOSTILE}
    for number, report in enumerate(list(ledger.reports(None))):
        outcome = (Outcome.FAILED, Outcome.LOW_QUALITY, report.outcome)[number % 3]
        cause = Cause.BUG if outcome is Outcome.FAILED else None
        ledger.replace_all([replace(report, outcome=outcome, cause=cause, **changed)])
    pages = {"report": make_report(url, worst=3, viewer=None).html}
    compared = command("compare", url, url, "--file", str(tmp_path / "compared.html"))
    assert "Traceback" not in compared.stderr
    if compared.returncode == 0:
        pages["comparison"] = (tmp_path / "compared.html").read_text()
    for name, html in pages.items():
        for tag in ("<img src=x", "<script>alert", "<b>x", "</title></style>", "1337"):
            assert tag not in html, (name, tag)
        assert html.count("</script") == html.count("<script"), name
        assert "&lt;img src=x onerror" in html, name
    assert pages["report"].count("&lt;img src=x onerror") >= 10


def test_mistakes_are_one_sentence(run: str, tmp_path: Path) -> None:
    assert_one_sentence(command("report", str(tmp_path / "none.zarr")), naming="none.zarr")
    (tmp_path / "file").write_text("")
    assert_one_sentence(command("report", run, "--file", str(tmp_path / "file" / "r.html")), naming="--file")


MEASURED = """
import json, os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
seconds, processor = time.monotonic() - start, used.ru_utime + used.ru_stime
print(json.dumps(dict(status=status, seconds=seconds, processor_seconds=processor, peak_kib=used.ru_maxrss)))
"""
"""Run a command and report what it used. It is a small process of its own, since the kernel counts towards a child's
peak memory what its parent had held: here that would be pytest, with whatever tests came before."""


@pytest.mark.timeout(900)
@pytest.mark.no_cover
def test_two_thousand_sections_of_64_windows(tmp_path: Path) -> None:
    fabricated = fabricate_run(tmp_path, sections=2000, side=16384)
    data = read_report_data(fabricated.url)
    assert data.ledger.window_codes.shape == (2000, 8, 8)
    assert data.ledger.failed_count == fabricated.failed > 0
    hotspots = find_hotspots(data, count=12)
    assert fabricated.bad in [(p.z, p.row, p.column) for p in hotspots]
    del data
    page = tmp_path / "report.html"
    words = [sys.executable, "-m", "ssem_dask.cli", "report", fabricated.url, "--file", str(page)]
    measured = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    used = json.loads(measured.stdout)
    assert used["status"] == 0
    assert page.stat().st_size < 10_000_000
    # Processor time as well, so that a busy machine does not decide.
    assert min(used["seconds"], used["processor_seconds"]) < 30
    assert used["peak_kib"] < 1 << 20
    assert join(fabricated.url) in page.read_text()
