"""Formats × oddities: no format accepts what another refuses, and none reads it otherwise."""

import contextlib
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.types import AnyArray
from tests.support.input_formats import FORMATS, Described, Format, volume

NM = {"z": (40.0, "nm"), "y": (5.0, "nm"), "x": (5.0, "nm")}
GREY = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 3, axis=1)
COLOURFUL = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)], axis=1).astype(np.uint8)


def formats(**needs: Any) -> Any:
    """Formats that have an ability."""

    def has(form: Format) -> bool:
        return all(
            value in getattr(form, name) if isinstance(value, str) else getattr(form, name) == value
            for name, value in needs.items()
        )

    return pytest.mark.parametrize("form", [form for form in FORMATS if has(form)], ids=lambda form: form.name)


def stored(form: Format, folder: Path, values: AnyArray, described: Described) -> str:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "inside").mkdir(exist_ok=True) if "zip" in form.name else None
    return form.write(folder, values, described)


def read(url: str, **options: Any) -> AnyArray:
    with contextlib.closing(open_any_format(url, ReadOptions(**options))) as source:
        z, y, _ = source.info.shape
        whole = source.read(z_start=0, z_stop=z, y_start=0, y_stop=y)
        band = source.read(z_start=1, z_stop=z, y_start=3, y_stop=y - 2)
        np.testing.assert_array_equal(band, whole[1:, 3:-2])  # the law of `Source.read`
        assert whole.shape == source.info.shape
        assert whole.dtype == source.info.dtype
        return whole


def check(form: Format, url: str, expected: AnyArray, **options: Any) -> None:
    got = read(url, **options)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= form.tolerance


def refused(url: str, sentence: str, **options: Any) -> None:
    with pytest.raises(SourceError, match=sentence) as caught:
        read(url, **options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- axes


@formats(axes=True)
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "tzyx"])
def test_further_axes_of_extent_1_are_dropped(form: Format, axes: str, tmp_path: Path) -> None:
    values = volume()
    check(
        form,
        stored(form, tmp_path, values.reshape((1,) * (len(axes) - 3) + values.shape), Described(axes=axes)),
        values,
    )


@formats(axes=True)
@pytest.mark.parametrize(("axis", "option"), [("t", "--time"), ("c", "--channel")])
def test_time_points_and_channels_are_chosen(form: Format, axis: str, option: str, tmp_path: Path) -> None:
    values = volume((5, 6, 24, 40))
    url = stored(form, tmp_path, values, Described(axes=f"{axis}zyx"))
    refused(url, f"has 5 .*{option} 0 to 4")
    name = {"t": "time", "c": "channel"}[axis]
    check(form, url, values[3], **{name: 3})
    refused(url, f"{option} 7 is none", **{name: 7})


@formats(axes=True)
def test_equal_channels_are_one_grey_image(form: Format, tmp_path: Path) -> None:
    values = volume()
    url = stored(form, tmp_path / "equal", np.stack([values] * 3), Described(axes="czyx"))
    check(form, url, values)
    other = np.stack([values, values, values[::-1]])
    url = stored(form, tmp_path / "other", other, Described(axes="czyx"))
    refused(url, "3 channels.*--channel 0 to 2")
    check(form, url, values[::-1], channel=2)


@formats(order=True)
@pytest.mark.parametrize("axes", ["xyz", "yxz", "zyxc", "xyzct"])
def test_axes_are_honoured_in_any_order(form: Format, axes: str, tmp_path: Path) -> None:
    values = volume()
    order = ["zyx".index(axis) for axis in axes if axis in "zyx"]
    turned = values.transpose(order).reshape([values.shape["zyx".index(a)] if a in "zyx" else 1 for a in axes])
    named = form.name.startswith("ome-zarr")  # others state lengths as a list, in an order of their own
    lengths = NM if named else {}
    url = stored(form, tmp_path, np.ascontiguousarray(turned), Described(axes=axes, lengths=lengths))
    assert sizes(url) == ((5.0, 40.0) if named else (None, None))
    check(form, url, values)


@formats(order=True)
def test_axes_that_are_no_volume_are_refused(form: Format, tmp_path: Path) -> None:
    url = stored(form, tmp_path, volume(), Described(axes="wyx"))
    refused(url, "axes w, y, x.*z, y, x")


# ---------------------------------------------------------------- sizes


def sizes(url: str) -> tuple[float | None, float | None]:
    with contextlib.closing(open_any_format(url)) as source:
        return source.info.sizes.pixel_size, source.info.sizes.section_thickness


