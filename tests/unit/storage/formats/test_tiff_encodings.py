"""TIFF files as libraries and microscopes encode them: compressions, bits, tags, OME-XML and ImageJ's metadata."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ssem_dask.types import AnyArray
from tests.support.odd_inputs import (
    OTHER,
    VALUES,
    check_refused,
    read_source,
    tiff_of_bits,
    tiff_of_strip,
    write_tiffs,
)

pytestmark = pytest.mark.usefixtures("in_folder")

WIDE = VALUES.astype(np.uint16) * 16
GREY: dict[str, Any] = {"photometric": "minisblack"}
PAGES: dict[str, Any] = {**GREY, "metadata": None}


@pytest.mark.parametrize(
    "compression",
    ["packbits", "zstd", "lzma", "deflate", "lzw", "jpegxl", "lerc", "png", "jpegxr", "jpeg2000"],
)
@pytest.mark.parametrize("tile", [None, (16, 48)])
def test_lossless_compressions(compression: Any, tile: Any) -> None:
    folder = write_tiffs("d/s{z}.tif", compression=compression, tile=tile, **GREY)
    np.testing.assert_array_equal(read_source(folder)[0], VALUES)


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_jpeg_in_tiff(tile: Any) -> None:
    folder = write_tiffs("d/s{z}.tif", compression="jpeg", compressionargs={"level": 99}, tile=tile, **GREY)
    assert np.abs(read_source(folder)[0].astype(int) - VALUES).max() <= 4


def stack(values: AnyArray = VALUES, name: str = "a.tif", **options: Any) -> str:
    tifffile.imwrite(name, values, **options)
    return name


def single_pages(encode: Callable[[AnyArray], bytes], values: AnyArray = VALUES) -> str:
    Path("d").mkdir()
    for z, section in enumerate(values):
        Path(f"d/s{z}.tif").write_bytes(encode(section))
    return "d"


def of_bits(bits: int, values: AnyArray, *tags: tuple[int, int], photometric: int = 1) -> str:
    return single_pages(lambda section: tiff_of_bits(section, bits, *tags, photometric=photometric), values)


def other_fill_order() -> str:
    turned = np.array([int(f"{value:08b}"[::-1], 2) for value in range(256)], np.uint8)
    return single_pages(lambda section: tiff_of_strip(turned[section].tobytes(), section.shape, 8, (266, 2)))


def pages_of_two_orientations() -> str:
    with tifffile.TiffWriter("a.tif") as writer:
        for z, section in enumerate(VALUES):
            tag = (274, 3, 1, 1 if z % 2 else 4, True)
            writer.write(section if z % 2 else section[::-1], metadata=None, extratags=[tag])
    return "a.tif"


LABELS: dict[str, Any] = {"labels": True}
READ: dict[str, tuple[Callable[[], str], AnyArray, dict[str, Any]]] = {
    "predictor 2, big endian": (
        lambda: write_tiffs("d/s{z}.tif", WIDE, compression="deflate", predictor=2, byteorder=">"),
        WIDE,
        {},
    ),
    "predictor 2, tiles": (
        lambda: write_tiffs("d/s{z}.tif", WIDE, compression="lzw", predictor=2, tile=(16, 48)),
        WIDE,
        {},
    ),
    "BigTIFF, big endian": (lambda: stack(WIDE, bigtiff=True, byteorder=">", **PAGES), WIDE, {}),
    "strips of 5 rows": (lambda: stack(rowsperstrip=5, compression="zstd", **GREY), VALUES, {}),
    "a tag for missing values": (lambda: stack(extratags=[(42113, 2, 0, "0", True)], **GREY), VALUES, {}),
    "five axes": (lambda: stack(VALUES[None, :, None], **GREY), VALUES, {}),
    "grey as RGB in a stack": (lambda: stack(np.stack([VALUES] * 3, -1), photometric="rgb"), VALUES, {}),
    "0 is white, 16 bits": (lambda: stack(WIDE, photometric="miniswhite"), 65535 - WIDE, {}),
    "0 is white, 12 bits": (lambda: of_bits(12, WIDE, photometric=0), 4095 - WIDE, {}),
    "2 bits": (lambda: of_bits(2, VALUES >> 6), VALUES >> 6, {}),
    "6 bits": (lambda: of_bits(6, VALUES >> 2), VALUES >> 2, {}),
    "10 bits": (lambda: of_bits(10, VALUES), VALUES.astype(np.uint16), {}),
    "14 bits": (lambda: of_bits(14, WIDE), WIDE, {}),
    "other fill order": (other_fill_order, VALUES, {}),
    "values of an undefined type": (lambda: of_bits(8, VALUES, (339, 4)), VALUES, {}),
    "pages of two orientations": (pages_of_two_orientations, VALUES, {}),
    "labels of 64 bits": (lambda: stack(VALUES.astype(np.uint64), **GREY), VALUES.astype(np.uint64), LABELS),
    "labels with a sign": (lambda: stack(VALUES.astype(np.int16) - 99, **GREY), VALUES.astype(np.int16) - 99, LABELS),
    "TIFF named .lsm": (lambda: stack(name="a.lsm", **GREY), VALUES, {}),
    "TIFF named .dm3": (lambda: stack(name="a.dm3", **GREY), VALUES, {}),
    "TIFF without a suffix": (lambda: stack(name="a", **GREY), VALUES, {}),
    "ImageJ, a channel": (
        lambda: stack(np.stack([VALUES, OTHER], 1), imagej=True, metadata={"axes": "ZCYX"}),
        OTHER,
        {"channel": 1},
    ),
    "ImageJ, a channel of a time point": (
        lambda: stack(
            np.stack([np.stack([OTHER] * 2, 1), np.stack([OTHER, VALUES], 1)]),
            imagej=True,
            metadata={"axes": "TZCYX"},
        ),
        VALUES,
        {"channel": 1, "time": 1},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    make, expected, options = READ[name]
    got, info = read_source(make(), **options)
    np.testing.assert_array_equal(got, expected)
    assert (info.dtype, info.dtype.char) == (expected.dtype, np.dtype(expected.dtype.str).char)


def replaced(tag: int, by: tuple[int, int]) -> str:
    def encode(section: AnyArray) -> bytes:
        content = tiff_of_bits(section, 8)
        entry = tag.to_bytes(2, "little") + b"\4\0\1\0\0\0"
        at = content.index(entry)
        return content[:at] + by[0].to_bytes(2, "little") + entry[2:] + by[1].to_bytes(4, "little") + content[at + 12 :]

    return single_pages(encode)


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "sections in one page": (
        lambda: stack(volumetric=True, tile=(2, 16, 16), **GREY),
        r"holds 6 sections in one page \(tag ImageDepth\); save each as a page",
    ),
    "float, predictor 3": (
        lambda: write_tiffs("d/s{z}.tif", VALUES.astype("f4"), compression="deflate", predictor=3),
        "images are float32",
    ),
    "ImageJ, float": (lambda: stack(VALUES.astype("f4"), imagej=True), "images are float32, but must be uint8"),
    "24 bits": (lambda: of_bits(24, VALUES), "images are uint32.*or give --labels if they are ids"),
    "ImageJ, one image": (lambda: stack(VALUES[:1], imagej=True), "holds a single section"),
    "ImageJ, two channels": (
        lambda: stack(np.stack([VALUES, OTHER], 1), imagej=True, metadata={"axes": "ZCYX"}),
        "its 2 channels differ.*--channel 0 to 1",
    ),
    "samples beside grey": (
        lambda: stack(
            np.stack([VALUES, VALUES, OTHER], -1), planarconfig="contig", extrasamples=["unspecified"] * 2, **PAGES
        ),
        "has 3 channels that differ",
    ),
    "two planes in a page": (
        lambda: stack(np.stack([VALUES, OTHER], 1), planarconfig="separate", extrasamples=["unspecified"], **PAGES),
        "its 2 planes are stored as 2 channels of one page",
    ),
    "no rows": (lambda: replaced(257, by=(257, 0)), r"shape \(6, 0, 40\), it is empty"),
    "no place of the strips": (lambda: replaced(273, by=(272, 1)), "d/s0.tif: cannot be decoded"),
    "a gzip file named .tif": (
        lambda: str(Path("a.tif").write_bytes(b"\x1f\x8b\x08\0" * 9) and "a.tif"),
        "cannot be decoded .not a TIFF file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, sentence = REFUSED[name]
    check_refused(make(), sentence)
    assert not caplog.records


# ---------------------------------------------------------------- OME-XML


def image(*, axes: str = "XYZCT", z: int = 6, c: int = 1, t: int = 1, data: str = "<TiffData/>", **more: Any) -> str:
    sizes = " ".join(f'{name}="{value}"' for name, value in more.get("attributes", {}).items())
    samples = more.get("samples", 1)
    channels = "".join(f'<Channel ID="C{n}" SamplesPerPixel="{samples}"/>' for n in range(c // samples))
    return (
        f'<Image ID="{more.get("name", "Image:0")}"><Pixels ID="P" DimensionOrder="{axes}" Type="uint8" SizeX="40" '
        f'SizeY="24" SizeZ="{z}" SizeC="{c}" SizeT="{t}" {sizes}>{channels}{data}</Pixels></Image>'
    )


def ome_tiff(images: str, pages: Sequence[AnyArray] = tuple(VALUES), **options: Any) -> str:
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{namespace}">{images}</OME>'
    with tifffile.TiffWriter("a.ome.tif") as writer:
        for number, page in enumerate(pages):
            description = xml if number == 0 else None
            writer.write(page, description=description, metadata=None, contiguous=False, **options)
    return "a.ome.tif"


REVERSED = "".join(f'<TiffData IFD="{5 - z}" FirstZ="{z}" PlaneCount="1"/>' for z in range(6))
MIXED = [section for pair in zip(OTHER, VALUES, strict=True) for section in pair]
OME: dict[str, tuple[Callable[[], str], dict[str, Any]]] = {
    "pages in reverse": (lambda: ome_tiff(image(data=REVERSED), list(VALUES[::-1])), {}),
    "channels first": (lambda: ome_tiff(image(axes="XYCZT", c=2), MIXED), {"channel": 1}),
    "time first": (lambda: ome_tiff(image(axes="XYTZC", t=2), MIXED), {"time": 1}),
    "time in place of z": (lambda: ome_tiff(image(z=1, t=6)), {}),
    "no place of the pages": (lambda: ome_tiff(image(data="")), {}),
    "grey as RGB": (lambda: ome_tiff(image(c=3, samples=3), list(np.stack([VALUES] * 3, -1)), photometric="rgb"), {}),
    "XML that is cut off": (lambda: ome_tiff(image() + "<broken"), {}),
}


@pytest.mark.parametrize("name", OME)
def test_ome_xml_is_honoured(name: str) -> None:
    make, options = OME[name]
    np.testing.assert_array_equal(read_source(make(), **options)[0], VALUES)


def test_pages_that_ome_xml_does_not_announce_are_reported() -> None:
    got, info = read_source(ome_tiff(image(), [*VALUES, *OTHER]))
    np.testing.assert_array_equal(got, VALUES)
    assert "has 12 pages, of which the 6 are read that its OME-XML announces" in info.notes[0]


def test_a_label_image_beside_the_sections_is_named() -> None:
    second = image(z=1, name="label", data='<TiffData IFD="6" PlaneCount="1"/>')
    check_refused(ome_tiff(image() + second, [*VALUES, VALUES[0]]), "holds 2 images, but a volume is one")


@pytest.mark.parametrize("unit", ["&#181;m", "&#xB5;m", "&#956;m", "&amp;#181;m", "µm"])
def test_escaped_units(unit: str) -> None:
    lengths = {"X": 0.005, "Y": 0.005, "Z": 0.05}
    attributes = {f"PhysicalSize{axis}": length for axis, length in lengths.items()}
    attributes |= {f"PhysicalSize{axis}Unit": unit for axis in lengths}  # type: ignore[misc]
    text = ome_tiff(image(attributes=attributes).encode("ascii", "xmlcharrefreplace").decode())
    sizes = read_source(text)[1].sizes
    assert (sizes.pixel_size, sizes.section_thickness) == pytest.approx((5.0, 50.0))


def test_a_unit_of_pixels_gives_no_size() -> None:
    attributes = {f"PhysicalSize{axis}{end}": text for axis in "XY" for end, text in (("", "1"), ("Unit", "pixel"))}
    assert read_source(ome_tiff(image(attributes=attributes)))[1].sizes.pixel_size is None
