"""Zarr arrays and groups of other programs: codecs, keys, plates, labels, collections, and broken metadata."""

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import zarr

from ssem_dask.types import AnyArray
from tests.support.odd_inputs import OTHER, VALUES, check_refused, read_source

pytestmark = pytest.mark.usefixtures("in_folder")

WIDE = VALUES.astype(np.uint16) * 16


def array(
    values: AnyArray = VALUES, *, name: str = "a.zarr", zarr_format: Literal[2, 3] = 2, chunks: Any = None, **more: Any
) -> str:
    chunks = chunks or tuple(min(n, 16) for n in values.shape)
    stored = zarr.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, zarr_format=zarr_format, **more
    )
    stored[...] = values
    return name


def changed(change: Callable[[dict[str, Any]], object], *, zarr_format: Literal[2, 3] = 3) -> str:
    """Write an array and change its metadata."""
    path = Path(array(zarr_format=zarr_format), "zarr.json" if zarr_format == 3 else ".zarray")
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    return "a.zarr"


def with_mark(file: str) -> str:
    """Write an array whose metadata begin with the mark of UTF-8."""
    path = Path(array(zarr_format=3), file)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return "a.zarr"


V3: dict[str, Any] = {"zarr_format": 3}
CODECS = {
    "zlib": numcodecs.Zlib(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
    "zstd": numcodecs.Zstd(),
    "blosc": numcodecs.Blosc(cname="lz4", shuffle=2),
    "none": None,
}


@pytest.mark.parametrize("codec", CODECS)
def test_compressors_of_version_2(codec: str) -> None:
    np.testing.assert_array_equal(read_source(array(compressors=CODECS[codec]))[0], VALUES)


READ: dict[str, tuple[Callable[[], str], AnyArray]] = {
    "delta": (lambda: array(WIDE, filters=[numcodecs.Delta("<u2")]), WIDE),
    "shuffle": (lambda: array(WIDE, filters=[numcodecs.Shuffle(2)]), WIDE),
    "x fastest": (lambda: array(order="F"), VALUES),
    "folders of chunks": (lambda: array(chunk_key_encoding={"name": "v2", "separator": "/"}), VALUES),
    "big endian, version 2": (lambda: array(WIDE.astype(">u2")), WIDE),
    "big endian, version 3": (lambda: array(WIDE, serializer=zarr.codecs.BytesCodec(endian="big"), **V3), WIDE),
    "six axes": (lambda: array(VALUES[None, None, None]), VALUES),
    "checksums": (
        lambda: array(compressors=[zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()], **V3),
        VALUES,
    ),
    "keys of version 2": (lambda: array(chunk_key_encoding={"name": "v2", "separator": "."}, **V3), VALUES),
    "axes without names": (lambda: array(dimension_names=[None, None, None], **V3), VALUES),
    "one axis with a name": (lambda: array(dimension_names=["z", None, None], **V3), VALUES),
    "plane, row, column": (lambda: array(dimension_names=["plane", "row", "col"], **V3), VALUES),
    "no fill value": (lambda: changed(lambda m: m.update(fill_value=None), zarr_format=2), VALUES),
    "an extension to ignore": (lambda: changed(lambda m: m.update(foo={"must_understand": False})), VALUES),
    "a mark of UTF-8": (lambda: with_mark("zarr.json"), VALUES),
    "both versions at once": (lambda: array(OTHER) and array(**V3), VALUES),
    "WEBKNOSSOS, c, x, y, z": (
        lambda: array(VALUES[None].transpose(0, 3, 2, 1), dimension_names=list("cxyz"), **V3),
        VALUES,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str) -> None:
    make, expected = READ[name]
    np.testing.assert_array_equal(read_source(make())[0], expected)


UNREADABLE = "its Zarr metadata cannot be read"
BROKEN: dict[str, tuple[Callable[[], str], str]] = {
    "unknown codec": (lambda: changed(lambda m: m["codecs"].append({"name": "nonsense"})), UNREADABLE),
    "unknown compressor": (lambda: changed(lambda m: m.update(compressor={"id": "no"}), zarr_format=2), UNREADABLE),
    "unknown filter": (lambda: changed(lambda m: m.update(filters=[{"id": "no"}]), zarr_format=2), UNREADABLE),
    "chunks of several sizes": (
        lambda: changed(lambda m: m.update(chunk_grid={"name": "rectilinear", "configuration": {}})),
        UNREADABLE,
    ),
    "storage transformer": (lambda: changed(lambda m: m.update(storage_transformers=[{"name": "x"}])), UNREADABLE),
    "an extension to understand": (lambda: changed(lambda m: m.update(foo={"must_understand": True})), UNREADABLE),
    "version 4": (lambda: changed(lambda m: m.update(zarr_format=4)), UNREADABLE),
    "negative shape": (lambda: changed(lambda m: m.update(shape=[6, -24, 40])), UNREADABLE),
    "unknown type": (lambda: changed(lambda m: m.update(data_type="bfloat16")), UNREADABLE),
    "chunks of nothing": (lambda: changed(lambda m: m.update(chunks=[2, 0, 16]), zarr_format=2), UNREADABLE),
    "complex": (lambda: array(VALUES.astype("c8"), **V3), "images are complex64"),
    "two axes": (lambda: array(VALUES[0]), r"shape \(24, 40\), but a volume has three axes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_is_refused(name: str) -> None:
    make, sentence = BROKEN[name]
    check_refused(make(), sentence)


@pytest.mark.parametrize("kept", [0, 9])
def test_a_chunk_that_is_cut_off(kept: int) -> None:
    chunk = next(path for path in Path(array(compressors=numcodecs.Zstd())).iterdir() if path.name[0].isdigit())
    chunk.write_bytes(chunk.read_bytes()[:kept])
    check_refused("a.zarr", "cannot be decoded")


# ---------------------------------------------------------------- groups


def image(
    name: str = "a.zarr",
    *,
    values: AnyArray = VALUES,
    axes: str = "zyx",
    path: str = "0",
    scale: Sequence[float] | None = (50.0, 5.0, 5.0),
    whole: Sequence[float] | None = None,
    unit: str | None = "nanometer",
    **more: Any,
) -> str:
    """Write an OME-Zarr 0.4 image of one level; `whole` is a scale of all levels, `more` replaces metadata."""
    group = zarr.open_group(name, mode="w", zarr_format=2)
    group.create_array(path.strip("/"), data=values, chunks=tuple(min(n, 16) for n in values.shape))
    named = [{"name": axis, **({"unit": unit} if unit and axis in "zyx" else {})} for axis in axes]
    level = {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}] if scale else []}
    multiscale: dict[str, Any] = {"version": "0.4", "axes": named, "datasets": [level]}
    if whole is not None:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": whole}]
    group.attrs["multiscales"] = [{**multiscale, **more}]
    return name


def group(attributes: dict[str, Any], name: str = "a.zarr") -> str:
    """Write a group; what is in it stays."""
    zarr.open_group(name, mode="a", zarr_format=2).attrs.update(attributes)
    return name


def plate() -> str:
    group({"plate": {"rows": [{"name": "A"}], "columns": [{"name": "1"}], "wells": [{"path": "A/1"}]}}, "p.zarr")
    group({"well": {"images": [{"path": "0"}]}}, "p.zarr/A/1")
    group({}, "p.zarr/A")
    image("p.zarr/A/1/0")
    return "p.zarr"


def labels() -> str:
    group({"labels": ["cells"]}, f"{image()}/labels")
    return image("a.zarr/labels/cells", values=VALUES.astype(np.uint32))


def two_images() -> str:
    group({"bioformats2raw.layout": 3})
    image("a.zarr/0")
    image("a.zarr/1")
    return "a.zarr"


def collection() -> str:
    zarr.open_group("a.zarr", mode="w").attrs["ome"] = {"version": "0.6", "collection": {"members": {"em": {}}}}
    return image("a.zarr/em").partition("/")[0]


def of_xarray() -> str:
    group({})
    for axis, extent in zip("zyx", VALUES.shape, strict=True):
        zarr.create_array(f"a.zarr/{axis}", data=np.arange(extent), zarr_format=2)
    array(name="a.zarr/em")
    return "a.zarr"


def zipped(name: str, *, inside: str = "") -> str:
    shutil.make_archive("b", "zip", image())
    if inside:
        with zipfile.ZipFile("b.zip", "w") as archive:
            for path in sorted(Path("a.zarr").rglob("*")):
                archive.write(path, path.as_posix().replace("a.zarr", inside))
    return str(Path("b.zip").rename(name))


GROUPS: dict[str, tuple[Callable[[], str], AnyArray]] = {
    "the only array": (lambda: array(name=f"{group({})}/raw").partition("/")[0], VALUES),
    "the only array, further down": (
        lambda: group({}) and group({}, "a.zarr/v") and array(name="a.zarr/v/raw").partition("/")[0],
        VALUES,
    ),
    "an array and its coordinates": (of_xarray, VALUES),
    "the only image of a well": (lambda: f"{plate()}/A/1", VALUES),
    "an image of a plate": (lambda: f"{plate()}/A/1/0", VALUES),
    "an image of labels": (labels, VALUES.astype(np.uint32)),
    "the only image of a collection": (collection, VALUES),
    "a name in Unicode": (lambda: image(path="größe 0"), VALUES),
    "a path": (lambda: image(path="a/b/0"), VALUES),
    "a slash after the path": (lambda: image(path="0/"), VALUES),
    "x first": (lambda: image(values=VALUES.T.copy(), axes="xyz", scale=(5.0, 5.0, 50.0)), VALUES),
    "a scale for all levels": (lambda: image(scale=(1.0, 1.0, 1.0), whole=(50.0, 5.0, 5.0)), VALUES),
    "µm": (lambda: image(scale=(0.05, 0.005, 0.005), unit="micrometer"), VALUES),
    "Å": (lambda: image(scale=(500.0, 50.0, 50.0), unit="angstrom"), VALUES),
    "zip": (lambda: zipped("a.zarr.zip"), VALUES),
    "zip with a folder": (lambda: zipped("a.zarr.zip", inside="x.zarr"), VALUES),
    "zip of RFC 9": (lambda: zipped("a.ozx"), VALUES),
}


@pytest.mark.parametrize("name", GROUPS)
def test_group_is_read(name: str) -> None:
    make, expected = GROUPS[name]
    got, info = read_source(make(), labels="labels" in name)
    np.testing.assert_array_equal(got, expected)
    if "array" not in name:
        assert (info.sizes.pixel_size, info.sizes.section_thickness) == pytest.approx((5.0, 50.0))


BAD_GROUPS: dict[str, tuple[Callable[[], str], str]] = {
    "empty": (lambda: group({}), "a Zarr group that holds no volume .*, only nothing; check the path"),
    "one section": (
        lambda: array(VALUES[0], name=f"{group({})}/raw").partition("/")[0],
        r"a\.zarr: a Zarr group that holds no volume \(an array of z, y, x\), only raw",
    ),
    "a plate": (plate, r"p\.zarr: is a plate of 1 well; name one image in it, such as p\.zarr/A/1/0"),
    "two images": (two_images, r"a Zarr group of 2 volumes; name one of them: a\.zarr/0, a\.zarr/1"),
    "a level that is missing": (lambda: image(datasets=[{"path": "7"}]), r"a\.zarr"),
    "no levels": (lambda: image(datasets=[]), "OME-Zarr metadata cannot be read .*no datasets"),
    "a path that leads out": (lambda: image(path="/0"), "'/0' leads out of it"),
    "two numbers of a scale": (lambda: image(scale=(5.0, 5.0)), "scale has 2 values for 3 axes"),
    "five channels": (lambda: image(values=np.stack([VALUES] * 5), axes="czyx", scale=None), "has 5 channels"),
}


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_group_is_refused(name: str) -> None:
    make, sentence = BAD_GROUPS[name]
    check_refused(make(), sentence)


@pytest.mark.parametrize("thickness", [0.0, -50.0])
def test_lengths_that_are_none(thickness: float) -> None:
    sizes = read_source(image(scale=(thickness, 5.0, 5.0)))[1].sizes
    assert (sizes.pixel_size, sizes.section_thickness) == (5.0, None)
    check_refused(image(scale=None), "its pixel size is unknown", pixel_size=None)
