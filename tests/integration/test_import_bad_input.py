"""Every mistake with an import ends in one sentence, and leaves nothing that a later run would trust."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import retry
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.volumes.importing import import_volume, plan_import
from tests.support.small_imports import SIZES, SMALL, check_refused, sections, write_series


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series", sections())


def test_a_good_series_is_imported(series: Path, tmp_path: Path):
    done: list[int] = []
    info = import_volume(str(series), str(tmp_path / "a.zarr"), **SIZES, **SMALL, progress=done.append)
    assert info == VolumeInfo(shape=(6, 40, 50), dtype=np.dtype(np.uint8), pixel_size=4.0, section_thickness=40.0)
    assert sum(done) == 6 * 40 * 50
    volume = Volume.open(str(tmp_path / "a.zarr"))
    assert volume.info == info
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), info.shape)), sections())


def test_a_plan_touches_nothing(series: Path, tmp_path: Path):
    plan = plan_import(str(series), str(tmp_path / "a.zarr"), **SIZES)
    assert plan.info.shape == (6, 40, 50)
    assert not (tmp_path / "a.zarr").exists()


def test_rows_are_read_in_bands_where_sections_are_large(series: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("ssem_dask.volumes.import_slabs.BAND_BYTES", 1)
    done: list[int] = []
    import_volume(str(series), str(tmp_path / "a.zarr"), **SIZES, **SMALL, progress=done.append)
    assert done == [2 * 32 * 50, 2 * 8 * 50] * 3
    np.testing.assert_array_equal(Volume.open(str(tmp_path / "a.zarr")).read(Box((0, 0, 0), (6, 40, 50))), sections())


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize("name", ["nothing", "nothing.tif", "nothing.png", "nothing.h5", "nothing.zarr", "no*.tif"])
def test_missing(tmp_path: Path, name: str):
    wanted = "holds no images" if "*" in name else "nothing is there"
    check_refused(tmp_path / name, tmp_path / "a.zarr", name, wanted)
    assert not (tmp_path / "a.zarr").exists()


def test_empty_series(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    check_refused(tmp_path / "empty", tmp_path / "a.zarr", "holds no images", "*.tif")


def test_unknown_format(tmp_path: Path):
    (tmp_path / "a.xyz").write_bytes(b"1234")
    check_refused(tmp_path / "a.xyz", tmp_path / "a.zarr", "no format that can be imported", "HDF5")


def test_section_of_another_size(series: Path, tmp_path: Path):
    tifffile.imwrite(series / "s3.tif", sections()[0, :39])
    tifffile.imwrite(series / "s4.tif", sections()[0, :38])
    check_refused(series, tmp_path / "a.zarr", "s3.tif", "50 × 39", "50 × 40", "s0.tif")


def test_section_of_another_type(series: Path, tmp_path: Path):
    tifffile.imwrite(series / "s3.tif", sections(dtype="uint16")[0])
    check_refused(series, tmp_path / "a.zarr", "s3.tif", "uint16", "uint8", "s0.tif")


def test_page_of_another_size_or_type(tmp_path: Path):
    for name, page in {"size.tif": sections()[0, :39], "type.tif": sections(dtype="uint16")[0]}.items():
        with tifffile.TiffWriter(tmp_path / name) as writer:
            writer.write(sections()[0])
            writer.write(page)
    check_refused(tmp_path / "size.tif", tmp_path / "a.zarr", "page 1", "50 × 39", "50 × 40")
    check_refused(tmp_path / "type.tif", tmp_path / "a.zarr", "page 1", "uint16", "uint8")


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.95])
def test_truncated_tiff(series: Path, tmp_path: Path, compression: str | None, keep: float):
    tifffile.imwrite(series / "s3.tif", sections()[0], compression=compression)
    content = (series / "s3.tif").read_bytes()
    (series / "s3.tif").write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    check_refused(series, tmp_path / "a.zarr", "s3.tif")
    check_refused(series / "s3.tif", tmp_path / "a.zarr", "s3.tif")


def test_truncated_stack(tmp_path: Path):
    for name, imagej in {"pages.tif": False, "imagej.tif": True}.items():
        tifffile.imwrite(tmp_path / name, sections(), imagej=imagej)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) * 3 // 4])
        check_refused(tmp_path / name, tmp_path / "a.zarr", name)


def png_series(folder: Path) -> Path:
    folder.mkdir()
    for z, section in enumerate(sections()):
        (folder / f"s{z}.png").write_bytes(imagecodecs.png_encode(section))
    return folder


@pytest.mark.parametrize("damage", ["header", "body", "end", "empty"])
def test_corrupt_png(tmp_path: Path, damage: str):
    folder = png_series(tmp_path / "png")
    content = bytearray((folder / "s4.png").read_bytes())
    if damage == "header":
        content[1:4] = b"GIF"
    elif damage == "body":
        content[len(content) // 2] ^= 0xFF
    elif damage == "end":
        del content[len(content) // 2 :]
    else:
        content.clear()
    (folder / "s4.png").write_bytes(content)
    check_refused(folder, tmp_path / "a.zarr", "s4.png")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_jpeg(tmp_path: Path, keep: float):
    for z, section in enumerate(sections()):
        content = imagecodecs.jpeg_encode(section)
        kept = content if z != 4 else content[: int(keep if keep > 1 else keep * len(content))]
        (tmp_path / f"s{z}.jpg").write_bytes(kept)
    check_refused(tmp_path, tmp_path / "a.zarr", "s4.jpg")


def colours(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 255, shape, dtype=np.uint8)


def rgb_tiff(path: Path) -> Path:
    tifffile.imwrite(path.with_suffix(".tif"), colours((4, 20, 20, 3)), photometric="rgb")
    return path.with_suffix(".tif")


def rgb_series(path: Path, encode: Callable, suffix: str) -> Path:
    path.mkdir()
    for z in range(3):
        (path / f"{z}{suffix}").write_bytes(encode(colours((20, 20, 3))))
    return path


@pytest.mark.parametrize(
    "make",
    [
        rgb_tiff,
        lambda path: rgb_series(path, imagecodecs.png_encode, ".png"),
        lambda path: rgb_series(path, imagecodecs.jpeg_encode, ".jpg"),
    ],
)
def test_rgb(tmp_path: Path, make: Callable[[Path], Path]):
    check_refused(make(tmp_path / "rgb"), tmp_path / "a.zarr", "3 channels", "grey")


def test_float_with_nan(tmp_path: Path):
    values = sections().astype(np.float32)
    values[2, 3, 4] = np.nan
    tifffile.imwrite(tmp_path / "float.tif", values)
    check_refused(tmp_path / "float.tif", tmp_path / "a.zarr", "float32", "uint8 or uint16", "NaN")


def test_single_section(tmp_path: Path):
    tifffile.imwrite(tmp_path / "one.tif", sections()[0])
    (tmp_path / "one.png").write_bytes(imagecodecs.png_encode(sections()[0]))
    check_refused(tmp_path / "one.tif", tmp_path / "a.zarr", "single section")
    check_refused(tmp_path / "one.png", tmp_path / "a.zarr", "single section")


def test_blank_volume(tmp_path: Path):
    source = write_series(tmp_path / "blank", np.full((6, 40, 50), 17, np.uint8))
    check_refused(source, tmp_path / "a.zarr", "every pixel of the volume is 17")
    assert not (tmp_path / "a.zarr").exists()


def test_labels_may_be_blank_and_wide_but_not_float(tmp_path: Path):
    tifffile.imwrite(tmp_path / "labels.tif", np.full((3, 40, 50), 2**31, np.uint32), photometric="minisblack")
    check_refused(tmp_path / "labels.tif", tmp_path / "a.zarr", "uint32")
    info = import_volume(str(tmp_path / "labels.tif"), str(tmp_path / "a.zarr"), **SIZES, **SMALL, labels=True)
    assert info.dtype == np.uint32
    assert Volume.open(str(tmp_path / "a.zarr")).read(Box((1, 2, 3), (2, 3, 4))).item() == 2**31
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((3, 40, 50), np.float32), photometric="minisblack")
    check_refused(tmp_path / "float.tif", tmp_path / "b.zarr", "integers", labels=True)


def test_hdf5_that_is_not_clear(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw/one", data=sections())
        file.create_dataset("raw/two", data=sections())
        file.create_dataset("flat", data=sections()[0])
    check_refused(tmp_path / "a.h5", tmp_path / "a.zarr", "a.h5:/raw/one", "a.h5:/raw/two")
    check_refused(f"{tmp_path}/a.h5:/raw", tmp_path / "a.zarr", "not an array with three axes")
    check_refused(f"{tmp_path}/a.h5:/raw/three", tmp_path / "a.zarr", "no dataset /raw/three", "/raw/one")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("flat", data=sections()[0])
    check_refused(tmp_path / "b.h5", tmp_path / "a.zarr", "holds no dataset with three axes")
    (tmp_path / "c.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:3000])
    check_refused(tmp_path / "c.h5", tmp_path / "a.zarr", "c.h5", "damaged, truncated")


def test_zarr_that_is_not_a_volume(tmp_path: Path):
    for name in ("raw", "labels"):
        zarr.open_group(str(tmp_path / "g.zarr"), mode="a").create_array(name, data=sections())
    check_refused(tmp_path / "g.zarr", tmp_path / "a.zarr", "2 volumes; name one of them", "g.zarr/raw")
    zarr.create_array(str(tmp_path / "flat.zarr"), data=sections()[0])
    check_refused(tmp_path / "flat.zarr", tmp_path / "a.zarr", "shape (40, 50)", "z, y, x")
    zarr.create_array(str(tmp_path / "c.zarr"), data=np.zeros((3, 4, 5, 6), np.uint8))
    check_refused(tmp_path / "c.zarr", tmp_path / "a.zarr", "shape (3, 4, 5, 6)", "--channel or --time 0 to 2")


def test_missing_sizes(series: Path, tmp_path: Path):
    check_refused(series, tmp_path / "a.zarr", "pixel size", "--pixel-size", pixel_size=None)
    check_refused(series, tmp_path / "a.zarr", "section thickness", "--section-thickness", section_thickness=None)
    check_refused(series, tmp_path / "a.zarr", "must be positive", pixel_size=0.0)


@pytest.mark.parametrize("per_pixel", [(5, 10), (10, 5)], ids=["high", "wide"])
def test_pixels_that_are_not_square(tmp_path: Path, per_pixel: tuple[int, int]):
    x, y = per_pixel
    source, out = tmp_path / "a.tif", tmp_path / "a.zarr"
    metadata = {"spacing": 0.05, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(source, sections(), imagej=True, resolution=(1000 / x, 1000 / y), metadata=metadata)
    sizes: dict[str, Any] = {"pixel_size": None, "section_thickness": None}
    check_refused(source, out, f"{y} nm high and {x} nm wide, not square", "--pixel-size", **sizes)
    assert not out.exists()
    info = import_volume(str(source), str(out), **{**SMALL, **sizes, "pixel_size": 5.0})
    assert info.pixel_size == 5.0
    assert info.section_thickness == pytest.approx(50.0)


UNREACHABLE = ["http://127.0.0.1:9/a.zarr", "http://127.0.0.1:9/a.h5", "nonsense://bucket/a"]


MOST_REQUESTS = 10


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Time limit of each request that may be retried; None: the short one."""
    limits: list[float | None] = []
    pauses = retry._pauses

    def counted() -> Iterator[float]:
        limits.append(retry._TIME_LIMIT_S.get())
        return pauses()

    monkeypatch.setattr(retry, "_pauses", counted)
    return limits


