"""Arrays of any kind as a source, results as arrays, and what a notebook shows of them."""

import re
import struct
import sys
import zlib
from base64 import b64decode
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

import ssem_dask
from ssem_dask.driver.notebook_html import grey_png
from ssem_dask.errors import OutputError, SourceError
from ssem_dask.field.affine import rotation_about
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.task import Outcome, TaskReport
from tests.support.field_runs import PIXEL_NM, SHAPE, SMOOTH, THICKNESS_NM, TURNED, make_field_run, smooth_noise

SIZES: dict[str, Any] = {"pixel_size": PIXEL_NM, "section_thickness": THICKNESS_NM}
NO_PLACE: Any = 3
PIXELS = smooth_noise(SHAPE, seed=4)


def as_xarray(values: Any) -> Any:
    return pytest.importorskip("xarray").DataArray(values, dims=("z", "y", "x"))


KINDS: list[Any] = [
    pytest.param(lambda values: values, id="numpy"),
    pytest.param(lambda values: da.from_array(values, chunks=(2, 50, 60)), id="dask"),
    pytest.param(as_xarray, id="xarray"),
    pytest.param(lambda values: zarr.array(values, chunks=(2, 64, 64)), id="zarr"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_field_run(tmp_path_factory.mktemp("run"), pixels=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_imported_as_a_file_is(tmp_path: Path, kind: Any) -> None:
    info = ssem_dask.import_volume(kind(PIXELS), tmp_path / "v.zarr", shard=(2, 1024, 1024), **SIZES)
    volume = Volume.open(str(tmp_path / "v.zarr"))
    assert (info, volume.info.pixel_size) == (volume.info, PIXEL_NM)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), SHAPE)), PIXELS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_warped_as_a_volume_is(run: str, tmp_path: Path, kind: Any) -> None:
    alignment = ssem_dask.open_alignment(Path(run))
    warped = alignment.warp(kind(PIXELS))
    assert warped.shape == SHAPE
    ssem_dask.import_volume(PIXELS, tmp_path / "v.zarr", **SIZES)
    assert ssem_dask.warp(run, tmp_path / "v.zarr", tmp_path / "w.zarr", cluster="serial").state == "complete"
    written = Volume.open(str(tmp_path / "w.zarr")).read(Box((0, 0, 0), SHAPE))
    np.testing.assert_array_equal(warped.compute(scheduler="synchronous"), written)
    np.testing.assert_array_equal(alignment.warp(kind(PIXELS), z=TURNED), written[TURNED])


def test_ids_stay_exact(run: str) -> None:
    ids = (PIXELS > 128).astype(np.uint64) * (2**40 + 1)
    warped = ssem_dask.open_alignment(run).warp(ids, z=SMOOTH, labels=True)
    assert set(np.unique(warped)) == {0, 2**40 + 1}


def test_align_takes_an_array_and_resumes(tmp_path: Path, observed: str) -> None:
    pixels = Volume.open(observed).read(Box((0, 0, 0), (10, 160, 160)))
    options: dict[str, Any] = {"pixel_size": 4, "section_thickness": 40, "cluster": "serial", "progress": False}
    assert ssem_dask.align(pixels, tmp_path / "out.zarr", **options).state == "complete"
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.source.zarr").rglob("*")}
    again = ssem_dask.align(da.from_array(pixels), tmp_path / "out.zarr", **options)
    assert not any(again.again.values())
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out.source.zarr").rglob("*")}
    shown = repr(again)
    assert "complete" in shown
    assert len(shown) < 400
    html = ssem_dask.open_alignment(tmp_path / "out.zarr")._repr_html_()
    assert "<b>Alignment" in html
    assert again.verdict in html
    picture = b64decode(re.search('base64,([^"]+)', html)[1])  # type: ignore[index]
    assert picture.startswith(b"\x89PNG")


def test_a_picture_is_a_picture() -> None:
    image = np.arange(1, 1 + 700 * 500, dtype=np.uint32).reshape(700, 500)
    content = grey_png(image)
    width, height = struct.unpack(">II", content[16:24])
    assert (height, width) == (234, 167)
    start = content.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(content[start:-16]), dtype=np.uint8).reshape(height, width + 1)
    assert (rows[:, 0] == 0).all()
    assert rows[0, 1] == 0
    assert rows[-1, -1] == 255


