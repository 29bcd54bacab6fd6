"""Inputs from bug reports about other software: each is the right volume, or one sentence that says what is wrong."""

import contextlib
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import ReadOptions
from ssem_dask.types import AnyArray
from tests.support.input_formats import volume

VALUES = volume()
WIDE = VALUES.astype(np.uint16) * 257
OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(url: str, **options: Any) -> AnyArray:
    with contextlib.closing(open_any_format(url, ReadOptions(**options))) as source:
        z, y, _ = source.info.shape
        return source.read(z_start=0, z_stop=z, y_start=0, y_stop=y)


def files(folder: str, suffix: str, encode: Callable[[AnyArray], Any]) -> str:
    Path(folder).mkdir()
    for z, section in enumerate(VALUES):
        Path(folder, f"s{z}{suffix}").write_bytes(bytes(encode(section)))
    return folder


def tiffs(folder: str, *, skip: int | None = None) -> str:
    Path(folder).mkdir(parents=True)
    for z, section in enumerate(VALUES):
        if z != skip:
            tifffile.imwrite(f"{folder}/s{z}.tif", section)
    return folder


def jpeg(section: AnyArray) -> bytes:
    return bytes(imagecodecs.jpeg_encode(section, level=99))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# ---------------------------------------------------------------- inputs that are read


def pages_of_libtiff() -> str:
    Path("a.tif").write_bytes(libtiff_stack(VALUES))
    return "a.tif"


def libtiff_stack(values: AnyArray) -> bytes:
    """Pixels of each page before its directory."""
    out, link = bytearray(b"II*\0\0\0\0\0"), 4
    for page in values:
        at = len(out)
        out += page.tobytes()
        struct.pack_into("<I", out, link, len(out))
        height, width = page.shape
        tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, at), (277, 3, 1)]
        tags += [(278, 4, height), (279, 4, page.size)]
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
        link = len(out)
        out += bytes(4)
    return bytes(out)


def thumbnails_as_pages() -> str:
    Path("a").mkdir()
    for z, section in enumerate(VALUES):
        with tifffile.TiffWriter(f"a/s{z}.tif") as writer:
            writer.write(section)
            writer.write(section[::4, ::4], subfiletype=1)
    return "a"


def some_with_white_as_0() -> str:
    Path("a").mkdir()
    for z, section in enumerate(VALUES):
        inverted = z % 3 == 2
        kind = "miniswhite" if inverted else "minisblack"
        tifffile.imwrite(f"a/s{z}.tif", 255 - section if inverted else section, photometric=kind)
    return "a"


def reduced_pages_and_subifds() -> str:
    with tifffile.TiffWriter("a.tif") as writer:
        for section in VALUES:
            writer.write(section, subifds=1, metadata=None)
            writer.write(section[::2, ::2], subfiletype=1, metadata=None)
    return "a.tif"


def ome_set(folder: str = "set") -> str:
    """Two files of three pages each."""
    Path(folder).mkdir()
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z % 3}" PlaneCount="1">'
        f'<UUID FileName="m{z // 3}.ome.tif">urn:uuid:{z // 3}</UUID>'
        "</TiffData>"
        for z in range(6)
    )
    for number in range(2):
        xml = ome_xml(planes, uuid=f"urn:uuid:{number}")
        with tifffile.TiffWriter(f"{folder}/m{number}.ome.tif") as writer:
            for page in range(3):
                writer.write(
                    VALUES[3 * number + page], description=xml if page == 0 else None, metadata=None, contiguous=False
                )
    return folder


def ome_xml(planes: str, *, uuid: str = "urn:uuid:0") -> str:
    return (
        f'<?xml version="1.0"?><OME {OME} UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="24" SizeZ="6" SizeC="1" SizeT="1">{planes}'
        "</Pixels></Image></OME>"
    )


def ome_companion() -> str:
    Path("set").mkdir()
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="c{z}.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(6)
    )
    Path("set/x.companion.ome").write_text(ome_xml(planes))
    for z, section in enumerate(VALUES):
        xml = f'<?xml version="1.0"?><OME {OME} UUID="urn:uuid:{z}"><BinaryOnly MetadataFile="x.companion.ome"/></OME>'
        tifffile.imwrite(f"set/c{z}.tif", section, description=xml, metadata=None)
    return "set"


def tiff_with(name: str = "a.tif", **options: Any) -> Callable[[], str]:
    def make() -> str:
        values = options.pop("values", VALUES)
        tifffile.imwrite(name, values, **options)
        return name

    return make


def written_one_by_one(contiguous: bool) -> str:
    with tifffile.TiffWriter("a.tif") as writer:
        for section in VALUES:
            writer.write(section, contiguous=contiguous)
    return "a.tif"


