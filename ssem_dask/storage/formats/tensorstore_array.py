"""N5 and neuroglancer-precomputed, read by TensorStore, an optional package.

Both store x before y before z; this module transposes them (C1). The finest level of a multiscale volume is read.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import unnamed_channels
from ssem_dask.storage.formats.array_attributes import ArrayAttributes, parse_array_attributes
from ssem_dask.storage.formats.axes import order_axes
from ssem_dask.storage.formats.chunk_count import grid_of, missing_note, stored_chunks
from ssem_dask.storage.formats.n5_blocks import BlockGuard
from ssem_dask.storage.formats.precomputed_chunks import ChunkGuard
from ssem_dask.storage.formats.shard_index import precomputed_shards
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo, decoding
from ssem_dask.storage.lengths import sizes_of
from ssem_dask.storage.tensorstores import kvstore_spec, tensorstore
from ssem_dask.storage.untrusted import JSON_OBJECT, interpreting, read_hint
from ssem_dask.types import AnyArray

_N5, _PRECOMPUTED = "attributes.json", "info"
_ENCODINGS = ("raw", "png", "jpeg", "compressed_segmentation")
_FINEST = "s0"  # of a multiscale N5 group
_MOST_DATASETS = 100
_BOX = re.compile(r"(-?\d+)--?\d+_(-?\d+)--?\d+_(-?\d+)--?\d+(?:\.gz|\.br)?")
_SIZE_KEYS = ("pixelResolution", "resolution", "transform", "units", "axes", "dimension_units", "voxel_size")


def is_n5(url: str) -> bool:
    """Return whether there is an N5 dataset, or a group of scales `s0`, `s1`, …, at `url`."""
    return _n5_dataset(url) is not None


def n5_datasets(url: str) -> list[str]:
    """Return the paths of the datasets below a local N5 container, without coarser levels; [] if there is none."""
    if not location.is_local(url) or "n5" not in (_read_json(location.join(url, _N5)) or {}):
        return []
    found: list[str] = []
    below = [""]
    while below and len(found) < _MOST_DATASETS:
        path = below.pop()
        place = location.join(url, path)
        if _n5_dataset(place) is not None:
            found.append(path)
            continue
        names = [name for name in location.list_names(place) if not name.isdecimal() and "." not in name]
        below += [f"{path}/{name}".lstrip("/") for name in names]
    return sorted(found)


def is_precomputed(url: str) -> bool:
    """Return whether there is a neuroglancer-precomputed volume at `url`, which may begin with `precomputed://`."""
    return "scales" in (_read_json(location.join(_plain(url), _PRECOMPUTED)) or {})


class TensorStoreSource:
    """One N5 dataset or precomputed volume."""

    def __init__(self, url: str, options: ReadOptions) -> None:
        """Open the volume.

        Raises:
            SourceError: TensorStore is not installed, cannot reach the location, or the axes do not make one volume.
        """
        self._url = url
        place = _plain(url)
        package = tensorstore(url)
        if is_precomputed(url):
            metadata = _read_json(location.join(place, _PRECOMPUTED)) or {}
            spec: dict[str, Any] = {
                "driver": "neuroglancer_precomputed",
                "kvstore": kvstore_spec(place),
                "scale_index": 0,
            }
            with interpreting(url, what="its file info"):
                scale = metadata["scales"][0]
                notes = _missing_boxes(place, scale)
                attributes = {"resolution": scale.get("resolution")}
                _refuse_encoding(url, scale)
                guard: BlockGuard | ChunkGuard = ChunkGuard(place, metadata, scale)
            names: tuple[str, ...] | None = ("c", "z", "y", "x")
        else:
            dataset = _n5_dataset(place) or place
            attributes = _n5_attributes(dataset)
            spec = {"driver": "n5", "kvstore": kvstore_spec(dataset)}
            names = None
            with interpreting(url, what="its file attributes.json"):
                notes = _missing_blocks(dataset, attributes)
                guard = BlockGuard(dataset, attributes)
        with decoding(url):
            # TensorStore reads metadata alone until values are asked for.
            array = package.open(spec, read=True, open=True).result()
        with interpreting(url, what="its metadata"):
            parsed: ArrayAttributes = parse_array_attributes(attributes, ndim=array.rank, x_first=True, names=names)
        # A precomputed volume may begin anywhere.
        self._array = _Readable(array.T[package.d[:].translate_to[0]], guard)
        self._order = order_axes(url, self._array.shape, names=parsed.names, channel=options.channel, time=options.time)
        with decoding(url):
            self._order.check_channels(self._array)
        self.info = SourceInfo(
            shape=self._order.shape,
            dtype=np.dtype(array.dtype.numpy_dtype).newbyteorder("="),
            sizes=sizes_of(parsed.lengths),
            channels=unnamed_channels(self._order.stored_channels),
            notes=(*self._order.notes, *notes),
        )

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            values = self._order.read(self._array, z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)
        return np.ascontiguousarray(values, dtype=self.info.dtype)

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """See `Source.read_channels`."""
        band = {"z_start": z_start, "z_stop": z_stop, "y_start": y_start, "y_stop": y_stop}
        with decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            found = self._order.read_channels(self._array, numbers, **band)
            return [np.ascontiguousarray(values, dtype=self.info.dtype) for values in found]

    def close(self) -> None:
        """Do nothing: no file is open."""


class _Readable:
    """TensorStore array that yields values when it is sliced, as arrays of other formats do."""

    def __init__(self, array: Any, guard: BlockGuard | ChunkGuard) -> None:
        self._array, self._guard = array, guard
        self.shape: tuple[int, ...] = tuple(array.shape)

    def __getitem__(self, index: tuple[slice | int, ...]) -> AnyArray:
        # Axes are turned round: (c, z, y, x) of precomputed, (z, y, x) of N5.
        spatial = index[1:] if isinstance(self._guard, ChunkGuard) else index
        self._guard.look_at(spatial[::-1])
        return np.asarray(self._array[index].read().result())


def _refuse_encoding(url: str, scale: dict[str, Any]) -> None:
    encoding = scale.get("encoding")
    if encoding is not None and encoding not in _ENCODINGS:
        raise SourceError(
            f"{url}: its chunks are encoded as {encoding}, which cannot be decoded here; export it with one of "
            f"{', '.join(_ENCODINGS)}."
        )


def _plain(url: str) -> str:
    return url.removeprefix("precomputed://")


def _n5_dataset(url: str) -> str | None:
    """Return the URL of the dataset at `url`, or of the finest level in it."""
    for place in (url, location.join(url, _FINEST)):
        if "dimensions" in (_read_json(location.join(place, _N5)) or {}):
            return place
    return None


def _n5_attributes(dataset: str) -> dict[str, Any]:
    """Return the attributes of a dataset; those of its group apply to it if it is the finest level and has none."""
    attributes = _read_json(location.join(dataset, _N5)) or {}
    above = location.parent(dataset)
    if (
        above is None
        or dataset.rstrip("/").rpartition("/")[2] != _FINEST
        or any(key in attributes for key in _SIZE_KEYS)
    ):
        return attributes
    group = _read_json(location.join(above, _N5)) or {}
    inherited = {key: group[key] for key in _SIZE_KEYS if key in group}
    for dataset_record in (group.get("multiscales") or [{}])[0].get("datasets", []):
        if dataset_record.get("path") == _FINEST and "transform" in dataset_record:
            inherited["transform"] = dataset_record["transform"]
    return {**inherited, **attributes}


def _missing_blocks(dataset: str, attributes: dict[str, Any]) -> tuple[str, ...]:
    grid = grid_of(attributes["dimensions"], attributes.get("blockSize", attributes["dimensions"]))

    def index(name: str) -> tuple[int, ...]:
        parts = name.split("/")
        return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()

    stored = stored_chunks(dataset, grid=grid, index=index)
    return () if stored is None else missing_note(dataset, stored=len(stored), expected=math.prod(grid), unit="block")


def _missing_boxes(url: str, scale: dict[str, Any]) -> tuple[str, ...]:
    """Return a remark about chunks that are missing, as files or inside shards; SourceError if a shard is cut off."""
    if not scale.get("chunk_sizes"):
        return ()
    if scale.get("sharding"):
        grid = grid_of(scale["size"], scale["chunk_sizes"][0])
        inside = precomputed_shards(location.join(url, scale["key"]), scale["sharding"], grid=grid)
        return () if inside is None else missing_note(url, stored=inside.stored, expected=inside.expected)
    offset = scale.get("voxel_offset", [0, 0, 0])
    chunk = scale["chunk_sizes"][0]
    grid = grid_of(scale["size"], chunk)

    def index(name: str) -> tuple[int, ...]:
        match = _BOX.fullmatch(name)
        if match is None:
            return ()
        return tuple((int(at) - start) // n for at, start, n in zip(match.groups(), offset, chunk, strict=True))

    stored = stored_chunks(location.join(url, scale["key"]), grid=grid, index=index)
    return () if stored is None else missing_note(url, stored=len(stored), expected=math.prod(grid))


def _read_json(url: str) -> dict[str, Any] | None:
    # A file that cannot be read counts as none: this only finds out the format, and opening the volume reports errors.
    with contextlib.suppress(OSError):
        return read_hint(url, JSON_OBJECT)
    return None
