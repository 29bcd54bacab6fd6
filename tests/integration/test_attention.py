"""Spoilt sections have names wherever a user looks; sections without a place are written as the user wishes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.driver.run_status import run_status
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.report.hotspots import find_hotspots
from ssem_dask.report.page import make_report
from ssem_dask.report.report_data import read_report_data
from ssem_dask.report.summary import rms_uncertainty
from ssem_dask.section_record import Kind
from ssem_dask.storage.arrays import create_group, group_attributes
from ssem_dask.storage.section_names import names_attribute
from ssem_dask.storage.volume import Volume
from tests.support.cli import assert_one_sentence, ssem_dask

pytestmark = pytest.mark.slow
SHAPE = (16, 192, 192)
BLANK, NOISE, FAINT, HALF = 2, 5, 8, 11
KINDS = {BLANK: Kind.BLANK, NOISE: Kind.NOISE, FAINT: Kind.FAINT, HALF: Kind.PARTLY_EMPTY}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deformed phantom."""
    url = str(tmp_path_factory.mktemp("sound") / "volume.zarr")
    deformation = DeformationConfig(shift=6.0, elastic=2.0)
    phantom = PhantomConfig(seed=3, shape=SHAPE, oblique=0.0)
    simulate_phantom(phantom, url, seed=3, deformation=deformation, damage=DamageConfig())
    return url


