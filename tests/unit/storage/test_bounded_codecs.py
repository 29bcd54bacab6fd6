"""Compressed chunks come back unchanged, and one that expands to more than its chunk takes no memory for it."""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, bounded_codecs
from tests.support.peak_memory import peak_growth
from tests.support.zstd_bombs import EXPANDED, zstd_frames

COMPRESSORS: dict[str, Any] = {
    "zstd": numcodecs.Zstd(),
    "blosc": numcodecs.Blosc(cname="zstd"),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
    "lz4": numcodecs.LZ4(),
}
_PIECE = bytes(1 << 24)
_FORMS: tuple[tuple[Literal[2, 3], str, Callable[[str], Any]], ...] = (
    (2, "0.0", lambda name: COMPRESSORS[name]),
    (3, "c/0/0", lambda name: {"name": f"numcodecs.{name}", "configuration": {}}),
)
"""Formats of Zarr, each with the file of its first chunk and its description of a compressor."""


def patched(encoded: bytes, *, at: int) -> bytes:
    """A frame whose header states that it holds almost 2 GiB."""
    return encoded[:at] + struct.pack("<I", (1 << 31) - 64) + encoded[at + 4 :]


def bombs() -> dict[str, bytes]:
    """Small contents that expand to 1 GiB or more, by compressor."""
    streams = EXPANDED // len(_PIECE)
    return {
        "zstd": zstd_frames(states_size=True),
        "zstd without a size": zstd_frames(states_size=False),
        "blosc": patched(bytes(COMPRESSORS["blosc"].encode(np.zeros(4096, np.uint8))), at=4),
        "lz4": patched(bytes(COMPRESSORS["lz4"].encode(np.zeros(4096, np.uint8))), at=0),
        "gzip": gzip.compress(_PIECE, 1) * streams,
        "zlib": zlib.compress(_PIECE * 8, 1),
        "bz2": bz2.compress(_PIECE) * streams,
        "lzma": lzma.compress(_PIECE, preset=0) * streams,
    }


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize(
    "filters", [None, [numcodecs.Shuffle(2)], [numcodecs.Delta("<u2", "<i4")]], ids=["none", "shuffle", "delta"]
)
def test_a_chunk_of_zarr_v2_comes_back(tmp_path: Path, name: str, filters: list[Any] | None) -> None:
    values = np.random.default_rng(1).integers(0, 9, (20, 30), dtype=np.uint16)
    stored = zarr.create_array(
        str(tmp_path / "a"),
        shape=values.shape,
        chunks=(8, 16),
        dtype=values.dtype,
        zarr_format=2,
        compressors=COMPRESSORS[name],
        filters=filters,
    )
    stored[:] = values
    array = arrays.open_array(str(tmp_path / "a"), mode="r+")
    np.testing.assert_array_equal(array[:], values)
    array[3:5] = 7  # a part of a chunk is read, changed and written
    np.testing.assert_array_equal(stored[3:5], 7)
    np.testing.assert_array_equal(stored[5:], values[5:])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize(
    "compressors",
    [
        zarr.codecs.ZstdCodec(),
        zarr.codecs.GzipCodec(),
        zarr.codecs.BloscCodec(),
        [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
        [zarr.codecs.Crc32cCodec(), zarr.codecs.BloscCodec()],
        {"name": "numcodecs.zlib", "configuration": {"level": 1}},
        [{"name": "numcodecs.shuffle", "configuration": {"elementsize": 2}}, zarr.codecs.ZstdCodec()],
    ],
    ids=["zstd", "gzip", "blosc", "gzip zstd crc", "crc blosc", "zlib", "shuffle zstd"],
)
@pytest.mark.parametrize("shards", [None, (16, 32)])
def test_a_chunk_of_zarr_v3_comes_back(tmp_path: Path, compressors: Any, shards: tuple[int, int] | None) -> None:
    values = np.random.default_rng(1).integers(0, 9, (20, 30), dtype=np.uint16)
    stored = zarr.create_array(
        str(tmp_path / "a"), shape=values.shape, chunks=(8, 16), shards=shards, dtype="u2", compressors=compressors
    )
    stored[:] = values
    array = arrays.open_array(str(tmp_path / "a"), mode="r+")
    assert array.shards == shards
    np.testing.assert_array_equal(array[:], values)
    array[3:5] = 7
    np.testing.assert_array_equal(stored[3:5], 7)
    np.testing.assert_array_equal(stored[5:], values[5:])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_a_chunk_that_expands_to_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    for number, (name, content) in enumerate(bombs().items()):
        codec = name.split()[0]
        layout: dict[str, Any] = {"shape": (64, 64), "chunks": (64, 64), "dtype": "u1"}
        for form, key, compressor in _FORMS:
            place = tmp_path / f"v{form}-{number}"
            zarr.create_array(str(place), **layout, zarr_format=form, compressors=compressor(codec))[:] = 1
            (place / key).write_bytes(content)
    grown = peak_growth(f"""
        import warnings
        warnings.simplefilter("ignore")
        from pathlib import Path
        from ssem_dask.errors import SourceError
        from ssem_dask.storage import arrays
        begin()
        for place in sorted(Path({str(tmp_path)!r}).iterdir()):
            try:
                with arrays.reading_chunks(str(place)):
                    arrays.open_array(str(place), mode="r")[:]
            except SourceError as error:
                assert "a chunk is damaged" in str(error), str(error)
            else:
                raise AssertionError(place)
    """)
    assert grown < 200 << 20


def test_chunks_and_shards_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a"), shape=(1, 10**9, 10**9), chunks=(1, 10**6, 10**6), dtype="u1")
    with pytest.raises(SourceError, match="store the volume in smaller chunks"):
        arrays.open_array(str(tmp_path / "a"), mode="r")
    zarr.create_array(str(tmp_path / "b"), shape=(10**5, 10**5), chunks=(1, 1), shards=(10**5, 10**5), dtype="u1")
    with pytest.raises(SourceError, match="store the volume in smaller shards"):
        arrays.open_array(str(tmp_path / "b"), mode="r")


@pytest.mark.parametrize("content", [b"", b"\x28", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\xff\xff", bytes(40)])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_torn_bytes_are_an_error_of_the_value(name: str, content: bytes) -> None:
    def decode(size: int | None) -> None:
        decoded = bounded_codecs.decode_bounded(COMPRESSORS[name], content, name=name, config={}, size=size, most=4096)
        np.frombuffer(decoded, np.uint8).reshape(64, 64)  # as zarr does with the bytes of a chunk

    for size in (4096, None):
        with pytest.raises((ValueError, RuntimeError)):
            decode(size)


class UnknownCompressor(numcodecs.abc.Codec):
    """A compressor of somebody else, who has registered it in this process."""

    codec_id = "their_own"

    def encode(self, buf: Any) -> bytes:
        return zlib.compress(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        raise AssertionError("decodes")


def test_a_compressor_that_cannot_be_bounded_is_refused(tmp_path: Path) -> None:
    numcodecs.register_codec(UnknownCompressor)
    try:
        place = str(tmp_path / "a")
        layout: dict[str, Any] = {"shape": (4, 4), "chunks": (2, 2), "dtype": "u1"}
        zarr.create_array(place, **layout, zarr_format=2, compressors=UnknownCompressor())[:] = 1
        with pytest.raises(SourceError, match="is compressed with 'their_own', which may expand"):
            arrays.open_array(place, mode="r")
    finally:
        numcodecs.registry.codec_registry.pop("their_own")
