"""The benchmark itself, on a tiny phantom and without any peer: cells, resumption, failures, the table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import tables
from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.document import write_between
from benchmarks.accuracy.methods import Method, NotInstalledError, SectionFields
from benchmarks.accuracy.own import Identity, Mode
from benchmarks.accuracy.report import collected
from benchmarks.accuracy.runner import cells_of, in_own_process, in_this_process, run_missing
from benchmarks.accuracy.scenes import PHANTOM, PreparedScene, scenes_of
from benchmarks.accuracy.table import Column, mean_and_spread
from benchmarks.accuracy.tables import TableSpec

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

SCENES = tuple(scenes_of(PHANTOM, seeds=2, damaged=0.0))
CHEAP = {
    "method": "gauss_newton",
    "neighbours": 1,
    "gauss_newton": {"encoder": "lcn", "levels": (1,), "node_spacing": (64,), "iterations": (1,), "warm_levels": 1},
}


@dataclass(frozen=True)
class Broken:
    """A method that fails on deformed sections."""

    name: str = "broken"
    title: str = "broken"
    dies: bool = False

    def versions(self) -> dict[str, str]:
        return {}

    def settings(self) -> dict[str, Any]:
        return {}

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        if self.dies:
            raise SystemExit(3)
        if scene.scene.seed is not None:
            raise ZeroDivisionError("no such luck")
        return Identity().align(scene, folder=folder)


@dataclass(frozen=True)
class Absent(Broken):
    """A method whose package is not there."""

    name: str = "absent"
    title: str = "absent"

    def versions(self) -> dict[str, str]:
        raise NotInstalledError("absent is not installed")


METHODS: tuple[Method, ...] = (
    Identity(),
    Mode("coarse", "coarse only", {"register": CHEAP}, coarse_only=True),
    Mode("cheap", "one step of gauss_newton", {"register": CHEAP}),
    Broken(),
    Absent(),
)
SPEC = TableSpec(
    name="tiny",
    title="Tiny",
    methods=METHODS,
    scenes=SCENES,
    columns=(
        Column("injected", "phantom-undeformed", ("injected_jitter_median", "injected_elastic_drift")),
        Column("jitter", "phantom-warped", ("jitter_median", "jitter_p95")),
        Column("recovery", "phantom-warped", ("recovery_median",)),
        Column("NCC", "phantom-warped", ("ncc",)),
    ),
    rate=True,
)


def run(work: Path, methods: tuple[Method, ...] = METHODS) -> list[str]:
    printed: list[str] = []
    cells = cells_of(methods, SCENES, work=work, data=work)
    run_missing(cells, jobs=1, execute=in_this_process, progress=printed.append)
    return printed


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    run(folder)
    return folder


def test_table_has_a_row_for_each_method_and_a_figure_or_a_reason_in_each_cell(work: Path) -> None:
    rows, table = collected(SPEC, work=work, data=work)
    assert table.columns == ("", "injected", "jitter", "recovery", "NCC", "Mpx per CPU s")
    shown = {row[0]: row[1:] for row in table.rows}
    assert list(shown) == [m.title for m in METHODS]
    assert shown["identity"][0] == "0.00 / 0.00"
    assert all("±" in cell for cell in shown["coarse only"][1:4])
    assert shown["broken"][1:4] == ("failed", "failed", "failed")
    assert shown["absent"][:4] == ("not installed",) * 4
    assert any("ZeroDivisionError: no such luck" in note for note in table.notes)
    lines = table.markdown().splitlines()
    assert len({line.count("|") for line in lines[: len(rows) + 2]}) == 1
    by_name = {row.name: row for row in rows}
    jitter = {
        n: [r["metrics"]["jitter_median"] for r in by_name[n].of("phantom-warped")] for n in ("identity", "cheap")
    }
    assert max(jitter["cheap"]) < min(jitter["identity"]) / 2


def test_a_cell_tells_what_it_rests_on(work: Path) -> None:
    record = json.loads((work / "cells" / "cheap" / "phantom-warped-301.json").read_text())
    assert record["state"] == "done"
    assert set(record["versions"]) == {"ssem_dask"}
    assert record["settings"]["config"]["register"]["method"] == "gauss_newton"
    assert record["cpu_seconds"]["whole"] >= record["cpu_seconds"]["fields"] > 0
    assert record["machine"]
    assert record["date"].startswith("20")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_failure_and_says_so(tmp_path: Path) -> None:
    methods = tuple(
        Mode(f"on-{device}", device, {"register": CHEAP}, device=device) for device in ("cpu", "plain", "kernels")
    )
    cells = cells_of(methods, SCENES[:1], work=tmp_path, data=tmp_path)
    records = run_missing(cells, jobs=1, execute=in_this_process, progress=lambda _: None)
    assert [record["state"] for record in records] == ["done", "failed", "failed"]
    assert records[0]["settings"]["device"] == "cpu"
    assert "no GPU" in records[1]["cause"]


def test_what_is_done_is_not_run_again_but_what_failed_is(work: Path) -> None:
    printed = run(work)
    assert {line.split(":")[0] for line in printed} == {
        *(f"broken on {s.name}" for s in SCENES[1:]),
        *(f"absent on {s.name}" for s in SCENES),
    }


def test_other_settings_are_run_again(tmp_path: Path) -> None:
    assert len(run(tmp_path, (Identity(),))) == len(SCENES)
    assert run(tmp_path, (Identity(),)) == []
    scene = tmp_path / "cells" / "identity" / f"{SCENES[1].name}.json"
    record = json.loads(scene.read_text())
    scene.write_text(json.dumps({**record, "align_digest": "of other settings"}))
    assert [line.split(":")[0] for line in run(tmp_path, (Identity(),))] == [f"identity on {SCENES[1].name}"]


def test_a_method_that_takes_its_process_along_is_a_failed_cell(tmp_path: Path) -> None:
    cell = Cell(Broken(dies=True), SCENES[0], tmp_path, tmp_path)
    records = run_missing([cell], jobs=1, execute=in_own_process, progress=lambda _: None)
    assert [(r["state"], r["cause"]) for r in records] == [("failed", "its process died, exit code 3")]


def test_tables_name_every_method_once_and_ask_only_for_scenes_that_are_run() -> None:
    for make in (tables.comparison, tables.ablation, tables.claims):
        spec = make(seeds=2)
        names = [m.name for m in spec.methods]
        assert len(set(names)) == len(names)
        assert {c.group for c in spec.columns} <= {s.group for s in spec.scenes}


def test_peers_that_are_not_installed_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    peers = [m for m in tables.comparison(seeds=1).methods if not isinstance(m, Identity | Mode)]
    assert len(peers) == 5
    for peer in peers:
        with pytest.raises(NotInstalledError, match="is not installed"):
            peer.versions()


@pytest.mark.parametrize(
    ("values", "text"), [([], "–"), ([0.4], "0.40"), ([2.0, 2.2], "2.1 ± 0.14"), ([61.0, 59.0], "60 ± 1.4")]
)
def test_figures(values: list[float], text: str) -> None:
    assert mean_and_spread(values) == text


def test_text_between_markers_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- end of t -->\nafter\n")
    write_between(page, name="t", text="new\n")
    assert page.read_text() == "before\n<!-- t -->\nnew\n<!-- end of t -->\nafter\n"
    with pytest.raises(ValueError, match="<!-- other -->"):
        write_between(page, name="other", text="")
