"""Where locations are, so that nothing is written into what is read, and nothing that is read is deleted.

Two URLs may name one place: by a symlink, a mount, `..`, slashes, `file://` or another name of a protocol. Law: if
`relation` returns None, writing below one of the two, or deleting it, leaves the other unchanged. Where the names do
not decide it (keys of a store that differ in slashes alone), the places count as one.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ssem_dask.errors import OutputError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import HDF5_NAME, IMAGE_SUFFIXES
from ssem_dask.storage.lease import LEASE_PATH

_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_NODE_FILES = ("zarr.json", ".zarray", ".zgroup", "attributes.json", "info")
"""Files in a folder that make it a volume, not a folder of images."""


class Relation(StrEnum):
    """How a place is related to another one."""

    SAME = "same"
    INSIDE = "inside"
    """It is somewhere below the other place."""
    AROUND = "around"
    """The other place is somewhere below it."""


@dataclass(frozen=True, slots=True)
class _Place:
    root: str
    """Empty for a local path; else protocol and host or bucket."""
    parts: tuple[str, ...]

    def holds(self, other: "_Place") -> bool:
        """Return whether the other place is this one, or below it."""
        if self.root != other.root:
            return False
        if other.parts[: len(self.parts)] == self.parts:
            return True
        return not self.root and _is_ancestor(Path(*self.parts), Path(*other.parts))


def relation(place: str, other: str) -> Relation | None:
    """Return how the place of one URL is related to that of another; None if they have nothing in common."""
    one, two = _place(place), _place(other)
    around, inside = one.holds(two), two.holds(one)
    if around and inside:
        return Relation.SAME
    return Relation.AROUND if around else Relation.INSIDE if inside else None


def refuse_overlap(destination: str, read: Mapping[str, str | None]) -> None:
    """Raise OutputError if a command would write into what it reads, or around it.

    Args:
        destination: URL that is written.
        read: URLs that are read, by their names in the message; None: there is none.
    """
    for name, url in read.items():
        related = None if url is None else _strictest(destination, url)
        if related is Relation.SAME:
            raise OutputError(f"{destination}: is {name} itself; choose another destination.")
        if related is Relation.AROUND:
            raise OutputError(
                f"{destination}: {name} {url} is inside it, and would be overwritten; choose another destination."
            )
        if related is Relation.INSIDE:
            raise OutputError(f"{destination}: is inside {name} {url}, which is only read; choose another destination.")


def is_occupied(url: str) -> bool:
    """Return whether something is there, other than an empty folder or what is left of a command that barely began."""
    if not location.exists(url):
        return False
    if location.is_local(url) and not location.local_path(url).is_dir():
        return True
    names = location.list_names(url)
    if names == [LEASE_PATH[0]]:
        return not all(map(is_lease, location.list_files(location.join(url, LEASE_PATH[0]))))
    return bool(names)


def is_lease(path: str) -> bool:
    """Return whether a path in the folder `ledger` belongs to the lease."""
    return path.split("/")[0] == LEASE_PATH[1]


def _strictest(destination: str, url: str) -> Relation | None:
    """Return how a destination is related to a source, or to any of the files that are read of it."""
    hdf5 = HDF5_NAME.match(url)
    if hdf5:
        return relation(destination, hdf5["file"])
    if location.is_pattern(url):
        files = location.glob_urls(url)
    elif location.is_local(url) and _is_image_folder(location.local_path(url)):
        if relation(destination, url) is Relation.SAME:
            return Relation.SAME
        # A volume may be written beside its images, `import . volume.zarr`: only the images themselves are read.
        files = [location.join(url, name) for name in location.list_names(url) if _is_image(name)]
        target = _place(destination)
        if target.root:
            return None  # files of this machine are not in a store
        if not location.exists(destination):
            # A destination that does not exist holds no file. It is inside one by its name alone, or through a link.
            above = _place(url).parts
            named = target.parts[: len(above) + 1]
            files = [
                file
                for file in files
                if location.local_path(file).is_symlink() or (*above, file.rpartition("/")[2]) == named
            ]
    else:
        return relation(destination, url)
    return next((related for related in (relation(destination, file) for file in files) if related), None)


def _is_image_folder(path: Path) -> bool:
    if not path.is_dir() or any((path / name).exists() for name in _NODE_FILES):
        return False
    return any(map(_is_image, location.list_names(str(path))))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _place(url: str) -> _Place:
    # An archive in a file, or a cache of a location, is written `protocol://inside::location`.
    where = url.rpartition("::")[2] if "://" in url else url
    where = where.removeprefix("precomputed://")
    protocol, separator, rest = where.partition("://")
    if not separator or protocol.lower() in ("file", "local"):
        path = location.local_path(rest if separator else where)
        return _Place("", Path(os.path.realpath(path)).parts)
    protocol = _ALIASES.get(protocol.lower(), protocol.lower())
    host, *parts = _normal(re.split(r"[?#]", rest, maxsplit=1)[0].split("/")) or [""]
    return _Place(f"{protocol}://{host.lower()}", tuple(parts))


def _normal(parts: list[str]) -> list[str]:
    """Return the parts of a path without empty ones, `.` and `..`."""
    normal: list[str] = []
    for part in parts:
        if part == ".." and len(normal) > 1:
            normal.pop()
        elif part not in ("", ".", ".."):
            normal.append(part)
    return normal


def _is_ancestor(folder: Path, path: Path) -> bool:
    """Return whether a path is below a folder by another name, as on disks that ignore case and in bind mounts."""
    with contextlib.suppress(OSError):
        wanted = folder.stat()
        for part in (path, *path.parents):
            with contextlib.suppress(OSError):
                if os.path.samestat(part.stat(), wanted):
                    return True
    return False
