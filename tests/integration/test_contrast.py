"""Contrast of sections, matched in the aligned volume: what comes back, what stays, and how it is recorded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask as package
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.report.page import make_report, render_report
from ssem_dask.report.report_data import read_report_data
from ssem_dask.section_record import Attention, Kind, SectionRecord
from ssem_dask.storage.arrays import group_attributes
from ssem_dask.storage.contrast_table import read_contrast
from ssem_dask.storage.volume import Volume, create_volume
from tests.support.cli import assert_one_sentence, ssem_dask
from tests.support.runs import aligned_pixels

pytestmark = pytest.mark.slow
SHAPE = (14, 192, 192)
BLACK, DARK = 4, 9
MATCH = {"chunk": (4, 64, 64), "shard": (4, 128, 128), "contrast": "match"}


def read_all(url: str) -> np.ndarray[Any, Any]:
    volume = Volume.open(url)
    return volume.read(Box((0, 0, 0), volume.info.shape))


@pytest.fixture(scope="module")
def gains() -> np.ndarray[Any, Any]:
    """Gain and offset of each section, (z, 2), about the grey level 128."""
    generator = np.random.default_rng(5)
    return np.stack([np.exp(generator.normal(0, 0.15, SHAPE[0])), generator.normal(0, 8, SHAPE[0])], axis=1)


@pytest.fixture(scope="module")
def changed(gains: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deformed phantom, of which each section was imaged with another contrast, and one is black."""
    url = str(tmp_path_factory.mktemp("changed") / "volume.zarr")
    phantom = PhantomConfig(seed=3, shape=SHAPE, oblique=0.0)
    deformation = DeformationConfig(shift=6.0, elastic=2.0)
    simulate_phantom(phantom, url, seed=3, deformation=deformation, damage=DamageConfig())
    volume = Volume.open(url)
    images = volume.read(Box((0, 0, 0), SHAPE)).astype(np.float64)
    tissue = images > 0
    images = 128 + (images - 128) * 0.6 * gains[:, :1, None] + gains[:, 1:, None]
    images = np.where(tissue, images.round().clip(1, 255), 0).astype(np.uint8)
    images[BLACK] = 0
    volume.write(Box((0, 0, 0), SHAPE), images)
    return url