UNITS = {
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometers": 1.0,
    "Nanometre": 1.0,
    "um": 1e3,
    "µm": 1e3,  # micro sign
    "μm": 1e3,  # Greek mu
    "\\u00B5m": 1e3,
    "micron": 1e3,
    "Microns": 1e3,
    "micrometers": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "inch": 2.54e7,
    "Å": 0.1,
    "angstrom": 0.1,
    "m": 1e9,
}


@formats(units="one")
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_understood_in_any_spelling(form: Format, unit: str, tmp_path: Path) -> None:
    if form.name in ("imagej", "ome-tiff") and not unit.isascii() and unit != "µm":
        pytest.skip("the writer refuses the letter")
    factor = UNITS[unit]
    lengths = {"z": (40 / factor, unit), "y": (5 / factor, unit), "x": (5 / factor, unit)}
    url = stored(form, tmp_path, volume(), Described(lengths=lengths))
    assert sizes(url) == pytest.approx((5.0, 40.0), rel=1e-3)


@formats(units="one")
@pytest.mark.parametrize("unit", ["pixel", "", "furlong"])
def test_unknown_units_give_no_size(form: Format, unit: str, tmp_path: Path) -> None:
    lengths = {"z": (40.0, unit), "y": (5.0, unit), "x": (5.0, unit)}
    if form.name == "n5" and not unit:
        pytest.skip("lengths without a unit are nm by habit")
    if form.name in ("hdf5", "zarr 2", "zarr 3", "ome-tiff") and not unit:
        pytest.skip("lengths without a unit have a default")
    assert sizes(stored(form, tmp_path, volume(), Described(lengths=lengths))) == (None, None)


@formats(units="axis")
def test_units_of_each_axis(form: Format, tmp_path: Path) -> None:
    lengths = {"z": (0.05, "um"), "y": (5.0, "nm"), "x": (5.0, "nm")}
    if form.name == "imagej":
        url = stored(form, tmp_path, volume(), Described(lengths=lengths))
        assert sizes(url) == pytest.approx((5.0, 50.0))
    lengths = {"z": (0.05, "um"), "y": (5.0, "nm"), "x": (0.005, "um")}
    assert sizes(stored(form, tmp_path, volume(), Described(lengths=lengths))) == pytest.approx((5.0, 50.0))


@pytest.mark.parametrize("form", [form for form in FORMATS if form.units], ids=lambda form: form.name)
def test_pixels_that_are_not_square_name_both_numbers(form: Format, tmp_path: Path) -> None:
    lengths = {"z": (40.0, "nm"), "y": (10.0, "nm"), "x": (5.0, "nm")}
    url = stored(form, tmp_path, volume(), Described(lengths=lengths))
    with contextlib.closing(open_any_format(url)) as source:
        found = source.info.sizes
    assert (found.pixel_size, found.section_thickness) == (None, 40.0)
    assert found.pixel_conflict == "pixels are 10 nm high and 5 nm wide, not square"


# ---------------------------------------------------------------- extent


