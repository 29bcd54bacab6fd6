"""Chunks of precomputed volumes and of N5 hold what the metadata say; others end in a sentence, without memory."""

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats import precomputed_chunks
from ssem_dask.storage.formats.detect import open_any_format
from tests.support.input_formats import SHARDING
from tests.support.peak_memory import peak_growth
from tests.support.zstd_bombs import zstd_frames

tensorstore = pytest.importorskip("tensorstore")
SIZE = (1024, 1024, 1)
"""Extent (x, y, z) of the volumes of one chunk; 1 MiB."""
ONE_SHARD = {**SHARDING, "preshift_bits": 0, "minishard_bits": 0, "shard_bits": 0}


def expanding(mebibytes: int, *, gzipped: bool) -> bytes:
    """One stream of Deflate that expands to so many MiB of zeros, a thousandfold."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31 if gzipped else 15)
    head = stream.compress(b"") + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + block * mebibytes + stream.flush()


def png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def volume(folder: Path, **scale: Any) -> Path:
    """Write the metadata of a volume; return the folder of its chunks."""
    described = {
        "key": "s0",
        "size": SIZE,
        "voxel_offset": [0, 0, 0],
        "resolution": [4, 4, 40],
        "encoding": "raw",
        "chunk_sizes": [SIZE],
        **scale,
    }
    info = {"@type": "neuroglancer_multiscale_volume", "type": "image", "data_type": "uint8", "num_channels": 1}
    (folder / "s0").mkdir(parents=True)
    (folder / "info").write_text(json.dumps({**info, "scales": [described]}))
    return folder / "s0"


def one_chunk(folder: Path, content: bytes, *, hole: int = 0, **scale: Any) -> None:
    """Store a chunk in a file, which ends in a hole of so many bytes."""
    path = volume(folder, **scale) / f"0-{SIZE[0]}_0-{SIZE[1]}_0-{SIZE[2]}"
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(len(content) + hole)


def one_shard(
    folder: Path, content: bytes, index: bytes | None = None, *, hole: int = 0, sharding: dict[str, Any] = ONE_SHARD
) -> None:
    """Store a chunk in a shard: the index of the shard, the chunk, the index of the minishard."""
    index = gzip.compress(struct.pack("<QQQ", 0, 0, len(content))) if index is None else index
    path = volume(folder, sharding=sharding) / "0.shard"
    path.write_bytes(struct.pack("<QQ", len(content), len(content) + len(index)) + content + index)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + hole)


def n5(folder: Path, compression: dict[str, Any], content: bytes, *, hole: int = 0) -> None:
    attributes = {"dimensions": SIZE, "blockSize": SIZE, "dataType": "uint8", "compression": compression}
    (folder / "0" / "0").mkdir(parents=True)
    (folder / "attributes.json").write_text(json.dumps(attributes))
    path = folder / "0" / "0" / "0"
    path.write_bytes(struct.pack(">HHIII", 0, 3, *SIZE) + content)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + hole)


GIB = 1 << 30
BLOSC = {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0}
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a chunk that is too long": (lambda p: one_chunk(p, b"x", hole=GIB), f"has {GIB + 1} bytes, but a chunk here"),
    "a long JPEG": (lambda p: one_chunk(p, b"\xff\xd8", hole=GIB, encoding="jpeg"), "but a chunk here holds 1048576"),
    "a PNG of other extents": (
        lambda p: one_chunk(p, png(10**5, 10**4, expanding(954, gzipped=False)), encoding="png"),
        "cannot be decoded",
    ),
    "a PNG with too many rows": (
        lambda p: one_chunk(p, png(1024, 1024, expanding(1100, gzipped=False)), encoding="png"),
        "cannot be decoded",
    ),
    "a chunk in a shard": (
        lambda p: one_shard(p, expanding(1100, gzipped=True)),
        "0.shard chunk 0: expands to more than the 1048576 bytes",
    ),
    "a long chunk in a shard": (
        lambda p: one_shard(p, b"x", gzip.compress(struct.pack("<QQQ", 0, 0, GIB)), hole=GIB),
        "0.shard: has [0-9]+ bytes, but a shard here holds",
    ),
    "an index of a minishard": (
        lambda p: one_shard(p, b"x", expanding(1100, gzipped=True)),
        "1 shard is cut off or damaged, the first is 0.shard",
    ),
    "an index of many minishards": (
        lambda p: one_shard(p, b"x", hole=GIB, sharding={**ONE_SHARD, "minishard_bits": 60}),
        "a shard has 2.60 minishards, but at most 2.24 are read",
    ),
    "a chunk of any extent": (
        lambda p: one_chunk(p, b"x", chunk_sizes=[[10**9, 10**9, 10**9]]),
        "store the volume in smaller chunks",
    ),
    "a block of zstd": (lambda p: n5(p, {"type": "zstd"}, zstd_frames(states_size=True)), "0/0/0: expands to more"),
    "a block of zstd that states no size": (
        lambda p: n5(p, {"type": "zstd"}, zstd_frames(states_size=False)),
        "0/0/0: expands to more",
    ),
    "a second frame of zstd": (
        lambda p: n5(p, {"type": "zstd"}, b"\x28\xb5\x2f\xfd\x20\x01\x09\0\0x" + zstd_frames(states_size=False)),
        "0/0/0: expands to more",
    ),
    "a block of Blosc": (
        lambda p: n5(p, BLOSC, bytes([2, 1, 0x31, 1]) + struct.pack("<III", 1 << 31, 1 << 18, 100)),
        "0/0/0: expands to more",
    ),
    "a long block": (lambda p: n5(p, {"type": "raw"}, b"x", hole=GIB), "bytes, but a chunk here holds 1048576"),
}
"""Volumes of one chunk of 1 MiB that ask for a GiB."""


def test_a_chunk_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    for number, (write, _) in enumerate(BOMBS.values()):
        write(tmp_path / str(number))
    sentences = [sentence for _, sentence in BOMBS.values()]
    grown = peak_growth(f"""
        import re
        from ssem_dask.errors import SsemDaskError
        from ssem_dask.storage.formats.detect import open_any_format
        begin()
        for number, sentence in enumerate({sentences!r}):
            try:
                source = open_any_format({str(tmp_path)!r} + f"/{{number}}")
                source.read(z_start=0, z_stop=1, y_start=0, y_stop=1024)
            except SsemDaskError as error:
                assert re.search(sentence, str(error)), str(error)
                assert "\\n" not in str(error)
            else:
                raise AssertionError(sentence)
    """)
    assert grown < 300 << 20


@pytest.mark.parametrize(("bits", "colour", "sentence"), [(16, 0, "has 16 bits"), (8, 3, "entries of a palette")])
def test_a_png_chunk_of_other_values_is_refused(bits: int, colour: int, sentence: str, tmp_path: Path) -> None:
    """The first of these ends a process that TensorStore runs in."""
    rows = zlib.compress(bytes((1024 * bits // 8 + 1) * 1024))
    one_chunk(tmp_path / "file", png(1024, 1024, rows, bits=bits, colour=colour), encoding="png")
    image = png(1024, 1024, rows, bits=bits, colour=colour)
    one_shard(tmp_path / "shard", gzip.compress(image))
    info = tmp_path / "shard" / "info"
    info.write_text(info.read_text().replace('"raw"', '"png"', 1))
    for place in ("file", "shard"):
        source = open_any_format(str(tmp_path / place))
        with pytest.raises(SourceError, match=f"the PNG image {sentence}|the PNG image has {sentence}"):
            source.read(z_start=0, z_stop=1, y_start=0, y_stop=9)


@pytest.mark.parametrize("encoding", ["compresso", "jxl", "fpzip", "zfpc", "kempressed"])
def test_encodings_that_cannot_be_decoded_are_named(encoding: str, tmp_path: Path) -> None:
    one_chunk(tmp_path / "a", b"x", encoding=encoding)
    with pytest.raises(SourceError, match=f"encoded as {encoding}, which cannot be decoded here; export it with one"):
        open_any_format(str(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["lz4", "jpeg"])
def test_compressions_of_n5_that_cannot_be_decoded_are_named(kind: str, tmp_path: Path) -> None:
    n5(tmp_path / "a", {"type": kind}, b"x")
    with pytest.raises(SourceError, match=f"compressed with {kind}, which cannot be decoded here; export it with one"):
        open_any_format(str(tmp_path / "a"))


@pytest.mark.parametrize(
    "compression",
    [
        {"type": "raw"},
        {"type": "gzip"},
        {"type": "gzip", "useZlib": True},
        {"type": "bzip2"},
        {"type": "xz"},
        {"type": "zstd"},
        {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
        {"type": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2},
    ],
    ids=str,
)
def test_compressions_of_n5_come_back(compression: dict[str, Any], tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, (4, 70, 90), dtype=np.uint16)
    metadata = {"blockSize": [32, 32, 3], "compression": compression}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(tmp_path / "em")}, "metadata": metadata}
    tensorstore.open(spec, create=True, dtype="uint16", shape=values.shape[::-1]).result()[...] = values.T
    source = open_any_format(str(tmp_path / "em"))
    np.testing.assert_array_equal(source.read(z_start=1, z_stop=4, y_start=7, y_stop=60), values[1:4, 7:60])


@pytest.mark.parametrize("hashed", ["identity", "murmurhash3_x86_128"])
@pytest.mark.parametrize("compression", ["raw", "gzip"])
def test_every_chunk_in_shards_is_looked_at(
    hashed: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).integers(1, 250, (33, 50, 70), dtype=np.uint8)
    sharding = {**SHARDING, "hash": hashed, "minishard_bits": 2, "shard_bits": 5}
    sharding |= {"minishard_index_encoding": compression, "data_encoding": compression}
    scale = {"size": values.shape[::-1], "voxel_offset": [3, 0, 9], "resolution": [4, 4, 40], "encoding": "raw"}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": str(tmp_path / "a")},
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": {**scale, "chunk_size": [8, 8, 8], "sharding": sharding},
    }
    tensorstore.open(spec, create=True).result()[...] = values.T[..., None]
    looked: list[str] = []

    def look(stored: int, *, limit: int, where: str, unit: str = "chunk") -> None:
        assert 0 < stored < limit * 2
        looked.extend([where] if unit == "chunk" else [])

    monkeypatch.setattr(precomputed_chunks, "refuse_overlong", look)
    source = open_any_format(str(tmp_path / "a"))
    assert not source.info.notes
    np.testing.assert_array_equal(source.read(z_start=0, z_stop=33, y_start=0, y_stop=50), values)
    assert len({*looked}) == 5 * 7 * 9


def test_sharded_chunks_that_may_expand_come_back(tmp_path: Path) -> None:
    """These are looked at first."""
    values = np.random.default_rng(1).integers(0, 256, SIZE[::-1], dtype=np.uint8)
    wide = np.concatenate([values, values], axis=2)
    for name, stored in (("one", values), ("two", wide)):
        content = gzip.compress(stored.tobytes(), 1)
        size = [stored.shape[2], stored.shape[1], stored.shape[0]]
        one_shard(tmp_path / name, content)
        info = tmp_path / name / "info"
        info.write_text(info.read_text().replace(json.dumps(SIZE), json.dumps(size)))
        source = open_any_format(str(tmp_path / name))
        np.testing.assert_array_equal(source.read(z_start=0, z_stop=1, y_start=3, y_stop=900), stored[:, 3:900])
