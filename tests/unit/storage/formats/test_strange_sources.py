"""Files that microscopes, Fiji, scripts and facilities leave, and that are read."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import import_volume
from tests.support.odd_inputs import OTHER, SIZES, VALUES, two_detectors, write_tiffs

pytestmark = pytest.mark.usefixtures("in_folder")

WIDE = VALUES.astype(np.uint16) * 16
Made = tuple[str, dict[str, Any]]
"""Source and options of its import."""


def read(url: str, **options: Any) -> AnyArray:
    info = import_volume(url, "out.zarr", **options)
    return Volume.open("out.zarr").read_channels(Box((0, 0, 0), info.shape))


def packed_12_bits(section: AnyArray) -> bytes:
    """Return a TIFF file of 12 bits per sample, as cameras write it."""
    bits = np.unpackbits(section.astype(">u2").view("u1").reshape(*section.shape, 2), axis=2)[..., 4:]
    data = b"".join(np.packbits(row).tobytes() for row in bits.reshape(len(section), -1))
    height, width = section.shape
    tags = [
        (256, width),
        (257, height),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pad = b"\0" * (len(data) % 2)
    start = 8 + len(data) + len(pad)
    return b"II*\0" + struct.pack("<I", start) + data + pad + struct.pack("<H", len(tags)) + directory + b"\0" * 4


def twelve_bits() -> Made:
    Path("d").mkdir()
    for z, section in enumerate(WIDE):
        Path(f"d/s{z}.tif").write_bytes(packed_12_bits(section))
    return "d", SIZES


def with_tag(code: int, text: str) -> Made:
    tags = [(code, 2, 0, text, True)]
    return write_tiffs("d/s{z}.tif", extratags=tags, metadata=None), {"section_thickness": 50.0}


def levels_in_reverse() -> Made:
    group = zarr.open_group("a.zarr", mode="w", zarr_format=2)
    datasets: list[Any] = []
    for path, values, size in (("1", VALUES[:, ::2, ::2], 10.0), ("0", VALUES, 5.0)):
        group.create_array(path, data=np.ascontiguousarray(values))
        scale = {"type": "scale", "scale": [50.0, size, size]}
        datasets.append({"path": path, "coordinateTransformations": [scale]})
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return "a.zarr", {}


def matlab(name: str, block: int) -> Made:
    with h5py.File(name, "w", userblock_size=block) as file:
        dataset = file.create_dataset("stack", data=VALUES.transpose(0, 2, 1))
        dataset.attrs["MATLAB_class"] = np.bytes_("uint8")
    return name, SIZES


def soft_link() -> Made:
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("x/raw", data=VALUES)
        file["data"] = h5py.SoftLink("/x/raw")
    return "a.h5:/data", SIZES


def jpegs_grey_and_coloured() -> Made:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        pixels = section if z % 2 else np.stack([section] * 3, axis=-1)
        Path(f"d/s{z}.jpg").write_bytes(imagecodecs.jpeg_encode(pixels, level=100))
    return "d", SIZES


def lossless_jpegs() -> Made:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        Path(f"d/s{z}.jpg").write_bytes(imagecodecs.ljpeg_encode(section))
    return "d", SIZES


def planes_of_rgb() -> Made:
    with tifffile.TiffWriter("a.tif") as writer:
        for section in VALUES:
            writer.write(np.stack([section] * 3), metadata=None, photometric="rgb", planarconfig="separate")
    return "a.tif", SIZES


def transposed_in_zarr() -> Made:
    filters = [zarr.codecs.TransposeCodec(order=(2, 1, 0))]
    array = zarr.create_array("a.zarr", shape=VALUES.shape, dtype="u1", chunks=(2, 16, 16), filters=filters)
    array[...] = VALUES
    return "a.zarr", SIZES


def shard_index_in_big_endian() -> Made:
    sharding = zarr.codecs.ShardingCodec(
        chunk_shape=(2, 8, 8),
        index_codecs=[zarr.codecs.BytesCodec(endian="big"), zarr.codecs.Crc32cCodec()],
        index_location="start",
    )
    array = zarr.create_array(
        "a.zarr", shape=VALUES.shape, chunks=VALUES.shape, dtype="u1", serializer=sharding, compressors=None
    )
    array[...] = VALUES
    return "a.zarr", SIZES


def shards_in_shards() -> Made:
    inner = zarr.codecs.ShardingCodec(chunk_shape=(2, 8, 8))
    sharding = zarr.codecs.ShardingCodec(chunk_shape=(2, 24, 40), codecs=[inner])
    array = zarr.create_array(
        "a.zarr", shape=VALUES.shape, chunks=VALUES.shape, dtype="u1", serializer=sharding, compressors=None
    )
    array[...] = VALUES
    return "a.zarr", SIZES


def external_link_alone() -> Made:
    with h5py.File("b.h5", "w") as file:
        file["q"] = VALUES
    with h5py.File("a.h5", "w") as file:
        file["r"] = h5py.ExternalLink("b.h5", "/q")
    return "a.h5", SIZES


def with_files_of_the_system() -> Made:
    folder = write_tiffs("d/s{z}.tif")
    for name in ("._s0.tif", ".DS_Store", "Thumbs.db", "desktop.ini"):
        Path(folder, name).write_bytes(b"\0\5\x16\7")
    Path(folder, "loop").symlink_to("..")
    return folder, SIZES


def sixteen_bits_with_gamma() -> Made:
    Path("d").mkdir()
    for z, section in enumerate(WIDE):
        plain = bytes(imagecodecs.png_encode(section))
        gamma = b"gAMA" + struct.pack(">I", 100_000)
        chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
        Path(f"d/s{z}.png").write_bytes(plain[:33] + chunk + plain[33:])
    return "d", SIZES


FEI = "[User]\r\nUser=x\r\n[Scan]\r\nPixelWidth=5e-009\r\nPixelHeight=5e-009\r\n"
ZEISS = "0\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 5.000 nm\r\n"
READ: dict[str, tuple[Callable[[], Made], AnyArray]] = {
    "12 bits in 12 bits": (twelve_bits, WIDE),
    "pixel size of FEI": (lambda: with_tag(34682, FEI), VALUES),
    "pixel size of Zeiss": (lambda: with_tag(34118, ZEISS), VALUES),
    "levels in reverse": (levels_in_reverse, VALUES),
    "MATLAB": (lambda: matlab("a.h5", 0), VALUES),
    "MATLAB, .mat": (lambda: matlab("a.mat", 512), VALUES),
    "soft link": (soft_link, VALUES),
    "grey and coloured JPEGs": (jpegs_grey_and_coloured, VALUES),
    "lossless JPEGs": (lossless_jpegs, VALUES),
    "planes of RGB": (planes_of_rgb, VALUES),
    "transposed in Zarr": (transposed_in_zarr, VALUES),
    "an index of a shard in big endian": (shard_index_in_big_endian, VALUES),
    "shards in shards": (shards_in_shards, VALUES),
    "a link to another file alone": (external_link_alone, VALUES),
    "files of the system": (with_files_of_the_system, VALUES),
    "16 bits with a gamma": (sixteen_bits_with_gamma, WIDE),
    "line feeds in names": (lambda: (write_tiffs("d/s\n{z}.tif"), SIZES), VALUES),
    "JPEG 2000 in TIFF": (lambda: (write_tiffs("d/s{z}.tif", compression="jpeg2000"), SIZES), VALUES),
    "big endian, unchanged": (lambda: (write_tiffs("d/s{z}.tif", WIDE, byteorder=">", metadata=None), SIZES), WIDE),
    "big endian, tiles": (lambda: (write_tiffs("d/s{z}.tif", WIDE, byteorder=">", tile=(16, 32)), SIZES), WIDE),
    "folder named .h5": (lambda: (write_tiffs("raw.h5/s{z}.tif"), SIZES), VALUES),
    "file URL": (lambda: (f"file://{Path.cwd()}/{write_tiffs('raw/s{z}.tif')}", SIZES), VALUES),
    "hexadecimal names": (lambda: (hexadecimal(), SIZES), VALUES),
    "files of two days": (lambda: (two_days(), SIZES), VALUES),
    "Zarr and a text in a zip file": (lambda: (zarr_and_text_in_zip(), SIZES), VALUES),
    "setups of BigDataViewer": (
        lambda: (two_setups(), {**SIZES, "channels": "all", "channel": 0}),
        np.stack([VALUES, OTHER]).astype(np.uint16),
    ),
    "names in two Unicode forms": (lambda: (two_unicode_forms(), SIZES), VALUES),
    "one of two detectors": (
        lambda: (two_detectors("d/{z}_BSD.tif", "d/{z}_SE2.tif"), {**SIZES, "channel": "se2"}),
        OTHER,
    ),
    "a pattern for one detector": (lambda: (two_detectors("d/{z}_BSD.tif", "d/{z}_SE2.tif") + "/*BSD*", SIZES), VALUES),
}


def two_days() -> str:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        tifffile.imwrite(f"d/2024-0{'1-30' if z < 3 else '2-01'}_{z % 3}.tif", section)
    return "d"


def zarr_and_text_in_zip() -> str:
    zarr.create_array("in/a.zarr", data=VALUES)
    Path("in/README.txt").write_text("about")
    return Path(shutil.make_archive("a", "zip", "in")).name


def two_setups() -> str:
    with h5py.File("a.h5", "w") as file:
        for setup, values in enumerate((VALUES, OTHER)):
            file.create_dataset(f"t00000/s{setup:02d}/0/cells", data=values.astype(np.int16))
    return "a.h5"


def hexadecimal() -> str:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        tifffile.imwrite(f"d/sec{z + 8:02x}.tif", section)
    return "d"


def two_unicode_forms() -> str:
    Path("d").mkdir()
    for z, section in enumerate(VALUES):
        tifffile.imwrite(f"d/{'é' if z % 2 else 'e' + chr(0x301)}{z}.tif", section)
    return "d"


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    make, expected = READ[name]
    url, options = make()
    got = read(url, **options)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= (3 if "JPEGs" in name else 0)
    assert (Volume.open("out.zarr").info.pixel_size, Volume.open("out.zarr").info.section_thickness) == (5.0, 50.0)


@pytest.mark.parametrize(
    "names",
    [("d/s{z}_BSD.tif", "d/s{z}_SE2.tif"), ("d/BSD/s{z}.tif", "d/SE2/s{z}.tif"), ("d/ch0_{z}.tif", "d/ch1_{z}.tif")],
)
def test_detectors_in_files_of_their_own_are_imported_together(names: tuple[str, str]) -> None:
    info = import_volume(two_detectors(*names), "out.zarr", channels="all", channel=1, **SIZES)
    assert info.channels == (("ch0", "ch1") if "ch0" in names[0] else ("BSD", "SE2"))
    np.testing.assert_array_equal(Volume.open("out.zarr").read_channels(Box((0, 0, 0), info.shape)), [VALUES, OTHER])


@pytest.mark.parametrize(
    "names",
    [
        ["z-3", "z-2", "z-1", "z1", "z2", "z3"],
        ["z0um", "z0.5um", "z1um", "z1.5um", "z2um", "z2.5um"],
        ["w1_s1", "w1_s2", "w1_s3", "w2_s1", "w2_s2", "w2_s4"],
        ["block1_001", "block1_002", "block1_003", "block2_001", "block2_002", "block2_003"],
        ["s1", "s2", "s3", "s4 (1)", "s5 (1)", "s6 (1)"],
        ["left 1", "left 2", "left 3", "right 4", "right 5", "right 6"],
    ],
)
def test_names_of_one_series_are_not_channels(names: list[str]) -> None:
    Path("d").mkdir()
    for name, section in zip(names, VALUES, strict=True):
        tifffile.imwrite(f"d/{name}.tif", section)
    np.testing.assert_array_equal(read("d", **SIZES), VALUES)