def trailing_bytes() -> str:
    tifffile.imwrite("a.tif", VALUES, photometric="minisblack")
    with Path("a.tif").open("ab") as file:
        file.write(b"x" * 1000)
    return "a.tif"


def long_metadata_in_jpeg() -> str:
    segment = b"\xff\xe2" + struct.pack(">H", 65000) + bytes(64998)
    return files("a", ".jpg", lambda s: jpeg(s)[:2] + segment * 30 + jpeg(s)[2:])


def transparent_value_in_png() -> str:
    def encode(section: AnyArray) -> bytes:
        plain = bytes(imagecodecs.png_encode(section))
        return plain[:33] + chunk(b"tRNS", struct.pack(">H", int(section[0, 0]))) + plain[33:]

    return files("a", ".png", encode)


def hdf5(name: str = "a.h5", path: str = "volumes/raw", values: AnyArray = VALUES) -> str:
    with h5py.File(name, "a") as file:
        file[path] = values
    return name


def big_data_viewer() -> str:
    hdf5("a.h5", "t00000/s00/0/cells", WIDE.view(np.int16))
    hdf5("a.h5", "t00000/s00/1/cells", WIDE[:, ::2, ::2].copy().view(np.int16))
    hdf5("a.h5", "s00/resolutions", np.array([[1, 1, 1], [2, 2, 1.0]]))
    size = "<voxelSize><unit>nm</unit><size>5 5 40</size></voxelSize>"
    Path("a.xml").write_text(f"<SpimData><ViewSetups><ViewSetup><id>0</id>{size}</ViewSetup></ViewSetups></SpimData>")
    return "a.h5"


def odd_attributes() -> str:
    hdf5(path="raw")
    with h5py.File("a.h5", "a") as file:
        file["raw"].attrs.update(
            {"resolution": 5.0, "axes": h5py.Empty("f"), "axistags": "nonsense{", "units": [b"\xff"]}
        )
    return "a.h5"


def levels_in_hdf5() -> str:
    hdf5(path="s0")
    return hdf5(path="s1", values=VALUES[:, ::2, ::2])


def image_group(axes: Any, values: AnyArray, *, name: str = "a.zarr", version: str = "0.4") -> str:
    group = zarr.open_group(name, mode="a", zarr_format=2)
    group.create_array("0", data=values)
    image: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [image if axes is None else {**image, "axes": axes}]
    return name


