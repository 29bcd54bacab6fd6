"""HDF5 files of other programs: Imaris, netCDF, NeXus, filters, links and attributes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import import_volume
from tests.support.odd_inputs import OTHER, SIZES, VALUES, check_refused, read_source

pytestmark = pytest.mark.usefixtures("in_folder")

IMAGE = "DataSet/ResolutionLevel {level}/TimePoint {time}/Channel {channel}"


def text(value: object) -> AnyArray:
    """Return an attribute as Imaris stores it: an array of single characters."""
    return np.array(list(str(value)), "S1")


def imaris(*channels: AnyArray, times: int = 1, unit: str = "um", without: str = "", width: int | None = None) -> str:
    """Write a file with a coarser level and padding; `without` names an attribute that it lacks."""
    with h5py.File("a.ims", "w") as file:
        for time in range(times):
            for channel, values in enumerate(channels or (VALUES,)):
                for level, image in enumerate((values, values[:, ::2, ::2])):
                    group = file.create_group(IMAGE.format(level=level, time=time, channel=channel))
                    stored = np.zeros((8, 32, 64), np.uint8)
                    stored[tuple(map(slice, image.shape))] = image
                    group.create_dataset("Data", data=stored, chunks=(4, 16, 16), compression="gzip")
                    for axis, extent in zip("ZYX", (*image.shape[:2], width or image.shape[2]), strict=True):
                        group.attrs[f"ImageSize{axis}"] = text(extent)
        info = file.create_group("DataSetInfo/Image").attrs
        for number, last in enumerate((0.2, 0.12, 0.3)):  # 5 nm, 5 nm and 50 nm per voxel along x, y and z
            info[f"ExtMin{number}"], info[f"ExtMax{number}"] = text("1.0"), text(1 + last)
        info["Unit"] = text(unit)
        for attributes in (file[IMAGE.format(level=0, time=0, channel=0)].attrs, info):
            for name in [name for name in attributes if without and name.startswith(without)]:
                del attributes[name]
        file["Thumbnail/Data"] = np.zeros((256, 1024), np.uint8)
    return "a.ims"


def sizes(url: str, **options: Any) -> tuple[float | None, float | None]:
    found = read_source(url, **options)[1].sizes
    return found.pixel_size, found.section_thickness


def test_imaris_without_its_padding() -> None:
    got, info = read_source(imaris())
    np.testing.assert_array_equal(got, VALUES)
    assert (info.sizes.pixel_size, info.sizes.section_thickness) == pytest.approx((5.0, 50.0))
    coarser = f"a.ims:/{IMAGE.format(level=1, time=0, channel=0)}/Data"
    np.testing.assert_array_equal(read_source(coarser)[0], VALUES[:, ::2, ::2])
    assert sizes(coarser) == pytest.approx((10.0, 50.0))


def test_channels_and_time_points_of_imaris() -> None:
    imaris(VALUES, OTHER, times=2)
    check_refused("a.ims", "has 2 time points, but a volume has one; choose with --time 0 to 1")
    check_refused("a.ims", "has 2 channels.*--channel 0 to 1", time=1)
    np.testing.assert_array_equal(read_source("a.ims", time=1, channel=1)[0], OTHER)
    info = import_volume(imaris(VALUES, OTHER), "out.zarr", channels="all", channel=0, **SIZES)
    assert len(info.channels) == 2


def test_imaris_whose_attributes_are_missing_or_wrong() -> None:
    assert sizes(imaris(without="ExtM")) == (None, None)
    assert sizes(imaris(unit="furlong")) == (None, None)
    check_refused(imaris(without="ImageSize"), "has no ImageSizeX, Y and Z")
    check_refused(imaris(width=400), r"announces an image of \(6, 24, 400\), but \(8, 32, 64\) are there; copy")
    Path("a.ims").write_text("no HDF5")
    check_refused("a.ims", "file signature not found")


def dataset(name: str = "raw", *, file: str = "a.h5", attributes: dict[str, Any] | None = None, **options: Any) -> str:
    with h5py.File(file, "a") as opened:
        stored = opened.create_dataset(name, **options)
        stored.attrs.update(attributes or {})
    return file


def changed(change: Callable[[Any], object], file: str = "a.h5") -> str:
    with h5py.File(file, "a") as opened:
        change(opened)
    return file


def netcdf(axes: str) -> str:
    """Write a dataset whose axes have the names of their coordinates."""
    with h5py.File("a.nc", "w") as file:
        stored = file.create_dataset("em", data=VALUES.transpose(["zyx".index(axis) for axis in axes]))
        for number, axis in enumerate(axes):
            file[axis] = np.arange(stored.shape[number])
            file[axis].make_scale(axis)
            stored.dims[number].attach_scale(file[axis])
    return "a.nc"


def external(*, keep: bool = True) -> str:
    Path("values.bin").write_bytes(VALUES.tobytes())
    dataset(shape=VALUES.shape, dtype="u1", external=[("values.bin", 0, VALUES.size)])
    if not keep:
        Path("values.bin").unlink()
    return "a.h5"


def loops_of_groups(file: Any) -> None:
    file["g/raw"] = VALUES
    file["g/g"] = file["g"]
    file["g/up"] = h5py.SoftLink("/g")
    file["gone"] = h5py.SoftLink("/nothing")


def twice_linked(file: Any) -> None:
    file["entry/instrument/data"] = VALUES
    file["entry/data"] = file["entry/instrument/data"]


def many(file: Any) -> None:
    for number in range(300):
        file[f"g{number}/t"] = number
    file["raw"] = VALUES


WIDE = VALUES.astype(np.uint16) * 16
CHUNKS = (2, 8, 8)
READ: dict[str, tuple[Callable[[], str], AnyArray]] = {
    "lzf": (lambda: dataset(data=VALUES, compression="lzf"), VALUES),
    "scale and offset": (lambda: dataset(data=VALUES, scaleoffset=0, chunks=CHUNKS), VALUES),
    "checksums and shuffling": (
        lambda: dataset(data=VALUES, fletcher32=True, shuffle=True, compression="gzip"),
        VALUES,
    ),
    "big endian": (lambda: dataset(data=WIDE.astype(">u2")), WIDE),
    "further axes of extent 1": (lambda: dataset(data=VALUES[None, ..., None]), VALUES),
    "grey as RGB": (lambda: dataset(data=np.stack([VALUES] * 3, -1)), VALUES),
    "grows": (lambda: dataset(data=VALUES, maxshape=(None, None, None)), VALUES),
    "names of values": (lambda: dataset(data=VALUES, dtype=h5py.enum_dtype({"A": 0}, "u1")), VALUES),
    "values in another file": (external, VALUES),
    "loops of groups": (lambda: changed(loops_of_groups), VALUES),
    "the same dataset twice": (lambda: changed(twice_linked, "a.nxs"), VALUES),
    "many datasets": (lambda: changed(many), VALUES),
    "strange names": (lambda: dataset("my data.h5/ü:1", data=VALUES), VALUES),
    "strange names, given": (lambda: f"{dataset('my data.h5/ü:1', data=VALUES)}:/my data.h5/ü:1", VALUES),
    "no slash": (lambda: f"{dataset('v/raw', data=VALUES)}:v/raw", VALUES),
    "two colons": (lambda: f"{dataset('v/raw', data=VALUES)}::/v/raw", VALUES),
    "a slash at the end": (lambda: f"{dataset('v/raw', data=VALUES)}/v/raw/", VALUES),
    "capital suffix": (lambda: dataset(file="A.H5", data=VALUES), VALUES),
    "netCDF": (lambda: netcdf("zyx"), VALUES),
    "netCDF, x first": (lambda: netcdf("xyz"), VALUES),
    "an axis without a name": (
        lambda: changed(lambda file: setattr(file.create_dataset("raw", data=VALUES).dims[0], "label", "z")),
        VALUES,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    make, expected = READ[name]
    np.testing.assert_array_equal(read_source(make())[0], expected)


def text_as_hdf5(content: str) -> str:
    Path("a.h5").write_text(content)
    return "a.h5"


def unknown_filter() -> str:
    dataset(data=VALUES, chunks=VALUES.shape, compression="gzip")
    content = Path("a.h5").read_bytes()
    at = content.index(b"\1\0\x08\0\1\0")  # the message of the filter: deflate, 8 bytes of name
    Path("a.h5").write_bytes(content[:at] + (32008).to_bytes(2, "little") + content[at + 2 :])
    return "a.h5"


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "records": (lambda: dataset(data=np.zeros((2, 2, 2), [("a", "u1")])), "no dataset with three axes"),
    "texts": (lambda: dataset(data=np.full((2, 2, 2), b"a")), "no dataset with three axes"),
    "opaque values": (lambda: dataset(data=np.zeros((2, 2, 2), "V4")), "no dataset with three axes"),
    "lists": (lambda: dataset(shape=(2, 2, 2), dtype=h5py.vlen_dtype("u1")), "no dataset with three axes"),
    "links in a loop": (
        lambda: changed(lambda file: file.update({"a": h5py.SoftLink("/b"), "b": h5py.SoftLink("/a")})),
        "no dataset with three axes",
    ),
    "no sections": (lambda: dataset(shape=(0, 24, 40), dtype="u1"), "it is empty"),
    "values of another file are missing": (lambda: external(keep=False), "are in values.bin, which is not there"),
    "a filter that is not there": (unknown_filter, "encoded with filter 32008.*install its plugin"),
    "image and labels": (
        lambda: dataset(data=VALUES) and dataset("labels", data=VALUES),
        "several volumes; name one of them: a.h5:/labels, a.h5:/raw",
    ),
    "a name in other letters": (lambda: f"{dataset(data=VALUES)}:/Raw", "no dataset /Raw; its volumes are: a.h5:/raw"),
    "two channels at the end": (
        lambda: dataset(data=np.stack([VALUES, OTHER], -1)),
        "its 2 channels differ.*--channel 0 to 1",
    ),
    "time points": (
        lambda: dataset(data=np.stack([np.stack([VALUES] * 2, 1)] * 5), attributes={"axes": "tzcyx"}),
        "has 5 time points",
    ),
    "a text": (lambda: text_as_hdf5("hello"), "file signature not found"),
    "nothing": (lambda: text_as_hdf5(""), "file signature not found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    check_refused(make(), sentence)


KNOWN, UNKNOWN = (5.0, 50.0), (None, None)
ATTRIBUTES: dict[str, tuple[dict[str, Any], tuple[float | None, float | None]]] = {
    "µm": ({"element_size_um": np.array([0.05, 0.005, 0.005], "f4")}, KNOWN),
    "nm and an offset": ({"resolution": [50, 5, 5], "offset": [0, 0, 0]}, KNOWN),
    "a unit for all": ({"voxel_size": [0.05, 0.005, 0.005], "units": "um"}, KNOWN),
    "one number": ({"resolution": 5.0}, UNKNOWN),
    "two numbers": ({"resolution": [5.0, 5.0]}, UNKNOWN),
    "no number": ({"voxel_size": [np.nan, 5, 5]}, (5.0, None)),
    "a text": ({"voxel_size": "50 5 5"}, UNKNOWN),
    "four numbers": ({"voxel_size": [50, 5, 5, 1.0]}, UNKNOWN),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_lengths_in_attributes(name: str) -> None:
    attributes, expected = ATTRIBUTES[name]
    assert sizes(dataset(data=VALUES, attributes=attributes)) == pytest.approx(expected)
