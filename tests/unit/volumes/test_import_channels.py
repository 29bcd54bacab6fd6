"""Import of several channels: the same from every format that has them."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage.arrays import group_attributes, open_array
from ssem_dask.storage.formats import image_file, png_file
from ssem_dask.storage.formats.axes import AxisOrder
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes import import_slabs
from ssem_dask.volumes.importing import import_volume
from tests.support.input_formats import FORMATS, Described, Format, volume

SIZES: dict[str, Any] = {"pixel_size": 5.0, "section_thickness": 40.0}
LAYOUT: dict[str, Any] = {"chunk": (1, 8, 8), "shard": (2, 16, 16)}


def stored(form: Format, folder: Path, values: AnyArray, described: Described) -> str:
    (folder / "inside").mkdir(parents=True, exist_ok=True) if "zip" in form.name else folder.mkdir(exist_ok=True)
    return form.write(folder, values, described)


def read(url: str) -> AnyArray:
    opened = Volume.open(url)
    return opened.read_channels(Box((0, 0, 0), opened.info.shape))


def formats(*, axes: bool) -> Any:
    chosen = [f for f in FORMATS if (f.axes or f.name == "precomputed" if axes else "colours" in f.tags)]
    return pytest.mark.parametrize("form", chosen, ids=lambda form: form.name)


@formats(axes=True)
def test_named_channels_are_imported_together(form: Format, tmp_path: Path) -> None:
    values = volume((5, 6, 24, 40))
    url = stored(form, tmp_path / "in", values, Described(axes="czyx"))
    out = str(tmp_path / "out.zarr")
    info = import_volume(url, out, channels="all", channel=3, **SIZES, **LAYOUT)
    assert (info.shape, info.channels, info.channel) == ((6, 24, 40), ("",) * 5, 3)
    assert Volume.open(out).info == info
    np.testing.assert_array_equal(read(out), values)
    level = open_array(f"{out}/0", mode="r")
    assert (level.shape, level.chunks, level.shards) == ((5, 6, 24, 40), (1, 1, 8, 8), (1, 2, 16, 16))
    some = str(tmp_path / "some.zarr")
    assert import_volume(url, some, channels=[4, 1], channel=1, **SIZES, **LAYOUT).channel == 1
    np.testing.assert_array_equal(read(some), values[[4, 1]])
    one = str(tmp_path / "one.zarr")
    assert import_volume(url, one, channels=[2], **SIZES, **LAYOUT).channels == ()
    np.testing.assert_array_equal(read(one), values[2])


@formats(axes=False)
def test_colours_are_imported_together(form: Format, tmp_path: Path) -> None:
    grey = volume()
    values = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    url = stored(form, tmp_path / "in", values, Described(colours=True))
    with pytest.raises(SourceError, match=r"--channel 0 to 2, or import all of them with --channels all"):
        import_volume(url, str(tmp_path / "out.zarr"), **SIZES)
    import_volume(url, str(tmp_path / "out.zarr"), channels="all", channel=0, **SIZES, **LAYOUT)
    got = read(str(tmp_path / "out.zarr"))
    assert got.shape == (3, *grey.shape)
    tolerance = 60 if form.tolerance else 0  # JPEG stores colours at half resolution
    assert np.abs(got - np.moveaxis(values, -1, 0).astype(int)).max() <= tolerance


@formats(axes=True)
def test_one_channel_makes_a_volume_without_channels(form: Format, tmp_path: Path) -> None:
    values = volume()
    url = stored(form, tmp_path / "in", values[None], Described(axes="czyx"))
    import_volume(url, str(tmp_path / "out.zarr"), channels="all", **SIZES, **LAYOUT)
    np.testing.assert_array_equal(read(str(tmp_path / "out.zarr")), values)
    assert open_array(str(tmp_path / "out.zarr" / "0"), mode="r").ndim == 3


def test_names_of_channels_come_from_omero_and_ome_xml(tmp_path: Path) -> None:
    values = volume((2, 6, 24, 40))
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "BSE"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata=metadata, photometric="minisblack")
    out = str(tmp_path / "a.zarr")
    import_volume(str(tmp_path / "a.ome.tif"), out, channels="all", channel="bse", **SIZES, **LAYOUT)
    again = str(tmp_path / "b.zarr")
    info = import_volume(out, again, channels=["BSE", "DAPI"], channel="DAPI")
    assert (info.channels, info.channel) == (("BSE", "DAPI"), 1)
    np.testing.assert_array_equal(read(again), values[::-1])
    by_name = import_volume(out, str(tmp_path / "c.zarr"), channel="BSE")
    assert by_name.channels == ()
    np.testing.assert_array_equal(read(str(tmp_path / "c.zarr")), values[1])
    for wrong, sentence in (
        (
            {"channels": "all", "channel": "BSD"},
            r"has channels 0 \(DAPI\), 1 \(BSE\), and --channel BSD is none",
        ),
        ({"channels": [0, "DAPI"]}, "names a channel twice"),
        ({"channels": ["DAPI"], "channel": "BSE"}, "not among the channels"),
        ({"channels": "all", "channel": 2}, "--channel 2 is none of them"),
    ):
        with pytest.raises(SourceError, match=sentence):
            import_volume(out, str(tmp_path / "d.zarr"), **wrong)


@pytest.mark.parametrize("ome", [False, True])
def test_a_series_of_files_with_channels(ome: bool, tmp_path: Path) -> None:
    """One file per section, with the channels as pages of it, as microscopes write them."""
    values = volume((2, 6, 24, 40))
    (tmp_path / "in").mkdir()
    for z in range(6):
        form: dict[str, Any] = {"ome": True} if ome else {"imagej": True}
        name = "ome.tif" if ome else "tif"
        tifffile.imwrite(tmp_path / "in" / f"s{z}.{name}", values[:, z], metadata={"axes": "CYX"}, **form)
    import_volume(str(tmp_path / "in"), str(tmp_path / "o.zarr"), channels="all", channel=1, **SIZES, **LAYOUT)
    np.testing.assert_array_equal(read(str(tmp_path / "o.zarr")), values)


def test_files_with_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s0.tif", volume((24, 40, 3)), photometric="rgb")
    tifffile.imwrite(tmp_path / "s1.tif", volume((24, 40)))
    with pytest.raises(SourceError, match=r"s1\.tif: has 1 channel, but .*s0\.tif has 3"):
        import_volume(str(tmp_path), str(tmp_path / "o.zarr"), channels="all", **SIZES)


def test_an_interrupted_import_of_channels_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = volume((3, 6, 24, 40))
    source = zarr.create_array(str(tmp_path / "in.zarr"), data=values, dimension_names=list("czyx"))
    assert source.shape == values.shape
    out, counted, written = str(tmp_path / "o.zarr"), itertools.count(), import_slabs._ShardWriter.write

    def killed(*args: Any, **options: Any) -> None:
        if next(counted) == 25:  # in the second slab, after one channel of it
            raise KeyboardInterrupt
        written(*args, **options)

    monkeypatch.setattr(import_slabs._ShardWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        import_volume(str(tmp_path / "in.zarr"), out, channels="all", channel=2, **SIZES, **LAYOUT)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "o.zarr" / "0").rglob("*") if path.is_file()}
    import_volume(str(tmp_path / "in.zarr"), out, channels="all", channel=2, **SIZES, **LAYOUT)
    np.testing.assert_array_equal(read(out), values)
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert (group_attributes(out) or {})["ssem_dask_channels"] == {"register": 2}


@pytest.mark.parametrize("form", ["tiff files", "tiff pages", "png files", "zarr 3", "hdf5"])
def test_what_holds_all_channels_is_decoded_once(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = volume()
    values = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    (chosen,) = (each for each in FORMATS if each.name == form)
    url = stored(chosen, tmp_path / "in", values, Described(axes="zyxc", colours=True))
    decoded = itertools.count()

    def counting(decode: Any) -> Any:
        def count(*args: Any, **options: Any) -> Any:
            next(decoded)
            return decode(*args, **options)

        return count

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counting(tifffile.TiffPage.asarray))
    monkeypatch.setattr(image_file, "decode_png", counting(png_file.decode_png))
    if not form.startswith("tiff"):  # there it orders numbers of pages
        monkeypatch.setattr(AxisOrder, "_band", counting(AxisOrder._band))
    options: dict[str, Any] = {"chunk": (1, 24, 40), "shard": (2, 24, 40)}
    import_volume(url, str(tmp_path / "out.zarr"), channels="all", channel=0, **SIZES, **options)
    np.testing.assert_array_equal(read(str(tmp_path / "out.zarr")), np.moveaxis(values, -1, 0))
    assert next(decoded) == {"zarr 3": 3, "hdf5": 3}.get(form, 6)  # bands of two sections, or sections


def test_a_channel_that_shows_nothing_does_no_harm_unless_it_is_registered(tmp_path: Path) -> None:
    values = volume((2, 6, 24, 40))
    values[0] = 7
    zarr.create_array(str(tmp_path / "in.zarr"), data=values, dimension_names=list("czyx"))
    import_volume(str(tmp_path / "in.zarr"), str(tmp_path / "o.zarr"), channels="all", channel=1, **SIZES, **LAYOUT)
    with pytest.raises(SourceError, match="every pixel of the volume is 7"):
        import_volume(str(tmp_path / "in.zarr"), str(tmp_path / "p.zarr"), channels="all", channel=0, **SIZES, **LAYOUT)