def collection_of_one() -> str:
    zarr.open_group("a.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    zarr.open_group("a.zarr/OME", mode="w", zarr_format=2)
    image_group([{"name": axis} for axis in "tczyx"], VALUES[None, None], name="a.zarr/0")
    return "a.zarr"


def zip_with_a_folder() -> str:
    zarr.create_array("a.zarr", data=VALUES)
    shutil.make_archive("a.zarr", "zip", ".", "a.zarr")
    return "a.zarr.zip"


def zipped(url: str) -> str:
    zip_with_a_folder()
    return url.format(folder=Path.cwd())


def zipped_images() -> str:
    return shutil.make_archive("images", "zip", files("a", ".png", imagecodecs.png_encode))


READ: dict[str, Callable[[], str]] = {
    "pixels before directories": pages_of_libtiff,
    "thumbnails as pages": thumbnails_as_pages,
    "some files with white as 0": some_with_white_as_0,
    "reduced pages and SubIFDs": reduced_pages_and_subifds,
    "any file of an OME-TIFF set": lambda: f"{ome_set()}/m1.ome.tif",
    "folder of an OME-TIFF set": ome_set,
    "OME-TIFF with a companion file": lambda: f"{ome_companion()}/c3.tif",
    "folder with a companion file": ome_companion,
    "ImageJ, colours that are grey": tiff_with(
        values=np.stack([VALUES] * 3, -1), imagej=True, metadata={"axes": "ZYXS"}
    ),
    "ImageJ, time in place of z": tiff_with(imagej=True, metadata={"axes": "TYX"}),
    "ImageJ, channels in place of z": tiff_with(imagej=True, metadata={"axes": "CYX"}),
    "written one by one": lambda: written_one_by_one(contiguous=False),
    "written one by one, contiguous": lambda: written_one_by_one(contiguous=True),
    "strips of one row": tiff_with(rowsperstrip=1, compression="lzw", photometric="minisblack"),
    "bytes after a TIFF": trailing_bytes,
    "TIFF of an unknown suffix": tiff_with("a.btf", photometric="minisblack", bigtiff=True),
    "PNG named .tif": lambda: files("a", ".tif", imagecodecs.png_encode),
    "a transparent value in PNG": transparent_value_in_png,
    "slash after .h5": lambda: hdf5() + "/volumes/raw",
    "group of the only dataset": lambda: hdf5() + ":/volumes",
    "HDF5 of an unknown suffix": lambda: hdf5("a.nx5"),
    "odd attributes": odd_attributes,
    "levels in HDF5": levels_in_hdf5,
    "OME-Zarr 0.3": lambda: image_group(list("czyx"), VALUES[None], version="0.3"),
    "OME-Zarr 0.1": lambda: image_group(None, VALUES[None, None], version="0.1"),
    "capital axes": lambda: image_group([{"name": axis} for axis in "ZYX"], VALUES),
    "level of an image": lambda: image_group([{"name": axis} for axis in "tczyx"], VALUES[None, None]) + "/0",
    "bioformats2raw": collection_of_one,
    "zip with a folder": zip_with_a_folder,
    "zip and path": lambda: zipped("a.zarr.zip/a.zarr"),
    "zip://path::file": lambda: zipped("zip://a.zarr::a.zarr.zip"),
    "zip://::file": lambda: zipped("zip://::{folder}/a.zarr.zip"),
    "images in a zip": zipped_images,
    "brackets in a folder": lambda: tiffs("stack [8bit]") + "/*.tif",
    "a question mark in a folder": lambda: tiffs("what?"),
}
"""Inputs that hold VALUES."""


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(read(READ[name]()), VALUES)
    assert not caplog.records


def test_jpeg_with_much_around_it() -> None:
    for url in (
        long_metadata_in_jpeg(),
        files("b", ".jpg", lambda section: jpeg(section) + b"z" * 5000),
        files("c", ".jpeg", lambda section: jpeg(np.stack([section] * 3, -1))),
    ):
        assert np.abs(read(url).astype(int) - VALUES).max() <= 4


def test_values_of_big_data_viewer() -> None:
    np.testing.assert_array_equal(read(big_data_viewer()), WIDE)
    with contextlib.closing(open_any_format("a.h5")) as source:
        assert (source.info.sizes.pixel_size, source.info.sizes.section_thickness) == (5.0, 40.0)
    hdf5("a.h5", "t00000/s01/0/cells", WIDE[::-1].copy().view(np.int16))
    with pytest.raises(SourceError, match=r"2 channels.*--channel 0 to 1"):
        read("a.h5")
    np.testing.assert_array_equal(read("a.h5", channel=1), WIDE[::-1])


@contextlib.contextmanager
def held_by_another_program(libver: Literal["earliest", "latest"]) -> Iterator[None]:
    program = (
        "import h5py, numpy, sys, time\n"
        f"file = h5py.File('a.h5', 'w', libver='{libver}')\n"
        "file['raw'] = numpy.load('values.npy'); file.flush(); print('ready', flush=True); sys.stdin.read()"
    )
    np.save("values.npy", VALUES)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.communicate()


def test_a_file_that_another_program_has_open_is_read() -> None:
    with held_by_another_program("earliest"):
        np.testing.assert_array_equal(read("a.h5"), VALUES)


def test_a_file_that_another_program_writes_is_not_called_damaged() -> None:
    with held_by_another_program("latest"), pytest.raises(SourceError, match="another program has it open") as caught:
        read("a.h5")
    assert "damaged" not in str(caught.value)


# ---------------------------------------------------------------- inputs that are refused


def cut_libtiff() -> str:
    content = libtiff_stack(VALUES)
    Path("a.tif").write_bytes(content[: int(len(content) * 0.55)])
    return "a.tif"


def cut_imagej() -> str:
    tifffile.imwrite("a.tif", VALUES, imagej=True)
    content = Path("a.tif").read_bytes()
    Path("a.tif").write_bytes(content[: len(content) // 2])
    return "a.tif"


def loop_of_pages() -> str:
    tifffile.imwrite("a.tif", VALUES, photometric="minisblack", metadata=None)
    with tifffile.TiffFile("a.tif") as tiff:
        first, last = tiff.pages[0], tiff.pages[-1]
        at = last.offset + 2 + 12 * len(last.tags)  # type: ignore[union-attr]
    content = bytearray(Path("a.tif").read_bytes())
    struct.pack_into("<I", content, at, first.offset)
    Path("a.tif").write_bytes(content)
    return "a.tif"


def half_an_ome_set() -> str:
    ome_set()
    Path("set/m1.ome.tif").unlink()
    return "set/m0.ome.tif"


def two_images_in_a_file() -> str:
    with tifffile.TiffWriter("a.ome.tif") as writer:
        writer.write(VALUES, photometric="minisblack")
        writer.write(VALUES, photometric="minisblack")
    return "a.ome.tif"


def virtual_dataset() -> str:
    with h5py.File("a.h5", "w") as file:
        layout = h5py.VirtualLayout(shape=VALUES.shape, dtype="u1")
        for z in range(6):
            layout[z] = h5py.VirtualSource(f"part{z}.h5", "d", shape=VALUES.shape[1:])
        file.create_virtual_dataset("raw", layout)
    return "a.h5"


def with_one_other(name: str, content: bytes) -> str:
    folder = tiffs("a", skip=5)
    Path(folder, name).write_bytes(content)
    return folder


def one_in_colour() -> str:
    Path("a").mkdir()
    for z, section in enumerate(VALUES):
        image = np.stack([section] * 3, -1)
        image[3, 3, 0] ^= 9 if z == 4 else 0
        tifffile.imwrite(f"a/s{z}.tif", image, photometric="rgb")
    return "a"


def broken_link() -> str:
    Path(tiffs("a", skip=5), "s5.tif").symlink_to("/nowhere/s5.tif")
    return "a"


COLOURED = "{0} planes are stored as {0} channels.*photometric='minisblack'"
REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "cut, pixels before directories": (
        cut_libtiff,
        r"truncated, directory 4 is at byte \d+.*ends at byte \d+, after 3 whole",
    ),
    "cut ImageJ stack": (cut_imagej, r"truncated|announces 6"),
    "loop of pages": (loop_of_pages, "directory 7 leads back"),
    "half an OME-TIFF set": (half_an_ome_set, r"announces 6 sections \(OME-XML\), but 3 are there"),
    "two images in a file": (two_images_in_a_file, "holds 2 images"),
    "four sections as RGBA": (
        tiff_with(values=VALUES[:4], photometric="rgb", planarconfig="separate"),
        COLOURED.format(4),
    ),
    "three sections as RGB": (
        tiff_with(values=VALUES[:3], photometric="rgb", planarconfig="separate"),
        COLOURED.format(3),
    ),
    "four axes without names": (
        tiff_with(values=np.stack([VALUES] * 2), photometric="minisblack"),
        "--channel or --time 0 to 1",
    ),
    "missing parts of a virtual dataset": (virtual_dataset, "6 files, of which 6 are missing"),
    "an empty file": (lambda: with_one_other("s5.tif", b""), r"a/s5.tif: .*empty, 0 bytes"),
    "a web page": (lambda: with_one_other("s5.tif", b"<html>404</html>"), r"a/s5.tif: .*begins like no TIFF"),
    "a pointer of Git LFS": (lambda: with_one_other("s5.tif", b"version https://git-lfs"), "git lfs pull"),
    "one in colour": (one_in_colour, r"a/s4.tif: has 3 channels"),
    "broken link": (broken_link, r"a/s5.tif: nothing is there"),
    "two volumes in HDF5": (lambda: hdf5("a.h5", "0") and hdf5("a.h5", "1"), "a.h5:/0, a.h5:/1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, sentence = REFUSED[name]
    url = make()
    with pytest.raises(SourceError, match=sentence) as caught:
        read(url)
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_files_of_a_series_that_differ_in_size_name_both_numbers() -> None:
    Path("a").mkdir()
    for z, section in enumerate(VALUES):
        nm = 5 if z < 3 else 10
        tifffile.imwrite(f"a/s{z}.tif", section, imagej=True, resolution=(1 / nm, 1 / nm), metadata={"unit": "nm"})
    with contextlib.closing(open_any_format("a")) as source:
        assert source.info.sizes.pixel_conflict == "pixels are 5 nm in s0.tif, but 10 nm in s3.tif"


def test_labels_of_an_imagej_stack_name_its_sections() -> None:
    labels = [f"S{z + 1:03d}.tif" for z in range(6)]
    tifffile.imwrite("a.tif", VALUES, imagej=True, metadata={"axes": "ZYX", "Labels": labels})
    with contextlib.closing(open_any_format("a.tif")) as source:
        assert source.info.names == tuple(labels)


@pytest.mark.parametrize(
    "transformation", [[], [{"type": "identity"}], [{"type": "translation", "translation": [1] * 3}]]
)
def test_ome_zarr_without_a_scale_has_no_sizes(transformation: list[dict[str, Any]]) -> None:
    group = zarr.open_group("a.zarr", mode="w")
    group.create_array("0", data=VALUES)
    axes: list[Any] = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    dataset: dict[str, Any] = {"path": "0", "coordinateTransformations": transformation}
    systems: list[Any] = [{"name": "physical", "axes": axes}]
    images: list[dict[str, Any]] = [{"axes": axes}, {"coordinateSystems": systems}]
    for image in images:
        group.attrs["ome"] = {"version": "0.6", "multiscales": [{**image, "datasets": [dataset]}]}
        with contextlib.closing(open_any_format("a.zarr")) as source:
            assert (source.info.sizes.pixel_size, source.info.sizes.section_thickness) == (None, None)
