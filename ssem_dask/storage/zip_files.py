"""Zip files as folders: `volume.zarr.zip/0` is the array `0` in that file. They are only read.

The URL schemes of fsspec for this (`zip://0::volume.zarr.zip`) are turned into such paths, so that names can be
appended to them as to any other location.
"""

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from ssem_dask.errors import SourceError
from ssem_dask.storage.local_files import with_home

_SUFFIXES = (".zip", ".ozx")
"""Suffixes of zip files; the second is that of OME-Zarr in one file (RFC 9)."""


def without_zip_protocol(url: str) -> str:
    """Return `OUTER.zip/INNER` for `zip://INNER::OUTER.zip`; any other URL unchanged."""
    if not url.startswith("zip://") or "::" not in url:
        return url
    inner, _, outer = url.removeprefix("zip://").partition("::")
    outer = outer.removeprefix("file://")
    return f"{outer.rstrip('/')}/{inner.strip('/')}".rstrip("/")


def split_zip(url: str) -> tuple[str, str] | None:
    """Return the URL of the zip file that `url` leads into, and the path inside it; None if there is none.

    A local folder may have the suffix too, and is none. An object store has no folders.
    """
    if not any(suffix in url.lower() for suffix in _SUFFIXES):
        return None
    parts = url.removeprefix("file://").split("/")
    for number, part in enumerate(parts, start=1):
        outer = "/".join(parts[:number])
        if part.lower().endswith(_SUFFIXES) and ("://" in outer or with_home(Path(outer)).is_file()):
            return outer, "/".join(parts[number:]).strip("/")
    return None


def zip_file_system(outer: str, options: dict[str, Any]) -> Any:
    """Return the file system inside a zip file.

    Args:
        outer: path or URL of the zip file.
        options: of the file system that holds it.
    """
    if "://" in outer:
        return fsspec.filesystem("zip", fo=outer, target_options=options)
    path = with_home(Path(outer))
    stat = path.stat()
    return _opened(str(path.absolute()), stat.st_mtime_ns, stat.st_size)


def asynchronous(files: Any) -> Any:
    """Return a file system as Zarr needs it."""
    return AsyncFileSystemWrapper(files, asynchronous=True)


@lru_cache(maxsize=8)
def _opened(path: str, changed: int, size: int) -> Any:
    """Open a zip file; its directory, which may be long, is read again only if the file has changed."""
    del changed, size
    try:
        return fsspec.filesystem("zip", fo=path, skip_instance_cache=True)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path}: is no zip file, or its copy broke off ({error}); copy it again.") from error
