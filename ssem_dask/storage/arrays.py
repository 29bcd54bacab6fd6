"""Layout, creation and opening of Zarr v3 arrays.

Chunks are compressed by zstd (level 3), or those of the aligned volume not at all, with a crc32c checksum; a shard is
one file of many chunks. The *write unit* is the shard of a sharded array, and the chunk of any other. No two tasks may
ever write into the same unit, because a partial write reads, changes and rewrites the whole file.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import zarr
import zarr.errors
from numpy.typing import DTypeLike
from pydantic import TypeAdapter
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore, StorePath

from ssem_dask.errors import ContentError, LayoutError, OutputError, PlanError, SourceError, SsemDaskError
from ssem_dask.storage import location
from ssem_dask.storage.bounded_codecs import bounded
from ssem_dask.storage.codec_pipeline import fused_codecs
from ssem_dask.storage.fence import confirm_fence
from ssem_dask.storage.untrusted import JSON_OBJECT, interpreting, text_of

ZarrArray: TypeAlias = zarr.Array[Any]
Compression: TypeAlias = Literal["zstd", "none"]
_COMPRESSORS = {"zstd": (ZstdCodec(level=3), Crc32cCodec()), "none": (Crc32cCodec(),)}
_FORMAT: TypeAdapter[int] = TypeAdapter(Literal[3])
_PICKLE = "pickle"
_NO_NODE = (
    FileNotFoundError,
    zarr.errors.ContainsArrayError,
    zarr.errors.ContainsGroupError,
    zarr.errors.NodeTypeValidationError,
)
"""Errors of zarr about a node that is absent, or of the other kind."""
_METADATA = ("zarr.json", ".zarray", ".zgroup")


def create_array(
    url: str,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    axes: tuple[str, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    fill_value: float,
    attributes: dict[str, Any],
    compression: Compression = "zstd",
) -> ZarrArray:
    """Create an array, and the groups between it and the nearest group above it.

    An existing array of the same layout and attributes is opened unchanged, so that a run that is resumed loses
    nothing.

    Args:
        url: of the array; parts of its path up to the nearest group or `*.zarr` folder become groups.
        shape: extent along `axes`.
        dtype: any numpy dtype.
        axes: one name per axis, for example ("z", "y", "x").
        chunks: extent of a chunk.
        shards: extent of a shard, a multiple of `chunks`; None for one file per chunk.
        fill_value: value of chunks that were never written.
        attributes: JSON.
        compression: of the chunks.

    Raises:
        PlanError: the shards are not made of whole chunks.
        OutputError: something else is there, or the location cannot be written.
    """
    if shards is not None and any(s % c for s, c in zip(shards, chunks, strict=True)):
        raise PlanError(f"{url}: shards {shards} are not made of whole chunks {chunks}; give a multiple on every axis.")
    with location.writing(url), fused_codecs():
        existing = _open_or_none(url)
        if existing is not None:
            layout: dict[str, Any] = {"shape": shape, "dtype": np.dtype(dtype), "chunks": chunks, "shards": shards}
            layout |= {"compression": compression, "attributes": attributes}
            _refuse_other_layout(existing, url, layout)
            return existing
        confirm_fence()
        location.delete_removed(url)
        _make_groups_above(url)
        return zarr.create_array(
            location.open_store(url, read_only=False),
            shape=shape,
            dtype=np.dtype(dtype),
            chunks=chunks,
            shards=shards,
            compressors=_COMPRESSORS[compression],
            fill_value=fill_value,
            attributes=attributes,
            dimension_names=axes,
            zarr_format=3,
        )


def planned_array(
    url: str,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    axes: tuple[str, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    fill_value: float,
    attributes: dict[str, Any],
    compression: Compression = "zstd",
) -> ZarrArray:
    """Return the array that `create_array` makes of the same arguments, whatever is stored; read nothing."""
    with fused_codecs():
        made = zarr.create_array(
            MemoryStore(),
            shape=shape,
            dtype=np.dtype(dtype),
            chunks=chunks,
            shards=shards,
            compressors=_COMPRESSORS[compression],
            fill_value=fill_value,
            attributes=attributes,
            dimension_names=axes,
            zarr_format=3,
        )
        place = StorePath(location.open_store(url, read_only=True))
        return bounded(zarr.Array(zarr.AsyncArray(metadata=made.metadata, store_path=place)), where=url)


def open_array(url: str, *, mode: Literal["r", "r+"]) -> ZarrArray:
    """Open an array of Zarr v2 or v3.

    Raises:
        SourceError: no array is there, the location cannot be reached, or the array holds pickled objects.
    """
    with location.reading(url), fused_codecs():
        content = _metadata_bytes(url)
        try:
            with _interpreting_metadata(url):
                array = _open_node(url, content, mode=mode)
                _refuse_objects(url, array)
                return bounded(array, where=url)
        except _NO_NODE as error:
            raise SourceError(f"{url}: no Zarr array is there; check the path.") from error


def create_group(url: str, *, attributes: dict[str, Any]) -> None:
    """Create a group, and those between it and the nearest above it; merge `attributes` into those it has."""
    with location.writing(url):
        confirm_fence()
        _make_groups_above(url)
        try:
            # Attributes are written with the group: a process killed between the two would leave a group without them.
            with location.as_output_error(), _interpreting_metadata(url):
                group = zarr.open_group(
                    location.open_store(url, read_only=False), mode="a", zarr_format=3, attributes=attributes
                )
        except _NO_NODE as error:
            raise OutputError(f"{url}: a Zarr array is there where a group is to be written; delete it.") from error
        if any(name not in group.attrs or group.attrs[name] != value for name, value in attributes.items()):
            group.update_attributes(attributes)


def group_attributes(url: str) -> dict[str, Any] | None:
    """Return the attributes of the group (Zarr v2 or v3) at `url`; None if there is no group."""
    with location.reading(url):
        content = _metadata_bytes(url)
        try:
            with _interpreting_metadata(url):
                if content is not None:
                    attributes = _metadata_v3(url, content, node_type="group").get("attributes")
                    return {} if attributes is None else JSON_OBJECT.validate_python(attributes)
                store = location.open_store(url, read_only=True)
                return dict(zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False).attrs)
        except _NO_NODE:
            return None


@contextmanager
def reading_chunks(what: str) -> Iterator[None]:
    """Turn what codecs raise about damaged bytes (a wrong checksum, a torn file) into a `SourceError`."""
    try:
        yield
    except (ValueError, RuntimeError, EOFError, zlib.error) as error:
        if isinstance(error, SsemDaskError) or "memory" in str(error):
            raise
        raise SourceError(
            f"{what}: a chunk is damaged ({text_of(error)}); restore it, then run the command again."
        ) from error


def write_unit(array: ZarrArray) -> tuple[int, ...]:
    """Return the extent of what one task must write as a whole: a shard, or a chunk of an array without shards."""
    return tuple(array.shards or array.chunks)


def covers_write_units(array: ZarrArray, index: Sequence[slice | int]) -> bool:
    """Return whether `index` covers whole write units; units are clipped at the end of the array.

    Args:
        array: any array.
        index: one slice without a step, or one integer, per axis.
    """
    for part, extent, unit in zip(index, array.shape, write_unit(array), strict=True):
        start, stop = (part, part + 1) if isinstance(part, int) else part.indices(extent)[:2]
        if start % unit or (stop % unit and stop != extent) or stop <= start:
            return False
    return True


def chunk_index(name: str) -> tuple[int, ...]:
    """Parse the index in the name of a chunk's or shard's file, in any encoding of Zarr v2 and v3; () for others."""
    parts = name.replace(".", "/").removeprefix("c/").split("/")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def fingerprints_along(url: str, array: ZarrArray, *, axis: int = 0) -> dict[tuple[int, int], str]:
    """Return a fingerprint of each range (start, stop) along an axis whose values share files.

    Costs one listing. Empty if the location cannot be listed, as behind plain http.

    Args:
        url: of the array.
        array: the array.
        axis: number of the axis.
    """
    files: dict[tuple[int, int], list[str]] = {}
    depth = write_unit(array)[axis]
    for name, fingerprint in sorted(location.file_fingerprints(url).items()):
        index = chunk_index(name)
        if len(index) == len(array.shape):
            start = index[axis] * depth
            files.setdefault((start, min(start + depth, array.shape[axis])), []).append(f"{name} {fingerprint}")
    return {span: hashlib.sha256("\n".join(lines).encode()).hexdigest() for span, lines in files.items()}


def axis_names(array: ZarrArray) -> tuple[str, ...] | None:
    """Return the names of an array's axes: those of Zarr v3, or the attribute of xarray; None if it has none."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or any(name is None for name in names):
        return None
    return tuple(str(name) for name in names)


