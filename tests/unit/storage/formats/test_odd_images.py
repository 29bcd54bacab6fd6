"""Images from bug reports about other software: each is the right volume, or one sentence that says what is wrong."""

import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.types import AnyArray
from tests.support.odd_inputs import (
    VALUES,
    read_source,
    write_files,
    write_tiffs,
)

pytestmark = pytest.mark.usefixtures("in_folder")

OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


def read_values(url: str, **options: Any) -> AnyArray:
    return read_source(url, **options)[0]


def five_tiffs(folder: str) -> str:
    return write_tiffs(folder + "/s{z}.tif", VALUES[:5])


def jpeg(section: AnyArray) -> bytes:
    return bytes(imagecodecs.jpeg_encode(section, level=99))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
    return write_files("a", ".jpg", lambda s: jpeg(s)[:2] + segment * 30 + jpeg(s)[2:])


def transparent_value_in_png() -> str:
    def encode(section: AnyArray) -> bytes:
        plain = bytes(imagecodecs.png_encode(section))
        return plain[:33] + chunk(b"tRNS", struct.pack(">H", int(section[0, 0]))) + plain[33:]

    return write_files("a", ".png", encode)


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
    "PNG named .tif": lambda: write_files("a", ".tif", imagecodecs.png_encode),
    "a transparent value in PNG": transparent_value_in_png,
    "brackets in a folder": lambda: write_tiffs("stack [8bit]/s{z}.tif") + "/*.tif",
    "a question mark in a folder": lambda: write_tiffs("what?/s{z}.tif"),
}
"""Inputs that hold VALUES."""


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(read_values(READ[name]()), VALUES)
    assert not caplog.records


def test_jpeg_with_much_around_it() -> None:
    for url in (
        long_metadata_in_jpeg(),
        write_files("b", ".jpg", lambda section: jpeg(section) + b"z" * 5000),
        write_files("c", ".jpeg", lambda section: jpeg(np.stack([section] * 3, -1))),
    ):
        assert np.abs(read_values(url).astype(int) - VALUES).max() <= 4


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


def with_one_other(name: str, content: bytes) -> str:
    folder = five_tiffs("a")
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
    Path(five_tiffs("a"), "s5.tif").symlink_to("/nowhere/s5.tif")
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
    "an empty file": (lambda: with_one_other("s5.tif", b""), r"a/s5.tif: .*empty, 0 bytes"),
    "a web page": (lambda: with_one_other("s5.tif", b"<html>404</html>"), r"a/s5.tif: .*begins like no TIFF"),
    "a pointer of Git LFS": (lambda: with_one_other("s5.tif", b"version https://git-lfs"), "git lfs pull"),
    "one in colour": (one_in_colour, r"a/s4.tif: has 3 channels"),
    "broken link": (broken_link, r"a/s5.tif: nothing is there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, sentence = REFUSED[name]
    url = make()
    with pytest.raises(SourceError, match=sentence) as caught:
        read_values(url)
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
