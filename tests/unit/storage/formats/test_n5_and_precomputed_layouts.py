"""N5 of Paintera, n5-viewer, BigDataViewer and COSEM, precomputed volumes of CloudVolume, and broken ones."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.types import AnyArray
from tests.support.odd_inputs import SIZES, VALUES, check_refused, read_source

pytestmark = pytest.mark.usefixtures("in_folder")
tensorstore = pytest.importorskip("tensorstore")

HALF = np.ascontiguousarray(VALUES[:, ::2, ::2])


def n5(place: str, values: AnyArray = VALUES, *, codec: dict[str, Any] | None = None, **attributes: Any) -> str:
    """Write a dataset with further attributes; returns its place."""
    metadata = {"blockSize": [min(n, 12) for n in values.shape[::-1]], "compression": codec or {"type": "gzip"}}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": place}, "metadata": metadata}
    store = tensorstore.open(spec, create=True, dtype=values.dtype.name, shape=values.shape[::-1]).result()
    store[...] = values.T
    return described(place, **attributes)


def described(place: str, **attributes: Any) -> str:
    """Add attributes to a dataset or group; returns its place."""
    path = Path(place, "attributes.json")
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**stored, **attributes}))
    return place


def with_levels(group: str) -> str:
    n5(f"{group}/s0")
    n5(f"{group}/s1", HALF, downsamplingFactors=[2, 2, 1])
    return group


@pytest.mark.parametrize("codec", ["raw", "gzip", "bzip2", "xz", "zstd", "blosc"])
def test_compressions(codec: str) -> None:
    options = {"cname": "lz4", "clevel": 5, "shuffle": 1} if codec == "blosc" else {}
    np.testing.assert_array_equal(read_source(n5("a.n5/em", codec={"type": codec, **options}))[0], VALUES)


UM = {"unit": "um", "dimensions": [0.005, 0.005, 0.05]}
SCALE = {"axes": ["z", "y", "x"], "scale": [50.0, 5.0, 5.0], "units": ["nm"] * 3, "translate": [0, 0, 0]}


def n5_viewer(url: str) -> str:
    described(Path(with_levels("a.n5/c0")).parent.as_posix(), n5="2.5.0", pixelResolution=UM)
    return url


def paintera(url: str) -> str:
    described(with_levels("a.n5/raw/data"), multiScale=True, resolution=[5.0, 5.0, 50.0], offset=[0, 0, 0])
    described("a.n5/raw", painteraData={"type": "raw"})
    described("a.n5", n5="2.5.0")
    return url


def big_data_viewer(url: str, *, unit: str = "um", scale: float = 1e-3) -> str:
    described(with_levels("a.n5/setup0/timepoint0"), multiScale=True, resolution=[1.0, 1.0, 1.0])
    described("a.n5/setup0", downsamplingFactors=[[1, 1, 1], [2, 2, 1]], dataType="uint8")
    described("a.n5", n5="2.5.0")
    size = " ".join(str(scale * length) for length in (5, 5, 50))
    setup = f"<ViewSetup><id>0</id><voxelSize><unit>{unit}</unit><size>{size}</size></voxelSize></ViewSetup>"
    Path("a.xml").write_text(f"<SpimData><ViewSetups>{setup}</ViewSetups></SpimData>")
    return url


def cosem(**attributes: Any) -> str:
    return described(with_levels("a.n5/em/fib"), **attributes)


LAYOUTS: dict[str, Callable[[], str]] = {
    "n5-viewer": lambda: n5_viewer("a.n5/c0"),
    "n5-viewer, level": lambda: n5_viewer("a.n5/c0/s0"),
    "n5-viewer, container": lambda: n5_viewer("a.n5"),
    "n5-viewer, group": lambda: described(with_levels("a.n5/c0"), pixelResolution=UM),
    "Paintera, data": lambda: paintera("a.n5/raw/data"),
    "Paintera, group": lambda: paintera("a.n5/raw"),
    "Paintera, container": lambda: paintera("a.n5"),
    "BigDataViewer, time point": lambda: big_data_viewer("a.n5/setup0/timepoint0"),
    "BigDataViewer, setup": lambda: big_data_viewer("a.n5/setup0"),
    "BigDataViewer, container": lambda: big_data_viewer("a.n5"),
    "COSEM, dataset": lambda: str(Path(n5("a.n5/em/fib/s0", transform=SCALE)).parent),
    "COSEM, group": lambda: cosem(multiscales=[{"datasets": [{"path": "s0", "transform": SCALE}]}]),
    "a transform of the group": lambda: cosem(transform=SCALE),
    "attributes of UTF-8 with a mark": lambda: with_mark(n5("a.n5/em", pixelResolution=UM)),
}


def with_mark(place: str) -> str:
    path = Path(place, "attributes.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return place


@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_are_found_where_a_program_stores_them(name: str) -> None:
    got, info = read_source(LAYOUTS[name]())
    np.testing.assert_array_equal(got, VALUES)
    assert (info.sizes.pixel_size, info.sizes.section_thickness) == pytest.approx((5.0, 50.0))


WITHOUT_SIZES: dict[str, Callable[[], str]] = {
    "an odd attribute": lambda: cosem(multiscales="yes", scales=3),
    "odd images": lambda: cosem(multiscales=["yes"]),
    "odd levels": lambda: cosem(multiscales=[{"datasets": "s0"}]),
    "no unit (BigDataViewer)": lambda: big_data_viewer("a.n5/setup0", unit="pixel"),
    "a coarser level": lambda: described("a.n5/em", pixelResolution=UM) and n5("a.n5/em/s1", VALUES),
}


@pytest.mark.parametrize("name", WITHOUT_SIZES)
def test_sizes_that_are_not_stated_are_asked_for(name: str) -> None:
    Path("a.n5/em").mkdir(parents=True)
    url = WITHOUT_SIZES[name]()
    np.testing.assert_array_equal(read_source(url)[0], VALUES)
    check_refused(url, "its pixel size is unknown; give it in nm", pixel_size=None)


def block(content: Callable[[bytes], bytes], codec: str = "raw") -> str:
    """Write a dataset and change its first block."""
    place = Path(n5("a.n5/em", codec={"type": codec}), "0/0/0")
    place.write_bytes(content(place.read_bytes()))
    return "a.n5/em"


def header(mode: int, *extents: int) -> bytes:
    return struct.pack(">HH3I", mode, 3, *extents)


BAD_N5: dict[str, tuple[Callable[[], str], str]] = {
    "two datasets": (lambda: (n5("a.n5/b") and n5("a.n5/a") and described("a.n5", n5="2")) or "", "a.n5/a, a.n5/b"),
    "a block that is too small": (
        lambda: block(lambda content: header(0, 5, 5, 5) + content[16 : 16 + 125]),
        r"em/0/0/0: the block is \(5, 5, 5\), but \(12, 12, 6\) belong into it",
    ),
    "a block of variable length": (lambda: block(lambda c: header(1, 12, 12, 6) + bytes(4) + c[16:]), "varlength"),
    "a block that is cut off": (lambda: block(lambda content: content[:20], "gzip"), "cannot be decoded"),
    "an empty block": (lambda: block(lambda _: b""), "cannot be decoded"),
    "lz4": (lambda: described(n5("a.n5/em"), compression={"type": "lz4"}), "compressed with lz4, which cannot"),
    "extents in words": (lambda: described(n5("a.n5/em"), dimensions="a"), "attributes.json cannot be read"),
    "negative extents": (lambda: described(n5("a.n5/em"), dimensions=[-1, 2, 3]), "cannot be decoded"),
    "blocks of nothing": (lambda: described(n5("a.n5/em"), blockSize=[0, 2, 3]), "attributes.json cannot be read"),
    "blocks of two axes": (lambda: described(n5("a.n5/em"), blockSize=[12, 12]), "attributes.json cannot be read"),
    "values in words": (lambda: described(n5("a.n5/em"), dataType="string"), "attributes.json cannot be read"),
    "one section": (lambda: n5("a.n5/em", VALUES[0]), r"shape \(24, 40\), but a volume has three axes"),
    "signed": (lambda: n5("a.n5/em", VALUES.astype(np.int16)), "images are int16"),
}


@pytest.mark.parametrize("name", BAD_N5)
def test_n5_is_refused(name: str) -> None:
    make, sentence = BAD_N5[name]
    check_refused(make(), sentence)


# ---------------------------------------------------------------- precomputed


def precomputed(values: AnyArray = VALUES, *, kind: str = "image", levels: int = 1, **scale: Any) -> str:
    for level in range(levels):
        factor = 2**level
        whole = {"size": list(values.shape[::-1]), "resolution": [5 * factor, 5 * factor, 50], "encoding": "raw"}
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": "pre"},
            "multiscale_metadata": {"type": kind, "data_type": values.dtype.name, "num_channels": 1},
            "scale_metadata": {"chunk_size": [12, 12, 4], **whole, **scale},
        }
        tensorstore.open(spec, create=True).result()[...] = values.T[..., None]
    return "pre"


def with_info(change: Callable[[dict[str, Any]], object]) -> str:
    path = Path(precomputed(), "info")
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    return "pre"


def first_scale(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda info: info["scales"][0].update(values)


def smaller_scale_first(info: dict[str, Any]) -> None:
    info["scales"].insert(0, {**info["scales"][0], "key": "x", "resolution": [10, 10, 50], "size": [20, 12, 6]})


CELLS = VALUES.astype(np.uint32)
HASHED = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 2,
    "hash": "murmurhash3_x86_128",
    "minishard_bits": 2,
    "shard_bits": 1,
    "minishard_index_encoding": "raw",
    "data_encoding": "gzip",
}
PRECOMPUTED: dict[str, tuple[Callable[[], str], AnyArray]] = {
    "PNG": (lambda: precomputed(encoding="png"), VALUES),
    "cells": (
        lambda: precomputed(
            CELLS,
            kind="segmentation",
            encoding="compressed_segmentation",
            compressed_segmentation_block_size=[8, 8, 8],
        ),
        CELLS,
    ),
    "levels": (lambda: precomputed(levels=3), VALUES),
    "negative offset": (lambda: precomputed(voxel_offset=[-5, 3, 7]), VALUES),
    "hashed shards": (lambda: precomputed(sharding=HASHED), VALUES),
    "a smaller scale first": (lambda: with_info(smaller_scale_first), VALUES),
    "no offset": (lambda: with_info(lambda info: info["scales"][0].pop("voxel_offset", None)), VALUES),
    "extents with a point": (lambda: with_info(first_scale(size=[40.0, 24.0, 6.0])), VALUES),
    "lengths in words": (lambda: with_info(first_scale(resolution=["5", "5", "50"])), VALUES),
    "several chunk sizes": (lambda: with_info(first_scale(chunk_sizes=[[12, 12, 4], [8, 8, 8]])), VALUES),
    "address of neuroglancer": (lambda: f"precomputed://file://{Path(precomputed()).absolute()}", VALUES),
    "piped address of neuroglancer": (
        lambda: f"file://{Path(precomputed()).absolute()}|neuroglancer-precomputed:",
        VALUES,
    ),
}


@pytest.mark.parametrize("name", PRECOMPUTED)
def test_precomputed_is_read(name: str) -> None:
    make, expected = PRECOMPUTED[name]
    got, info = read_source(make())
    np.testing.assert_array_equal(got, expected)
    assert (info.sizes.pixel_size, info.sizes.section_thickness) == (5.0, 50.0)


def test_jpeg_in_precomputed() -> None:
    got, _ = read_source(precomputed(encoding="jpeg", jpeg_quality=99))
    assert np.abs(got.astype(int) - VALUES).max() <= 5


def compressed_files(suffix: str) -> str:
    for path in Path(precomputed(), "5_5_50").iterdir():
        path.with_name(path.name + suffix).write_bytes(gzip.compress(path.read_bytes()))
        if suffix:
            path.unlink()
    return "pre"


BAD_PRECOMPUTED: dict[str, tuple[Callable[[], str], str]] = {
    "files of CloudVolume": (
        lambda: compressed_files(".gz"),
        r"compressed files \(0-12_0-12_0-4\.gz\), as CloudVolume .*`gunzip -r pre/5_5_50`",
    ),
    "compressed without saying so": (lambda: compressed_files(""), "cannot be decoded .*Expected chunk length"),
    "no scales": (lambda: with_info(lambda info: info.update(scales=[])), "file info cannot be read"),
    "scales in words": (lambda: with_info(lambda info: info.update(scales="x")), "file info cannot be read"),
    "unknown encoding": (lambda: with_info(first_scale(encoding="kempressed")), "encoded as kempressed"),
    "unknown type": (lambda: with_info(lambda info: info.update(data_type="UINT8")), "file info cannot be read"),
    "no chunks": (lambda: with_info(lambda info: info["scales"][0].pop("chunk_sizes")), "file info cannot be read"),
    "no sections": (lambda: with_info(first_scale(size=[40, 24, 0])), "it is empty"),
    "cells as an image": (lambda: precomputed(VALUES.astype(np.uint64), kind="segmentation"), "give --labels if"),
}


@pytest.mark.parametrize("name", BAD_PRECOMPUTED)
def test_precomputed_is_refused(name: str) -> None:
    make, sentence = BAD_PRECOMPUTED[name]
    check_refused(make(), sentence, **SIZES)