def is_node(url: str) -> bool:
    """Return whether there is a Zarr array or group (v2 or v3) at `url`."""
    return any(location.exists(location.join(url, name)) for name in _METADATA)


def _refuse_objects(url: str, array: ZarrArray) -> None:
    """Raise SourceError if values are objects or a codec would unpickle them: unpickling runs code of the file."""
    metadata = array.metadata
    codecs = [*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None)]
    pickled = any(getattr(codec, "codec_id", "") == _PICKLE for codec in codecs)
    if pickled or array.dtype.kind not in "biufc":
        raise SourceError(
            f"{url}: holds {'pickled objects' if pickled else f'values of type {array.dtype}'}, which are never read; "
            "export it as plain numbers."
        )


@contextmanager
def _interpreting_metadata(url: str) -> Iterator[None]:
    """Turn any error of interpreting Zarr metadata into a `ContentError`, except those about a node that is absent."""
    try:
        with interpreting(url, what="its Zarr metadata"):
            yield
    except ContentError as error:
        if isinstance(error.__cause__, _NO_NODE):
            raise error.__cause__ from None
        raise


def _open_node(url: str, content: bytes | None, *, mode: Literal["r", "r+"]) -> ZarrArray:
    """Open an array, by one request if it is of Zarr v3; zarr would ask for the files of both formats, at once."""
    store = location.open_store(url, read_only=mode == "r")
    if content is None:
        return zarr.open_array(store, mode=mode, zarr_format=2)
    return zarr.Array(zarr.AsyncArray.from_dict(StorePath(store), _metadata_v3(url, content, node_type="array")))


