"""Every format that can be imported, written from one description, so that each oddity is tried in all of them.

A new format is one more row of `FORMATS`, and gets every test of `tests/unit/storage/formats/test_oddities.py` for
which it names the ability.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import imagecodecs
import numpy as np
import tifffile
import zarr

from ssem_dask.types import AnyArray

Unit = tuple[float, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """Tags and metadata of a file, beside its values."""

    axes: str = "zyx"
    """Names of the stored axes, in numpy's order."""
    lengths: dict[str, Unit] = field(default_factory=dict)
    """Length and unit of a voxel along z, y and x."""
    inverted: bool = False
    palette: AnyArray | None = None
    """Colours (256, 3), uint8."""
    orientation: int = 1
    colours: bool = False
    """Whether the last axis has the colours of a pixel, or grey and alpha."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to store a volume."""

    name: str
    write: Callable[[Path, AnyArray, Described], str]
    """Write values into an empty folder; return what a user would give to `import`."""
    axes: bool = False
    """Names further axes: t and c."""
    order: bool = False
    """Names axes in any order."""
    units: frozenset[str] = frozenset()
    """Ways to state a unit: `axis` (per axis), `one` (for all)."""
    tags: frozenset[str] = frozenset()
    """Tags that change values: `inverted`, `palette`, `orientation`, `colours`."""
    chunks: bool = False
    """Consists of files or blocks that may be missing."""
    file: bool = False
    """Is one file whose copy may break off."""
    tolerance: int = 0
    """Grey values by which lossy compression may change a pixel."""


def volume(shape: tuple[int, ...] = (6, 24, 40)) -> AnyArray:
    """Return smooth values, which survive lossy compression; no two sections, rows or columns are alike."""
    places = np.ogrid[tuple(slice(n) for n in shape)]
    total = sum(at * step for at, step in zip(places, (11, 7, 3, 2, 1), strict=False))
    return np.asarray(total % 200 + 20, np.uint8) if len(shape) != 3 else np.asarray(total * 0.35 + 20, np.uint8)


def _write_tiff_page(writer: Any, page: AnyArray, described: Described, **options: Any) -> None:
    extra: dict[str, Any] = {"photometric": "minisblack"}
    if described.inverted:
        extra["photometric"] = "miniswhite"
    if described.palette is not None:
        extra = {"photometric": "palette", "colormap": described.palette.T.astype(np.uint16) * 257}
    if described.colours and page.shape[-1] == 2:
        extra = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    elif described.colours:
        extra = {"photometric": "rgb"}
    tags = [(274, 3, 1, described.orientation, True)] if described.orientation != 1 else []
    writer.write(page, **extra, extratags=tags, **options)


def _tiff_pages(folder: Path, values: AnyArray, described: Described) -> str:
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        for page in values:
            _write_tiff_page(writer, page, described, metadata=None)
    return str(folder / "a.tif")


def _tiff_files(folder: Path, values: AnyArray, described: Described) -> str:
    for z, page in enumerate(values):
        with tifffile.TiffWriter(folder / f"s{z}.tif") as writer:
            _write_tiff_page(writer, page, described)
    return str(folder)


def _imagej(folder: Path, values: AnyArray, described: Described) -> str:
    order = sorted(range(values.ndim), key=lambda axis: "tzcyx".index(described.axes[axis]))  # the only one of ImageJ
    metadata: dict[str, Any] = {"axes": "".join(described.axes[axis] for axis in order).upper()}
    options: dict[str, Any] = {}
    if described.lengths:
        escaped = {axis: (n, unit.replace("µ", "\\u00B5")) for axis, (n, unit) in described.lengths.items()}
        (z, z_unit), (y, y_unit), (x, unit) = (escaped[axis] for axis in "zyx")
        metadata |= {"spacing": z, "unit": unit}
        metadata |= {"zunit": z_unit} if z_unit != unit else {}
        metadata |= {"yunit": y_unit} if y_unit != unit else {}
        options["resolution"] = (1 / x, 1 / y)
    tifffile.imwrite(folder / "a.tif", values.transpose(order), imagej=True, metadata=metadata, **options)
    return str(folder / "a.tif")


def _ome_tiff(folder: Path, values: AnyArray, described: Described) -> str:
    metadata: dict[str, Any] = {"axes": described.axes.upper()}
    for axis, (value, unit) in described.lengths.items():
        metadata |= {f"PhysicalSize{axis.upper()}": value, f"PhysicalSize{axis.upper()}Unit": unit}
    tifffile.imwrite(folder / "a.ome.tif", values, ome=True, metadata=metadata, photometric="minisblack")
    return str(folder / "a.ome.tif")