@formats(file=True)
@pytest.mark.parametrize("keep", [0.3, 0.55, 0.8, 0.97])
def test_a_copy_that_broke_off_is_refused(
    form: Format, keep: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = stored(form, tmp_path, volume((8, 60, 64)), Described())
    content = Path(url).read_bytes()
    Path(url).write_bytes(content[: int(len(content) * keep)])
    refused(url, "truncated|announces|cannot be decoded")
    assert not caplog.records


def remove_a_chunk(url: str) -> None:
    if url.endswith(".h5"):
        with h5py.File(url, "a") as file:
            values, attributes = file["raw"][...], dict(file["raw"].attrs)
            del file["raw"]
            dataset = file.create_dataset("raw", values.shape, values.dtype, chunks=(6, 12, 12))
            dataset[:, 12:] = values[:, 12:]
            dataset[:, :12, 12:] = values[:, :12, 12:]
            dataset.attrs.update(attributes)
        return
    names = ("attributes.json", "info", "zarr.json", ".zarray", ".zattrs", ".zgroup")
    chunks = [path for path in sorted(Path(url).rglob("*")) if path.is_file() and path.name not in names]
    chunks[0].unlink()


@formats(chunks=True)
def test_missing_chunks_are_counted(form: Format, tmp_path: Path) -> None:
    url = stored(form, tmp_path, volume(), Described())
    with contextlib.closing(open_any_format(url)) as source:
        assert not source.info.notes
    remove_a_chunk(url)
    with contextlib.closing(open_any_format(url)) as source:
        assert any(re.search(r"[14] of \d+ (chunk|shard|block)s not stored", note) for note in source.info.notes)
        assert not source.read(z_start=0, z_stop=6, y_start=0, y_stop=24).all()


@pytest.mark.parametrize("index", ["start", "end"])
def test_chunks_that_are_missing_inside_zarr_shards_are_counted(index: Any, tmp_path: Path) -> None:
    values = volume()  # 6 × 24 × 40: shards of 4 chunks, of which those at the right have 2 inside the array
    sharding: Any = {"shape": (6, 24, 24), "index_location": index}
    url = str(tmp_path / "a.zarr")
    array = zarr.create_array(url, shape=values.shape, chunks=(6, 12, 12), shards=sharding, dtype="uint8")
    array[:, :, 24:] = values[:, :, 24:]
    array[:, :12, :12] = values[:, :12, :12]
    with contextlib.closing(open_any_format(url)) as source:
        (note,) = source.info.notes
        assert f"{url}, inside its shards: 3 of 8 chunks not stored" in note
    array[...] = values
    with contextlib.closing(open_any_format(url)) as source:
        assert not source.info.notes
        np.testing.assert_array_equal(read(url), values)


def test_chunks_that_are_missing_inside_precomputed_shards_are_counted(tmp_path: Path) -> None:
    values = volume()
    values[:, :12, 12:24] = 0  # TensorStore leaves out what it did not write, and what is 0
    (form,) = (form for form in FORMATS if form.name == "precomputed, sharded")
    url = stored(form, tmp_path, values, Described())
    with contextlib.closing(open_any_format(url)) as source:
        (note,) = source.info.notes
        assert f"{url}: 2 of 16 chunks not stored" in note


@pytest.mark.parametrize("name", ["zarr 3, sharded", "precomputed, sharded"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.9])
def test_shards_that_are_cut_off_are_named(name: str, kept: float, tmp_path: Path) -> None:
    (form,) = (form for form in FORMATS if form.name == name)
    url = stored(form, tmp_path, volume(), Described())
    shard = max((path for path in Path(url).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    refused(url, rf"1 shard is cut off or damaged, the first is .*{shard.name}.*; copy them again")


# ---------------------------------------------------------------- values


@formats(tags="inverted")
def test_white_is_0(form: Format, tmp_path: Path) -> None:
    values = volume()
    url = stored(form, tmp_path, 255 - values, Described(inverted=True))
    check(form, url, values)
    check(form, url, 255 - values, labels=True)


@formats(tags="palette")
def test_a_grey_palette_is_applied_and_colours_are_refused(form: Format, tmp_path: Path) -> None:
    values = volume()
    url = stored(form, tmp_path / "grey", 255 - values, Described(palette=GREY))
    check(form, url, values)
    check(form, url, 255 - values, labels=True)
    url = stored(form, tmp_path / "colourful", values, Described(palette=COLOURFUL))
    refused(url, "palette has colours")
    check(form, url, values, labels=True)


@formats(tags="orientation")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_set_upright(form: Format, orientation: int, tmp_path: Path) -> None:
    values = volume()
    lying = {  # as the definition of the tag says where row 0 and column 0 of the stored image are
        1: values,
        2: values[:, :, ::-1],
        3: values[:, ::-1, ::-1],
        4: values[:, ::-1],
        5: values.transpose(0, 2, 1),
        6: np.rot90(values, 1, axes=(1, 2)),
        7: np.rot90(values, 2, axes=(1, 2)).transpose(0, 2, 1),
        8: np.rot90(values, -1, axes=(1, 2)),
    }[orientation]
    check(form, stored(form, tmp_path, np.ascontiguousarray(lying), Described(orientation=orientation)), values)


@formats(tags="colours")
def test_grey_images_saved_as_colours(form: Format, tmp_path: Path) -> None:
    values = volume()
    check(form, stored(form, tmp_path / "rgb", np.stack([values] * 3, -1), Described(colours=True)), values)
    colourful = np.stack([values, values, values[:, ::-1]], -1)
    url = stored(form, tmp_path / "colourful", colourful, Described(colours=True))
    refused(url, "3 channels.*grey.*--channel 0 to 2")
    if form.tolerance:
        return
    check(form, url, values[:, ::-1], channel=2)
    refused(url, "channel 3", channel=3)
    opaque = np.full_like(values, 255)
    check(form, stored(form, tmp_path / "rgba", np.stack([values] * 3 + [opaque], -1), Described(colours=True)), values)
    check(form, stored(form, tmp_path / "la", np.stack([values, opaque], -1), Described(colours=True)), values)
    url = stored(form, tmp_path / "transparent", np.stack([values, values // 2], -1), Described(colours=True))
    refused(url, "transparent")