def _metadata_bytes(url: str) -> bytes | None:
    """Read the metadata of a node of Zarr v3; None if there is no such file. Errors are those of the store."""
    try:
        return location.read_bytes(location.join(url, "zarr.json"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _metadata_v3(url: str, content: bytes, *, node_type: str) -> dict[str, Any]:
    """Interpret the metadata of a node of Zarr v3.

    Raises:
        NodeTypeValidationError: the node is of another type.
    """
    where = location.join(url, "zarr.json")
    document = JSON_OBJECT.validate_python(json.loads(content))  # pydantic refuses NaN
    _FORMAT.validate_python(document.get("zarr_format"))
    if document.get("node_type") != node_type:
        raise zarr.errors.NodeTypeValidationError(f"{where}: describes no {node_type}")
    return document


def _make_groups_above(url: str) -> None:
    if url.rstrip("/").endswith(".zarr"):
        return  # the top of its own hierarchy
    missing: list[str] = []
    above = location.parent(url)
    while above is not None:
        if is_node(above):
            break
        missing.append(above)
        if above.endswith(".zarr"):
            break
        above = location.parent(above)
    else:
        return  # nothing above belongs to a hierarchy: the node is alone
    for group in reversed(missing):
        zarr.open_group(location.open_store(group, read_only=False), mode="a", zarr_format=3)


def _open_or_none(url: str) -> ZarrArray | None:
    if not is_node(url):
        return None
    content = _metadata_bytes(url)
    try:
        with _interpreting_metadata(url):
            return bounded(_open_node(url, content, mode="r+"), where=url)
    except (SourceError, *_NO_NODE) as error:
        with contextlib.suppress(SourceError):
            if group_attributes(url) is not None:
                raise OutputError(
                    f"{url}: a Zarr group is there where an array is to be written; delete it."
                ) from error
        raise LayoutError(url, f"{url}: its Zarr metadata cannot be read ({text_of(error)}); delete it.") from error


def _refuse_other_layout(array: ZarrArray, url: str, wanted: dict[str, Any]) -> None:
    """Raise LayoutError if an existing array differs from what is to be created.

    Args:
        array: existing array.
        url: of the array, for the message.
        wanted: shape, dtype, chunks, shards, compression and attributes.
    """
    wanted = {**wanted, "attributes": json.loads(json.dumps(wanted["attributes"]))}  # tuples read back as lists
    for name, value in wanted.items():
        got: Any = dict(array.attrs) if name == "attributes" else getattr(array, name, None)
        if name == "compression":
            got = "none" if all(isinstance(codec, Crc32cCodec) for codec in array.compressors) else "zstd"
        if got != value:
            raise LayoutError(
                url,
                f"{url}: an array with {name} {got} is there, but {value} is to be written; "
                "delete it or choose another output.",
            )