@pytest.mark.parametrize("url", UNREACHABLE)
def test_unreachable_source(tmp_path: Path, retried: list[float | None], url: str):
    check_refused(url, tmp_path / "a.zarr", url)
    with pytest.raises(SourceError, match=url):
        Volume.open(url, **SIZES)
    # Each request is retried for a second in all, so that the answer comes soon.
    assert len(retried) <= MOST_REQUESTS
    assert not any(retried)


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_unreachable_object_store_ends_quietly_and_soon(series: Path, tmp_path: Path, endpoint: str | None):
    pytest.importorskip("s3fs", reason="reading s3:// needs the extra ssem_dask[s3]")
    script = (
        "import sys\n"
        "from ssem_dask.storage import retry\n"
        "from ssem_dask.errors import SourceError, OutputError\n"
        "from ssem_dask.volumes.importing import import_volume\n"
        "here, there = sys.argv[1:]\n"
        "pauses, limits = retry._pauses, []\n"
        "retry._pauses = lambda: limits.append(retry._TIME_LIMIT_S.get()) or pauses()\n"
        "for source, destination, error in ((there, here, SourceError), (here, there, OutputError)):\n"
        "    try:\n"
        "        import_volume(source, destination, pixel_size=4, section_thickness=40)\n"
        "    except error as caught:\n"
        "        sys.stdout.write(str(caught) + '\\n')\n"
        "sys.stdout.write(f'{len(limits)} {any(limits)}')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    if endpoint:
        environment |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    command = [sys.executable, "-c", script, str(series), "s3://nobody-has-this/a.zarr"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert ended.stdout.count("s3://nobody-has-this/a.zarr: cannot be reached") == 2
    count, is_long = ended.stdout.splitlines()[-1].split()
    assert int(count) <= MOST_REQUESTS
    assert is_long == "False"
