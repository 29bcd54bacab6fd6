"""N5 and neuroglancer-precomputed, read by TensorStore, an optional package.

Both store x before y before z; this module transposes them (C1). The finest level of a multiscale volume is read.
"""

import math
import re
import shlex
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
from ssem_dask.storage.formats.n5_groups import lengths_beside, n5_attributes, n5_dataset
from ssem_dask.storage.formats.precomputed_chunks import ChunkGuard
from ssem_dask.storage.formats.shard_index import precomputed_shards
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo, decoding, native_dtype
from ssem_dask.storage.lengths import Length, sizes_of
from ssem_dask.storage.tensorstores import kvstore_spec, tensorstore
from ssem_dask.storage.untrusted import JSON_OBJECT, interpreting, read_hint
from ssem_dask.types import AnyArray

_PRECOMPUTED = "info"
_ENCODINGS = ("raw", "png", "jpeg", "compressed_segmentation")
_BOX = re.compile(r"(-?\d+)--?\d+_(-?\d+)--?\d+_(-?\d+)--?\d+(?:\.gz|\.br)?")
_COMPRESSED = (".gz", ".br")


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
            }
            with interpreting(url, what="its file info"):
                spec["scale_index"] = index = _finest_scale(metadata)
                scale = metadata["scales"][index]
                notes = _missing_boxes(place, scale)
                attributes = {"resolution": scale.get("resolution")}
                _refuse_encoding(url, scale)
                guard: BlockGuard | ChunkGuard = ChunkGuard(place, metadata, scale)
            names: tuple[str, ...] | None = ("c", "z", "y", "x")
            beside: dict[str, Length] = {}
        else:
            dataset = n5_dataset(place) or place
            attributes = n5_attributes(dataset)
            spec = {"driver": "n5", "kvstore": kvstore_spec(dataset)}
            names, beside = None, lengths_beside(dataset)
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
            dtype=native_dtype(array.dtype.numpy_dtype),
            sizes=sizes_of(beside or parsed.lengths),
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


def _finest_scale(metadata: dict[str, Any]) -> int:
    """Return the number of the scale with most voxels: most writers begin with it, but the format has no order."""
    sizes = [math.prod(scale["size"]) for scale in metadata["scales"]]
    return sizes.index(max(sizes))


def _refuse_encoding(url: str, scale: dict[str, Any]) -> None:
    encoding = scale.get("encoding")
    if encoding is not None and encoding not in _ENCODINGS:
        raise SourceError(
            f"{url}: its chunks are encoded as {encoding}, which cannot be decoded here; export it with one of "
            f"{', '.join(_ENCODINGS)}."
        )


def _plain(url: str) -> str:
    return url.removeprefix("precomputed://")


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
    compressed = [name for name in (stored or {}).values() if name.endswith(_COMPRESSED)]
    if compressed and location.is_local(url):
        command = f"gunzip -r {shlex.quote(location.join(url, scale['key']))}"
        raise SourceError(
            f"{url}: its chunks are compressed files ({compressed[0]}), as CloudVolume stores them on disks, which are "
            f"not read; decompress them first, for example with `{command}`."
        )
    return () if stored is None else missing_note(url, stored=len(stored), expected=math.prod(grid))


def _read_json(url: str) -> dict[str, Any] | None:
    try:
        return read_hint(url, JSON_OBJECT)
    except PermissionError:
        if location.is_local(url):
            raise  # else the folder would seem to be of another format
    except OSError:
        pass  # this only finds out the format, and opening the volume reports errors
    return None
