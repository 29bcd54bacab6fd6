"""What the viewer's server holds: a name for each thing, and the bytes behind the paths below it.

Zarr arrays are served as they lie on disk, shards and all. Where a group's metadata must say more than it does (a plain
array that knows no pixel size, or a size that the user gave), its metadata is made up here and only the arrays are
passed on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ssem_dask.storage import location, ngff
from ssem_dask.storage.volume import Volume


class Served(Protocol):
    """Files below one name."""

    def size(self, path: str) -> int:
        """Bytes of a file; FileNotFoundError where there is none."""
        ...

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """Some bytes of a file; FileNotFoundError where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies below a URL, any that fsspec knows."""

    url: str

    def size(self, path: str) -> int:
        """As `Served.size`."""
        size = location.file_size(location.join(self.url, path))
        if size is None:
            raise FileNotFoundError(path)
        return size

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """As `Served.read`."""
        return location.read_range(location.join(self.url, path), start=start, stop=stop)


@dataclass(frozen=True, slots=True)
class Made:
    """Files that are made when they are asked for, and folders below them."""

    files: Mapping[str, bytes]
    folders: Mapping[str, Served]
    make: Callable[[str], bytes] | None = None
    """Content of any other path; FileNotFoundError where there is none."""

    def size(self, path: str) -> int:
        """As `Served.size`."""
        found = self._below(path)
        return found[0].size(found[1]) if found else len(self._content(path))

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """As `Served.read`."""
        found = self._below(path)
        return found[0].read(found[1], start=start, stop=stop) if found else self._content(path)[start:stop]

    def _below(self, path: str) -> tuple[Served, str] | None:
        name, _, rest = path.partition("/")
        return (self.folders[name], rest) if name in self.folders else None

    def _content(self, path: str) -> bytes:
        if path in self.files:
            return self.files[path]
        if self.make is None:
            raise FileNotFoundError(path)
        return self.make(path)


def serve_volume(volume: Volume) -> Made:
    """An image group over the arrays of any volume that this package reads, with the sizes that it is used with."""
    attributes = ngff.image_attributes(
        name="source",
        pixel_size=volume.info.pixel_size,
        section_thickness=volume.info.section_thickness,
        mips=len(volume.mips),
    )
    folders: dict[str, Served] = {
        str(mip): Folder(url) for mip, url in zip(volume.mips, volume.level_urls, strict=True)
    }
    return Made(group_files(attributes, zarr_format=volume.zarr_format), folders)


def group_files(attributes: dict[str, Any], *, zarr_format: int) -> dict[str, bytes]:
    """Metadata files of an image group, as OME-Zarr 0.5 (Zarr v3) or 0.4 (v2)."""
    if zarr_format == 3:
        return {"zarr.json": _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})}
    multiscales = [{**image, "version": "0.4"} for image in attributes["ome"]["multiscales"]]
    return {".zgroup": _json({"zarr_format": 2}), ".zattrs": _json({"multiscales": multiscales})}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
