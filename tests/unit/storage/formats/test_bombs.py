"""Headers that declare more than their files can hold end in one sentence, before memory is taken."""

import bz2
import gzip
import json
import lzma
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats import chunk_bombs
from ssem_dask.storage.formats.chunk_bombs import look_at_each
from ssem_dask.storage.formats.detect import open_any_format
from ssem_dask.storage.formats.source import decoding, refuse_bomb
from ssem_dask.volumes.importing import import_volume
from tests.support.peak_memory import peak_growth


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


def bomb_hdf5(path: Path, **filters: Any) -> None:
    """A chunk of 1.2 MB that Deflate expands to 1.2 GiB; its checksum, at the end, is wrong."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("d", shape=(4, 512, 512), chunks=(4, 512, 512), dtype="u1", **filters)
        stream = zlib.compressobj()
        head, block = stream.compress(b"") + stream.flush(zlib.Z_FULL_FLUSH), stream.compress(bytes(1 << 24))
        content = head + (block + stream.flush(zlib.Z_FULL_FLUSH)) * 75 + stream.flush()
        dataset.id.write_direct_chunk((0, 0, 0), content + bytes(4 if "fletcher32" in filters else 0))


@pytest.mark.parametrize(
    "filters", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}]
)
def test_a_chunk_of_hdf5_that_expands(tmp_path: Path, filters: dict[str, Any]) -> None:
    bomb_hdf5(tmp_path / "bomb.h5", **filters)
    grown = peak_growth(f"""
        import pytest
        from ssem_dask.errors import SourceError
        from ssem_dask.storage.formats.detect import open_any_format
        source = open_any_format({str(tmp_path / "bomb.h5")!r})
        begin()
        with pytest.raises(SourceError, match="expands to more than the 1048576 bytes"):
            source.read(z_start=0, z_stop=4, y_start=0, y_stop=512)
    """)
    assert grown < 200 << 20


def test_large_chunks_of_hdf5_come_back(tmp_path: Path) -> None:
    """These are looked at first."""
    values = np.random.default_rng(1).integers(0, 256, (3, 1200, 1300), dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=values, chunks=(1, 1200, 1300), compression="gzip", shuffle=True, fletcher32=True)
    source = open_any_format(str(tmp_path / "a.h5"))
    np.testing.assert_array_equal(source.read(z_start=1, z_stop=3, y_start=7, y_stop=900), values[1:3, 7:900])


def bomb_gzip() -> bytes:
    return gzip.compress(bytes(1 << 24), 6) * 75


@pytest.mark.parametrize(
    ("compression", "content"),
    [
        ({"type": "gzip"}, bomb_gzip),
        ({"type": "bzip2"}, lambda: bz2.compress(bytes(1 << 24)) * 75),
        ({"type": "xz"}, lambda: lzma.compress(bytes(1 << 24), preset=0) * 75),
    ],
)
def test_a_block_of_n5_that_expands(tmp_path: Path, compression: dict[str, Any], content: Callable[[], bytes]) -> None:
    pytest.importorskip("tensorstore")
    extent = [512, 512, 4]
    attributes = {"dimensions": extent, "blockSize": extent, "dataType": "uint8", "compression": compression}
    (tmp_path / "em" / "0" / "0").mkdir(parents=True)
    (tmp_path / "em" / "attributes.json").write_text(json.dumps(attributes))
    (tmp_path / "em" / "0" / "0" / "0").write_bytes(struct.pack(">HHIII", 0, 3, 512, 512, 4) + content())
    grown = peak_growth(f"""
        import pytest
        from ssem_dask.errors import SourceError
        from ssem_dask.storage.formats.detect import open_any_format
        source = open_any_format({str(tmp_path / "em")!r})
        begin()
        with pytest.raises(SourceError, match="0/0/0: expands to more than the 1048576 bytes"):
            source.read(z_start=0, z_stop=4, y_start=0, y_stop=512)
    """)
    assert grown < 200 << 20


def test_large_blocks_of_n5_come_back(tmp_path: Path) -> None:
    """These are looked at first."""
    tensorstore = pytest.importorskip("tensorstore")
    values = np.random.default_rng(1).integers(0, 256, (3, 1200, 1300), dtype=np.uint8)
    attributes = {"blockSize": [1300, 1200, 1], "compression": {"type": "gzip"}}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(tmp_path / "em")}, "metadata": attributes}
    tensorstore.open(spec, create=True, dtype="uint8", shape=(1300, 1200, 3)).result()[...] = values.T
    source = open_any_format(str(tmp_path / "em"))
    np.testing.assert_array_equal(source.read(z_start=1, z_stop=3, y_start=7, y_stop=900), values[1:3, 7:900])


@pytest.mark.parametrize(("seconds", "local", "threads"), [(0.0, True, False), (0.01, True, True), (0.0, False, True)])
def test_chunks_are_looked_at_in_threads_only_where_that_pays(
    seconds: float, local: bool, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk once; the first that is refused is named."""
    seen: list[tuple[int, bool]] = []
    clock = [0.0]
    monkeypatch.setattr(chunk_bombs, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def look(number: int) -> None:
        clock[0] += seconds
        seen.append((number, threading.current_thread() is threading.main_thread()))
        if number in (30, 35):
            raise SourceError(f"chunk {number}")

    look_at_each(look, range(30), local=local)
    assert sorted(number for number, _ in seen) == list(range(30))
    assert (not all(is_main for _, is_main in seen)) == threads
    with pytest.raises(SourceError, match="chunk 30"):
        look_at_each(look, range(20, 40), local=local)
