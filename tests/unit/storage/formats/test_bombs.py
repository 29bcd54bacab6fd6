"""Headers that declare more than their files can hold end in one sentence, before memory is taken."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import decoding, refuse_bomb
from ssem_dask.volumes.importing import import_volume


def bomb_tiff(path: Path) -> None:
    """A page of a million by a million pixels in one small strip."""
    tifffile.imwrite(path, np.ones((64, 64), np.uint8), compression="zlib", metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tiff.pages.first.tags[name]
            struct.pack_into("<HI", content, tag.offset + 2, 4, 1)
            struct.pack_into("<I", content, tag.offset + 8, 10**6)
    path.write_bytes(content)


def bomb_png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(("name", "write"), [("a.tif", bomb_tiff), ("a.png", bomb_png)])
def test_an_image_that_its_file_cannot_hold(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    (tmp_path / "sections").mkdir()
    for prefix in ("1", "2"):
        write(tmp_path / "sections" / f"{prefix}{name}")
    for source in (tmp_path / "sections", tmp_path / "sections" / f"1{name}"):
        with pytest.raises(SourceError, match=r"declares an image of 1000000000000 bytes|single section"):
            import_volume(str(source), str(tmp_path / "v.zarr"), pixel_size=4, section_thickness=40)


def test_an_empty_image_is_no_bomb() -> None:
    refuse_bomb("here", declared=10**10, stored=10**10 // 1032)
    refuse_bomb("here", declared=10**9, stored=1)


def test_too_little_memory_is_one_sentence() -> None:
    with pytest.raises(SourceError, match="takes more memory than there is"), decoding("a.tif"):
        raise MemoryError("Unable to allocate 931 GiB")


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "🧠" * 64, f"a/{'x' * 300}/b"])
def test_a_name_that_no_file_system_takes(tmp_path: Path, name: str) -> None:
    for use in (location.exists, location.read_bytes, location.list_names):
        with pytest.raises(SourceError, match="choose a shorter one"):
            use(f"{tmp_path}/{name}")
    assert not location.exists(f"{tmp_path}/{'x' * 255}")
