"""Files that the viewer's server offers below a name: stored ones, or ones that are made on request.

Zarr arrays are served from storage unchanged, shards included. A volume's group metadata is made here and only its
arrays are passed on, since the stored metadata may lack the pixel size (a plain array), or the user gave another one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ssem_dask.storage import location, ngff
from ssem_dask.storage.volume import Volume


class ServedFiles(Protocol):
    """Files below one name."""

    def size(self, path: str) -> int:
        """Return the number of bytes of a file; raise FileNotFoundError if there is none."""
        ...

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of a file; raise FileNotFoundError if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """Files below a URL, any that fsspec knows; on a local disk only those below `root`, links resolved."""

    url: str
    root: str
    """URL of the volume or array as a whole: links within it may be followed."""

    def size(self, path: str) -> int:
        """See `ServedFiles.size`."""
        size = location.file_size(self._confined(path))
        if size is None:
            raise FileNotFoundError(path)
        return size

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """See `ServedFiles.read`."""
        return location.read_range(self._confined(path), start=start, stop=stop)

    def _confined(self, path: str) -> str:
        """Return the URL of a file; FileNotFoundError if a link leads out of the root."""
        return location.resolve_below(self.root, location.join(self.url, path))


@dataclass(frozen=True, slots=True)
class VirtualFiles:
    """Files in memory, files that are made on request, and folders."""

    files: Mapping[str, bytes]
    folders: Mapping[str, ServedFiles]
    make: Callable[[str], bytes] | None = None
    """Function that returns the content of any other path; FileNotFoundError if there is none."""

    def size(self, path: str) -> int:
        """See `ServedFiles.size`."""
        target = self._folder_of(path)
        return target[0].size(target[1]) if target else len(self._content(path))

    def read(self, path: str, *, start: int, stop: int) -> bytes:
        """See `ServedFiles.read`."""
        target = self._folder_of(path)
        return target[0].read(target[1], start=start, stop=stop) if target else self._content(path)[start:stop]

    def _folder_of(self, path: str) -> tuple[ServedFiles, str] | None:
        """Return the folder that holds a path, and the path within it."""
        name, _, rest = path.partition("/")
        return (self.folders[name], rest) if name in self.folders else None

    def _content(self, path: str) -> bytes:
        if path in self.files:
            return self.files[path]
        if self.make is None:
            raise FileNotFoundError(path)
        return self.make(path)


def serve_volume(volume: Volume) -> VirtualFiles:
    """Return an image group over the arrays of any volume that this package reads, with the volume's pixel size."""
    attributes = ngff.image_attributes(
        ngff.ImageMetadata(
            name="source",
            pixel_size=volume.info.pixel_size,
            section_thickness=volume.info.section_thickness,
            mips=len(volume.mips),
        )
    )
    folders: dict[str, ServedFiles] = {
        str(mip): StoredFiles(url, root=volume.url) for mip, url in zip(volume.mips, volume.level_urls, strict=True)
    }
    return VirtualFiles(group_files(attributes, zarr_format=volume.zarr_format), folders)


def group_files(attributes: dict[str, Any], *, zarr_format: int) -> dict[str, bytes]:
    """Return the metadata files of an image group, as OME-Zarr 0.5 (Zarr v3) or 0.4 (v2)."""
    if zarr_format == 3:
        return {"zarr.json": _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})}
    multiscales = [{**image, "version": "0.4"} for image in attributes["ome"]["multiscales"]]
    return {".zgroup": _json({"zarr_format": 2}), ".zattrs": _json({"multiscales": multiscales})}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