@pytest.fixture(scope="module")
def spoilt(sound: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That phantom with four spoilt sections, aligned."""
    folder = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(sound, folder / "volume.zarr")
    volume = Volume.open(str(folder / "volume.zarr"))
    images = volume.read(Box((0, 0, 0), SHAPE))
    images[BLANK] = 0
    images[NOISE] = np.random.default_rng(0).integers(1, 255, SHAPE[1:])
    images[FAINT] = (images[FAINT].astype(np.float32) - 128) * 0.15 + 128
    images[HALF, :, : SHAPE[2] // 2] = 0
    for z in KINDS:
        volume.write(Box((z, 0, 0), (z + 1, *SHAPE[1:])), images[z : z + 1])
    create_group(volume.url, attributes=names_attribute([f"S{z + 1:03d}.tif" for z in range(SHAPE[0])]))
    output = str(folder / "out.zarr")
    assert package.align(volume.url, output, cluster="serial", downsample={"smallest": 64}).state == "complete"
    return output


@pytest.fixture
def output(spoilt: str, tmp_path: Path) -> str:
    """A copy of the run, whose source is where it was."""
    shutil.copytree(spoilt, tmp_path / "out.zarr")
    return str(tmp_path / "out.zarr")


def status(run: str, *words: str, code: int = 0) -> dict[str, Any]:
    ended = ssem_dask("status", run, "--json", *words)
    assert ended.returncode == code, ended.stderr
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def aligned(run: str) -> Any:
    volume = Volume.open(f"{run}/aligned")
    return [volume.read(Box((0, 0, 0), volume.shape_at(mip), mip)) for mip in volume.mips]


def test_sound_sections_have_no_name(sound: str, tmp_path: Path) -> None:
    ended = ssem_dask("align", sound, str(tmp_path / "out.zarr"), "--cluster", "serial", "--fail-on", "any")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "aligned; none of 16 sections needs a look"


def test_the_last_line_of_status_names_the_sections(spoilt: str) -> None:
    ended = ssem_dask("status", spoilt)
    last = ended.stdout.splitlines()[-1]
    listed = f"{BLANK} (S003.tif) blank, {NOISE} (S006.tif) noise, {FAINT} (S009.tif) faint"
    assert last.startswith(f"aligned; 4 of 16 sections need a look: {listed}")
    assert f"{HALF} (S012.tif)" in last
    assert f"Next: ssem-dask report {spoilt} " in ended.stderr
    assert f"ssem-dask fix {spoilt} " in ended.stderr
    assert "calibrate/" not in ended.stderr
    assert "calibrate/" in ssem_dask("status", spoilt, "-v").stderr


def test_json_lists_what_needs_attention(spoilt: str) -> None:
    printed = status(spoilt)
    assert {record["z"]: record["kind"] for record in printed["attention"]} == KINDS
    assert [record["name"] for record in printed["attention"]] == [f"S{z + 1:03d}.tif" for z in KINDS]
    for record in printed["attention"]:
        assert set(record) == {"z", "name", "kind", "certainty", "action", "effect_px", "detail", "evidence"}
        assert 0.5 <= record["certainty"] <= 1
    assert {BLANK, NOISE} <= set(printed["unplaced"])
    assert printed["verdict"].startswith("aligned; 4 of 16")


def test_attributes_of_the_aligned_volume_say_the_same(spoilt: str) -> None:
    attributes = group_attributes(f"{spoilt}/aligned")
    assert attributes is not None
    assert attributes["ssem_dask_attention"]["attention"] == status(spoilt)["attention"]
    assert attributes["ssem_dask_attention"]["unplaced"] == status(spoilt)["unplaced"]
    assert attributes["ssem_dask_attention"]["unplaced_shown"] == "as_is"
    assert attributes["ome"]["version"] == "0.5"


def test_a_pipeline_can_fail_on_a_kind(spoilt: str) -> None:
    ended = ssem_dask("status", spoilt, "--fail-on", "fold,noise")
    assert ended.returncode == 1
    assert (
        ended.stderr.splitlines()[-1]
        == f"error: --fail-on fold,noise: 1 section of these kinds: {NOISE} (S006.tif) noise."
    )
    assert ssem_dask("status", spoilt, "--fail-on", "any").returncode == 1
    assert ssem_dask("status", spoilt, "--fail-on", "fold,crack").returncode == 0
    assert len(status(spoilt, "--fail-on", "blank", code=1)["attention"]) == 4


def test_an_unknown_kind_is_refused_before_anything_runs(spoilt: str, tmp_path: Path) -> None:
    ended = ssem_dask("align", spoilt, str(tmp_path / "o.zarr"), "--fail-on", "fold,wrinkle")
    assert_one_sentence(ended, naming="wrinkle")
    assert not (tmp_path / "o.zarr").exists()
    assert_one_sentence(ssem_dask("status", spoilt, "--fail-on", ""), naming="--fail-on")


def test_names_of_results_that_must_run_again_are_not_shown(output: str) -> None:
    shutil.rmtree(f"{output}/ledger/measure")
    assert run_status(output).attention is None
    assert status(output)["attention"] is None


def test_the_report_begins_with_the_verdict(spoilt: str) -> None:
    report = make_report(spoilt, worst=8, viewer="http://127.0.0.1:1")
    assert report.verdict.startswith("Aligned; 4 of 16 sections need a look")
    assert report.html.index('id="verdict"') < report.html.index('class="tiles"')
    assert report.html.count('<table id="attention">') == 1
    for z, kind in KINDS.items():
        assert f"<tr><th>{z}, S{z + 1:03d}.tif</th><td>{kind.replace('_', ' ')}" in report.html
        assert f"<dt>{kind.replace('_', ' ')}</dt>" in report.html
    assert f"ssem-dask rerun {spoilt} --set render.contrast=match" in report.html
    assert "<dt>fold</dt>" not in report.html
    marks = json.loads(report.html.split('id="data">')[1].split("</script>")[0])["marks"]
    assert [mark["column"] for mark in marks] == list(KINDS)


def test_the_worst_places_are_the_spoilt_sections(spoilt: str) -> None:
    data = read_report_data(spoilt)
    spots = find_hotspots(data, count=4)
    assert {spot.z for spot in spots} == set(KINDS)
    assert all("No node" not in spot.reason for spot in spots)
    # Only sections without a place are shown as not registered, not all of the task.
    codes = data.ledger.window_codes.reshape(len(data.ledger.window_codes), -1)
    assert set(np.flatnonzero((codes == codes.max()).any(axis=1))) == set(data.attention.unplaced)  # type: ignore[union-attr]


def test_lost_sections_raise_the_uncertainty(spoilt: str) -> None:
    data = read_report_data(spoilt)
    assert data.attention is not None
    found_all = replace(data, attention=replace(data.attention, unplaced=()))
    lost_more = replace(data, attention=replace(data.attention, unplaced=(1, 2, 3, 4, 5)), lost_px=50.0)
    assert rms_uncertainty(lost_more) > 20
    assert rms_uncertainty(data) >= rms_uncertainty(found_all)


def test_the_viewer_marks_the_sections(spoilt: str) -> None:
    pytest.importorskip("neuroglancer")
    from ssem_dask.report.viewer.site import make_site

    site, _ = make_site(spoilt, labels=None, worst=3)
    layers = {layer["name"]: layer for layer in site.state("http://h/data/m", None)["layers"]}
    boxes = layers["sections that need a look"]["annotations"]
    assert [box["pointA"][2] for box in boxes] == [z - 0.5 for z in KINDS]
    assert "blank" in boxes[0]["description"]


@pytest.mark.parametrize("shown", ["blank", "nearest"])
def test_sections_without_a_place_are_written_as_the_user_wishes(output: str, shown: str) -> None:
    before = aligned(output)
    lost = status(output)["unplaced"]
    ended = ssem_dask("rerun", output, "--set", f"render.unplaced={shown}", "--cluster", "serial", "--json")
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    stages = {key.split("/")[0] for keys in printed["again"].values() for key in keys}
    assert stages == {"render", "measure"}  # tasks of render write the levels of so small a volume
    # The written pixels do not change the names of the sections.
    assert [(r["z"], r["kind"]) for r in printed["attention"]] == list(KINDS.items())
    after = aligned(output)
    assert len(after) == 3  # the pyramid follows
    placed = [z for z in range(SHAPE[0]) if z not in lost]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[placed], new[placed])
        for z in lost:
            if shown == "blank":
                assert not new[z].any()
            else:
                assert min(abs(n - z) for n in placed if np.array_equal(new[z], old[n])) == min(
                    abs(n - z) for n in placed
                )
    attributes = group_attributes(f"{output}/aligned")
    assert attributes is not None
    assert attributes["ssem_dask_attention"]["unplaced_shown"] == shown


def test_warped_volumes_follow_the_same_choice(output: str, tmp_path: Path) -> None:
    lost = status(output)["unplaced"]
    assert ssem_dask("rerun", output, "--set", "render.unplaced=blank", "--cluster", "serial").returncode == 0
    source = read_report_data(output).run.source
    for labels in ((), ("--labels",)):
        target = str(tmp_path / f"warped{len(labels)}.zarr")
        ended = ssem_dask("warp", output, source, target, *labels, "--cluster", "serial")
        assert ended.returncode == 0, ended.stderr
        pixels = Volume.open(target).read(Box((0, 0, 0), SHAPE))
        assert not pixels[lost].any()
        assert pixels[[0, FAINT, 15]].any(axis=(1, 2)).all()


def test_what_would_change_nothing_says_what_does(spoilt: str) -> None:
    ended = ssem_dask("rerun", spoilt, "--sections", "2:3", "--dry-run")
    assert ended.returncode == 0
    assert f"ssem-dask fix {spoilt}, or --fixes" in ended.stderr
    assert "--fixes" not in ssem_dask("rerun", spoilt, "--dry-run").stderr
    assert_one_sentence(ssem_dask("export", spoilt, "none.zarr", "--ngff", "0.5"), naming="OME-Zarr 0.5 already")
