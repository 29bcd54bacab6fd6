"""`compare`: what changed between two runs, where and by how much, and sentences where they do not fit each other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ssem_dask
from ssem_dask.report.field_changes import measure_field_changes, open_fields
from ssem_dask.section_record import Attention, Kind, SectionRecord
from ssem_dask.storage.fields import FieldInfo, create_field, open_field
from ssem_dask.storage.location import join, write_json
from ssem_dask.storage.quality import SECTION_COLUMNS, read_sections, write_sections
from ssem_dask.storage.run_group import read_run, update_run
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.runs import SEPARATE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(observed: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("compare") / "a.zarr")
    assert ssem_dask.align(observed, output, cluster="serial", **SEPARATE).state == "complete"
    return output


@pytest.fixture
def other(run: str) -> str:
    """A copy of the run beside it, to change."""
    url = str(Path(run).with_name("b.zarr"))
    shutil.rmtree(url, ignore_errors=True)
    shutil.copytree(run, url)
    return url


def moved(run: str, *, by: tuple[float, float], sections: slice = slice(None), columns: slice = slice(None)) -> None:
    array, _ = open_field(join(run, "fields/section"), mode="r+")
    field = np.asarray(array[:])
    field[sections, :, :, columns] += np.array(by, dtype=np.float32)[:, None, None]
    array[:] = field


def test_a_copy_is_equal(run: str, other: str) -> None:
    comparison = ssem_dask.compare(run, other)
    assert comparison.judgement == "equal"
    assert comparison.verdict == "Equal: the fields of all 10 sections are the same to the bit."
    assert comparison.settings == ()
    assert comparison.changed == ()


def test_what_moved_is_found_after_one_translation_of_the_volume(run: str, other: str) -> None:
    moved(other, by=(1.0, -2.0))
    moved(other, by=(0.0, 4.0), sections=slice(6, 7), columns=slice(0, 3))
    comparison = ssem_dask.compare(run, other)
    assert comparison.shift_px == pytest.approx((1.0, -2.0), abs=0.1)
    assert [section.z for section in comparison.changed] == [6]
    section = comparison.changed[0]
    assert section.largest_px == pytest.approx(4.0, rel=0.1)
    assert section.median_px < 0.5
    spacing = read_run(run).config["register"]["spacing"]
    assert section.position[1] < 3 * spacing
    assert "1 of 10 sections changed by more than 0.25 px: 6" in comparison.verdict
    assert not any(section.is_identical for section in comparison.sections)


def test_a_translation_of_a_turned_section_is_one_too(run: str, other: str, tmp_path: Path) -> None:
    """A shift of the aligned frame moves the source position of a section turned by 180° the other way."""
    turned = str(shutil.copytree(run, tmp_path / "turned.zarr"))
    for url in (turned, other):
        array, info = open_field(join(url, "fields/section"), mode="r+")
        field = np.asarray(array[:])
        field[4] = -2 * (np.indices(field.shape[2:]) + 0.5) * info.spacing + 160
        array[:] = field
    moved(other, by=(5.0, -3.0))
    moved(other, by=(-10.0, 6.0), sections=slice(4, 5))
    changes = measure_field_changes(open_fields(turned), open_fields(other))
    assert np.nanmax(changes.largest) < 0.5


def test_fields_of_another_spacing_are_compared_at_the_same_places(tmp_path: Path) -> None:
    for name, spacing in (("a", 16), ("b", 8)):
        info = FieldInfo(shape_mip0=(3, 200, 230), spacing=spacing)
        array = create_field(
            str(tmp_path / name / "fields" / "section"),
            info=info,
            leading=(),
            components=True,
            chunks=(1, 2, 4, 4),
            shards=None,
        )
        y, x = ((np.arange(n) + 0.5) * spacing for n in info.nodes)
        ramp = 0.02 * y[:, None] + 0.01 * x[None]
        array[:] = np.broadcast_to(ramp, (3, 2, *ramp.shape))
    changes = measure_field_changes(open_fields(str(tmp_path / "a")), open_fields(str(tmp_path / "b")))
    assert np.nanmax(changes.median) < 1e-3
    assert not changes.identical.any()


def test_better_and_worse_follow_from_the_quality_tables(run: str, other: str) -> None:
    moved(other, by=(0.0, 1.0), sections=slice(5, 6))
    values = read_sections(other)
    values["ncc"][3:6] += 0.2
    values["uncertainty"][:] *= 3  # a run may be certain of a wrong place, so this decides nothing
    for start in (0, 8):
        write_sections(other, start=start, values={name: values[name][start : start + 8] for name in SECTION_COLUMNS})
    better = ssem_dask.compare(run, other)
    assert better.judgement == "better"
    assert [section.z for section in better.sections if section.judgement == "better"] == [3, 4, 5]
    assert "better matches in 3 sections and worse ones in 0" in better.verdict
    worse = ssem_dask.compare(other, run)
    assert worse.judgement == "worse"
    rows = {row.name: row for row in worse.measures}
    assert rows["ncc"].worse == (3, 4, 5)
    assert rows["uncertainty"].better == ()


def test_sections_that_need_a_look_count(run: str, other: str) -> None:
    moved(other, by=(0.0, 1.0), sections=slice(5, 6))
    record = SectionRecord(z=5, kind=Kind.FOREIGN, detail="resembles nothing")
    write_json(join(other, "quality/attention.json"), Attention(sections=10, records=(record,)).to_json())
    comparison = ssem_dask.compare(run, other)
    assert comparison.attention[1] == (5,)
    assert comparison.judgement == "worse"
    assert "sections that need a look: 1 instead of 0" in comparison.verdict


def test_settings_are_compared(run: str, other: str) -> None:
    config = read_run(other).config
    update_run(other, config={**config, "register": {**config["register"], "neighbours": 1}})
    settings = ssem_dask.compare(run, other).settings
    assert [(row.name, row.a, row.b) for row in settings] == [("register.neighbours", "2", "1")]


def test_runs_that_do_not_fit_each_other_are_refused_in_a_sentence(run: str, other: str, tmp_path: Path) -> None:
    assert_one_sentence(command("compare", run, str(tmp_path / "none.zarr")), naming="none.zarr")
    update_run(other, source="../elsewhere.zarr", source_place="../elsewhere.zarr", source_absolute="/elsewhere.zarr")
    assert_one_sentence(command("compare", run, other), naming="different sources")
    assert ssem_dask.compare(run, other, other_source=True).judgement == "equal"
    shutil.rmtree(join(other, "fields", "section"))
    assert_one_sentence(command("compare", run, other, "--other-source"), naming="has no section fields yet")


def test_another_extent_is_refused(run: str, other: str) -> None:
    array, _ = open_field(join(other, "fields/section"), mode="r+")
    array.attrs["shape_mip0"] = [10, 160, 150]
    assert_one_sentence(command("compare", run, other), naming="extents")


def test_an_incomplete_run_is_compared_as_far_as_it_goes(run: str, other: str) -> None:
    update_run(other, state="incomplete")
    moved(other, by=(float("nan"), float("nan")), sections=slice(2, 3))
    comparison = ssem_dask.compare(run, other)
    assert any("incomplete" in remark for remark in comparison.remarks)
    assert [section.z for section in comparison.changed] == [2]
    assert json.dumps(comparison.to_json(), allow_nan=False)


def test_the_command_says_the_verdict_first_and_writes_pictures(run: str, other: str, tmp_path: Path) -> None:
    moved(other, by=(0.0, 6.0), sections=slice(5, 6))
    page, folder = tmp_path / "compare.html", tmp_path / "pictures"
    ended = command("compare", run, other, "--file", str(page), "--pictures", str(folder))
    assert ended.returncode == 0
    assert "1 of 10 sections changed" in ended.stdout.splitlines()[0]
    html = page.read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/") == 4
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"section-00005-{name}.png" for name in ("a", "b", "difference", "distance")]
    assert np.asarray(Image.open(folder / names[0])).std() > 5
    as_json = json.loads(command("compare", run, other, "--json").stdout)
    assert as_json["changed"] == [5]
    assert as_json["sections"][5]["p95_px"] == pytest.approx(6.0, abs=0.1)