@pytest.fixture(scope="module")
def runs(changed: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The volume aligned unchanged, and with its contrast matched."""
    folder = tmp_path_factory.mktemp("runs")
    plain, matched = str(folder / "plain.zarr"), str(folder / "matched.zarr")
    render = {name: value for name, value in MATCH.items() if name != "contrast"}
    for output, table in ((plain, render), (matched, MATCH)):
        summary = package.align(changed, output, cluster="serial", render=table, downsample={"smallest": 64})
        assert summary.state == "complete"
    return plain, matched


def test_changes_of_contrast_are_taken_back(runs: tuple[str, str], gains: np.ndarray[Any, Any]) -> None:
    table = read_contrast(runs[1])
    assert table is not None
    sound = np.arange(SHAPE[0]) != BLACK
    for before, after in (
        (np.log(gains[:, 0]), np.log(gains[:, 0] * table.gain)),
        (gains[:, 1], table.gain * (128 + gains[:, 1]) + table.offset),
    ):
        # From section to section, since a change over all of a short stack may be that of the block.
        steps = [np.diff(values)[sound[1:] & sound[:-1]].std() for values in (before, after)]
        assert steps[1] < 0.5 * steps[0]
    assert not table.matched[BLACK]
    assert (table.gain[BLACK], table.offset[BLACK]) == (1.0, 0.0)


def test_original_values_can_be_computed_back(runs: tuple[str, str]) -> None:
    plain, matched = (aligned_pixels(run).astype(np.float64) for run in runs)
    record = (group_attributes(f"{runs[1]}/aligned") or {})["ssem_dask_contrast"]
    gain, offset = (np.array(record[name])[:, None, None] for name in ("gain", "offset"))
    assert record["unchanged"] == [BLACK]
    back = np.where(matched > 0, (matched - offset) / gain, 0.0)
    # Half a grey value of rounding on either side.
    lost = (np.abs(back - plain) > 0.501 / gain + 0.501) & (plain > 0) & (plain < 255)
    clipped = json.loads(ssem_dask("status", runs[1], "--json").stdout)["clipped"]
    assert 0 < lost.sum() <= clipped < 0.02 * plain.size
    assert set(np.unique(matched[lost])) <= {1, 255}


def test_what_shows_nothing_stays_as_it_is(runs: tuple[str, str]) -> None:
    plain, matched = (aligned_pixels(run) for run in runs)
    assert (plain == 0).mean() > 0.05
    np.testing.assert_array_equal(matched == 0, plain == 0)


def test_clipped_pixels_are_none_without_the_setting(runs: tuple[str, str]) -> None:
    assert json.loads(ssem_dask("status", runs[0], "--json").stdout)["clipped"] == 0


def test_without_the_setting_nothing_is_stored(runs: tuple[str, str]) -> None:
    assert not Path(runs[0], "contrast").exists()
    assert "ssem_dask_contrast" not in (group_attributes(f"{runs[0]}/aligned") or {})
    assert read_contrast(runs[0]) is None


def test_fields_are_the_same_whatever_is_done_to_grey_values(runs: tuple[str, str]) -> None:
    plain, matched = (package.open_alignment(run).fields() for run in runs)
    np.testing.assert_array_equal(plain, matched)


def test_other_volumes_keep_their_grey_values(runs: tuple[str, str], changed: str, tmp_path: Path) -> None:
    for run, name in zip(runs, ("a", "b"), strict=True):
        ended = ssem_dask("warp", run, changed, str(tmp_path / f"{name}.zarr"), "--cluster", "serial")
        assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(read_all(str(tmp_path / "a.zarr")), read_all(str(tmp_path / "b.zarr")))


def test_another_setting_renders_again_and_nothing_else(runs: tuple[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "run.zarr")
    shutil.copytree(runs[1], output)
    ended = ssem_dask("rerun", output, "--set", "render.contrast=as_is", "--cluster", "serial", "--json")
    assert ended.returncode == 0, ended.stderr
    again = json.loads(ended.stdout)["again"]
    assert {key.split("/")[0] for keys in again.values() for key in keys} == {"render", "downsample", "measure"}
    np.testing.assert_array_equal(aligned_pixels(output), aligned_pixels(runs[0]))
    assert (group_attributes(f"{output}/aligned") or {})["ssem_dask_contrast"] is None


def test_sections_alone_cannot_have_another_setting(runs: tuple[str, str]) -> None:
    ended = ssem_dask(
        "rerun", runs[0], "--stage", "render", "--sections", "2", "--set", "render.contrast=match", "--dry-run"
    )
    assert_one_sentence(ended, naming="contrast")


def test_plan_status_and_report_say_it(runs: tuple[str, str], changed: str, tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text(f'source = "{changed}"\noutput = "{tmp_path}/new.zarr"\n[render]\ncontrast = "match"\n')
    planned = ssem_dask("plan", str(toml), "--json")
    assert any("grey values" in line for line in json.loads(planned.stdout)["choices"])
    remarks = json.loads(ssem_dask("status", runs[1], "--json").stdout)["remarks"]
    assert any("left as they came: 4" in remark["message"] for remark in remarks)
    page, other = (make_report(run, worst=1, viewer=None).html for run in reversed(runs))
    assert '"id":"contrast"' in page
    assert "Contrast" in page
    assert '"id":"contrast"' not in other


def test_only_the_registered_channel_is_changed(changed: str, tmp_path: Path) -> None:
    shape = (8, 128, 128)
    images = read_all(changed)[5:13, :128, :128]
    info = replace(Volume.open(changed).info, shape=shape, channels=("em", "dye"), channel=0)
    source = create_volume(str(tmp_path / "two.zarr"), info=info, chunk=(1, 128, 128), shard=(1, 128, 128), mips=1)
    for channel, pixels in zip(source.each_channel, (images, images // 2 + 40), strict=True):
        channel.write(Box((0, 0, 0), shape), pixels)
    aligned = {}
    for contrast in ("as_is", "match"):
        output = str(tmp_path / f"{contrast}.zarr")
        package.align(source.url, output, cluster="serial", render={**MATCH, "contrast": contrast})
        volume = Volume.open(f"{output}/aligned")
        aligned[contrast] = [channel.read(Box((0, 0, 0), shape)) for channel in volume.each_channel]
    assert (aligned["match"][0] != aligned["as_is"][0]).mean() > 0.2
    np.testing.assert_array_equal(aligned["match"][1], aligned["as_is"][1])


def test_the_report_shows_grey_levels_and_knows_what_is_set(runs: tuple[str, str]) -> None:
    table = read_contrast(runs[1])
    assert table is not None
    assert np.isnan(table.level[BLACK])
    level = np.delete(table.level, BLACK)
    assert ((level > 60) & (level < 200)).all()
    data = read_report_data(runs[1])
    faint = SectionRecord(z=2, kind=Kind.FAINT)
    page = render_report(replace(data, attention=Attention(sections=SHAPE[0], records=(faint,))), worst=1, viewer=None)
    assert "<code>render.contrast=match</code> is set" in page.html
    assert "--set render.contrast=match" not in page.html
    assert '"id":"grey-level"' in page.html