def test_progress_is_a_line_per_stage(tmp_path: Path, observed: str, capsys: pytest.CaptureFixture[str]) -> None:
    ssem_dask.align(observed, tmp_path / "out.zarr", cluster="serial", progress=True)
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert any(re.fullmatch(r"render: (\d+) of \1 tasks?", line) for line in lines), lines


def test_a_notebook_shows_bars_and_the_result(tmp_path: Path, observed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython itself collects what a notebook would display."""
    shell_class: Any = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    capture: Any = pytest.importorskip("IPython.utils.capture").capture_output
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell_class.instance()
    try:
        with capture() as seen:
            summary = ssem_dask.align(observed, tmp_path / "out.zarr", cluster="serial")
            broken = ssem_dask.status(str(tmp_path / "out.zarr"))
        last = seen.outputs[-1].data["text/html"]
        assert re.search(r'<td>render</td><td><progress value="(\d+)" max="\1">', last)
        assert all(output.update for output in seen.outputs[1:])  # one block, which changes
        assert "\rrender" not in seen.stderr
    finally:
        shell_class.clear_instance()
    html = summary._repr_html_()
    assert f"<b>{tmp_path / 'out.zarr'}: complete</b>" in html
    assert summary.verdict in html
    assert b64decode(re.search('base64,([^"]+)', html)[1]).startswith(b"\x89PNG")  # type: ignore[index]
    failed = TaskReport(key="render/0", digest="", outcome=Outcome.FAILED, message="<no memory>")
    broken.state = "incomplete"
    broken.add(failed)
    assert "1 task failed, the first is render/0: &lt;no memory&gt;" in broken._repr_html_()
    assert "img" not in ssem_dask.Summary(output=str(tmp_path / "none"), state="incomplete")._repr_html_()


@pytest.mark.parametrize(("degrees", "shift"), [(0.0, (7.0, -4.0)), (12.0, (3.0, 9.0))])
def test_one_pair(degrees: float, shift: tuple[float, float]) -> None:
    import torch

    from ssem_dask.field.affine import apply_affine
    from ssem_dask.field.grid import Grid
    from ssem_dask.field.interpolate import sample

    image = torch.from_numpy(smooth_noise((1, 320, 288), seed=2).astype(np.float32))
    grid = Grid((320, 288), 1.0)
    truth = rotation_about(degrees=degrees, centre=(160, 144), shift=shift)
    at = apply_affine(truth, grid.positions())
    fixed = sample(image, grid=grid, positions=at, kind="bicubic")[0].numpy()
    field, confidence = ssem_dask.register_pair(fixed, image[0].numpy(), pixel_size=10)
    wanted = (at - grid.positions()).numpy()
    inner = np.s_[:, 90:-90, 90:-90]
    assert np.nanmedian(np.abs(field - wanted)[inner]) < 0.3
    assert confidence[90:-90, 90:-90].mean() > 0.3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda out: ssem_dask.import_volume(PIXELS, out), "its sizes are unknown"),
        (lambda out: ssem_dask.import_volume(PIXELS[0], out, **SIZES), r"a volume has three axes \(z, y, x\)"),
        (lambda out: ssem_dask.import_volume(PIXELS / 2, out, **SIZES), "float64, but pixels and labels are integers"),
        (lambda out: ssem_dask.import_volume(PIXELS, out, time=3, **SIZES), "time is for files"),
        (lambda out: ssem_dask.align(PIXELS, out), "its sizes are unknown"),
        (lambda out: ssem_dask.open_alignment(NO_PLACE), "3: is no path or URL"),
        (lambda out: ssem_dask.register_pair(PIXELS[0], PIXELS[0, 1:], pixel_size=5), "two images"),
        (ssem_dask.status, "no alignment is there|nothing"),
    ],
)
def test_mistakes_are_the_sentences_of_the_command_line(tmp_path: Path, call: Any, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        call(tmp_path / "out.zarr")


def test_nothing_of_others_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "v.zarr"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="something is already there"):
            ssem_dask.import_volume(PIXELS, place, overwrite=overwrite, **SIZES)
    assert (place / "notes.txt").read_text() == "mine"