def _with_orientation(content: bytes, described: Described) -> bytes:
    """Insert an EXIF block with the orientation into a PNG or JPEG file."""
    if described.orientation == 1:
        return content
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, described.orientation, 0, 0)
    if content[:2] == b"\xff\xd8":
        body = b"Exif\0\0" + exif
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return content[:33] + chunk + content[33:]


def png_with_palette(values: AnyArray, palette: AnyArray) -> bytes:
    """Return a PNG file of entries of a palette (256, 3)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _png_files(folder: Path, values: AnyArray, described: Described) -> str:
    for z, page in enumerate(values):
        plain = bytes(imagecodecs.png_encode(page)) if described.palette is None else None
        content = plain if plain is not None else png_with_palette(page, np.asarray(described.palette))
        (folder / f"s{z}.png").write_bytes(_with_orientation(content, described))
    return str(folder)


def _jpeg_files(folder: Path, values: AnyArray, described: Described) -> str:
    for z, page in enumerate(values):
        content = bytes(imagecodecs.jpeg_encode(page, level=99))
        (folder / f"s{z}.jpg").write_bytes(_with_orientation(content, described))
    return str(folder)


def _hdf5(folder: Path, values: AnyArray, described: Described) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        chunks = tuple(min(n, 12) for n in values.shape)
        dataset = file.create_dataset("raw", values.shape, values.dtype, chunks=chunks, compression="gzip")
        dataset[...] = values
        for dimension, name in zip(dataset.dims, described.axes, strict=True):
            dimension.label = name
        if described.lengths:
            dataset.attrs["resolution"] = [described.lengths[axis][0] for axis in "zyx"]
            dataset.attrs["units"] = [described.lengths[axis][1] for axis in "zyx"]
    return str(folder / "a.h5")


def _ilastik(folder: Path, values: AnyArray, described: Described) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset("exported_data", data=values)
        dataset.attrs["axistags"] = json.dumps({"axes": [{"key": axis, "typeFlags": 2} for axis in described.axes]})
    return str(folder / "a.h5")


def _zarr(
    folder: Path, values: AnyArray, described: Described, *, zarr_format: Literal[2, 3], sharded: bool = False
) -> str:
    array = zarr.create_array(
        str(folder / "a.zarr"),
        shape=values.shape,
        chunks=tuple(min(n, 12) for n in values.shape),
        shards=tuple(24 if n >= 12 else n for n in values.shape) if sharded else None,
        dtype=values.dtype,
        zarr_format=zarr_format,
        dimension_names=list(described.axes) if zarr_format == 3 else None,
    )
    array[...] = values
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(described.axes)
    if described.lengths:
        array.attrs["voxel_size"] = [described.lengths[axis][0] for axis in "zyx"]
        array.attrs["units"] = [described.lengths[axis][1] for axis in "zyx"]
    return str(folder / "a.zarr")


def _ome_zarr(folder: Path, values: AnyArray, described: Described, *, version: str) -> str:
    zarr_format: Literal[2, 3] = 2 if version == "0.4" else 3
    group = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=zarr_format)
    group.create_array("s0", data=values, chunks=tuple(min(n, 12) for n in values.shape))
    kinds = {"t": "time", "c": "channel"}
    axes: list[dict[str, Any]] = []
    for name in described.axes:
        unit = {"unit": described.lengths[name][1]} if name in described.lengths else {}
        axes.append({"name": name, "type": kinds.get(name, "space"), **unit})
    scale = [described.lengths.get(name, (1.0, ""))[0] for name in described.axes]
    image: dict[str, Any] = {"name": "em", "version": version, "axes": axes}
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if version == "0.6":
        del image["axes"], image["version"]
        image["coordinateSystems"] = [{"name": "other", "axes": axes[::-1]}, {"name": "physical", "axes": axes}]
        offset = {"type": "translation", "translation": [0.5] * len(scale)}
        ends = {"input": {"path": "s0"}, "output": {"name": "physical"}}
        transformations = [{"type": "sequence", **ends, "transformations": [*transformations, offset]}]
    image["datasets"] = [{"path": "s0", "coordinateTransformations": transformations}]
    if version == "0.4":
        group.attrs["multiscales"] = [image]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return str(folder / "a.zarr")


def _ome_zarr_in_zip(folder: Path, values: AnyArray, described: Described) -> str:
    inner = _ome_zarr(folder / "inside", values, described, version="0.5")
    return shutil.make_archive(str(folder / "a.zarr"), "zip", inner)


def _n5(folder: Path, values: AnyArray, described: Described) -> str:
    import tensorstore

    attributes = {"blockSize": [min(n, 12) for n in values.shape[::-1]], "compression": {"type": "gzip"}}
    place = folder / "a.n5" / "em" / "s0"
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(place)}, "metadata": attributes}
    store = tensorstore.open(spec, create=True, dtype=values.dtype.name, shape=values.shape[::-1]).result()
    store[...] = values.T
    stored = json.loads((place / "attributes.json").read_text())
    stored["axes"] = list(described.axes[::-1])
    if described.lengths:
        x_first = "xyz"
        stored["resolution"] = [described.lengths[axis][0] for axis in x_first]
        stored["units"] = [described.lengths[axis][1] for axis in x_first]
    (place / "attributes.json").write_text(json.dumps(stored))
    return str(folder / "a.n5" / "em")


SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 3,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
"""Sharding of a precomputed volume into files of a few chunks."""


def _precomputed(folder: Path, values: AnyArray, described: Described, *, sharded: bool = False) -> str:
    import tensorstore

    channels = values.shape[0] if described.axes == "czyx" else 1
    zyx = values if values.ndim == 4 else values[None]
    scale = {
        "size": list(zyx.shape[:0:-1]),
        "voxel_offset": [100, 0, 7],
        "resolution": [described.lengths.get(axis, (1.0, ""))[0] for axis in "xyz"],
        "encoding": "raw",
        "chunk_size": [12, 12, 4],
        **({"sharding": SHARDING} if sharded else {}),
    }
    image = {"type": "image", "data_type": values.dtype.name, "num_channels": channels}
    place = {"driver": "file", "path": str(folder / "pre")}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": place,
        "multiscale_metadata": image,
        "scale_metadata": scale,
    }
    store = tensorstore.open(spec, create=True).result()
    store[...] = zyx.T
    return str(folder / "pre")


ANY_AXIS = frozenset({"axis", "one"})
FORMATS = (
    Format(
        name="tiff pages",
        write=_tiff_pages,
        tags=frozenset({"inverted", "palette", "orientation", "colours"}),
        file=True,
    ),
    Format(name="tiff files", write=_tiff_files, tags=frozenset({"inverted", "palette", "orientation", "colours"})),
    Format(name="imagej", write=_imagej, axes=True, units=ANY_AXIS, file=True),
    Format(name="ome-tiff", write=_ome_tiff, axes=True, units=ANY_AXIS, file=True),
    Format(name="png files", write=_png_files, tags=frozenset({"palette", "orientation", "colours"})),
    Format(name="jpeg files", write=_jpeg_files, tags=frozenset({"orientation", "colours"}), tolerance=4),
    Format(name="hdf5", write=_hdf5, axes=True, order=True, units=ANY_AXIS, chunks=True, file=True),
    Format(name="ilastik", write=_ilastik, axes=True, order=True),
    Format(
        name="zarr 2",
        write=lambda *a: _zarr(*a, zarr_format=2),
        axes=True,
        order=True,
        units=ANY_AXIS,
        chunks=True,
    ),
    Format(
        name="zarr 3",
        write=lambda *a: _zarr(*a, zarr_format=3),
        axes=True,
        order=True,
        units=ANY_AXIS,
        chunks=True,
    ),
    Format(
        name="zarr 3, sharded",
        write=lambda *a: _zarr(*a, zarr_format=3, sharded=True),
        axes=True,
        order=True,
        units=ANY_AXIS,
        chunks=True,
    ),
    *(
        Format(
            name=f"ome-zarr {version}",
            write=lambda *a, version=version: _ome_zarr(*a, version=version),
            axes=True,
            order=True,
            units=ANY_AXIS,
            chunks=True,
        )
        for version in ("0.4", "0.5", "0.6")
    ),
    Format(name="ome-zarr in a zip file", write=_ome_zarr_in_zip, axes=True, order=True, units=ANY_AXIS),
    Format(name="n5", write=_n5, axes=True, order=True, units=ANY_AXIS, chunks=True),
    Format(name="precomputed", write=_precomputed, units=frozenset({"nm"}), chunks=True),
    Format(
        name="precomputed, sharded",
        write=lambda *a: _precomputed(*a, sharded=True),
        units=frozenset({"nm"}),
        chunks=True,
    ),
)
