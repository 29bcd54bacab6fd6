"""The destination of an import: what is there, what of it belongs to the volume, and how an old volume is replaced.

A new volume is written in place. A volume that replaces a complete one is written to the folder `.import` inside it
(`STAGING`) and moved to its place when it is whole. So the old volume stays until the new one is known to be good.
Nothing is deleted but the levels that the metadata of the old volume name, and that metadata.

Law: whenever a process is killed, the group is either the old volume, or an unfinished import, or the new volume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import arrays, location, ngff, places
from ssem_dask.storage.volume_checks import IMPORT_KEY
from ssem_dask.units import shortened

STAGING = ".import"
"""Folder inside a complete volume, in which the volume is written that replaces it."""
JOURNAL = ("ledger", "import")
"""Folder of the records of an import that is under way."""
_UNFINISHED = "importing"
_GROUP_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
_ARRAY_FILES = ("zarr.json", ".zarray", ".zattrs")
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """State of the destination of an import."""

    state: str
    """`nothing`, `importing`, `replacing` (the old levels may be gone), `volume` or `other`."""
    digest: str = ""
    """Digest of the unfinished import; empty if it is unknown."""
    levels: tuple[str, ...] = ()
    """Paths of the arrays that the metadata name."""


def look(url: str) -> Found:
    """Return what is at a destination."""
    with location.as_output_error():
        attributes = arrays.group_attributes(url)
    if attributes is None:
        # An array, a file, or a folder of something else.
        return Found(state="other" if places.is_occupied(url) else "nothing")
    record = attributes.get(IMPORT_KEY)
    record = record if isinstance(record, dict) else {}
    state, digest = record.get("state", "complete"), str(record.get("digest", ""))
    if state == _UNFINISHED:
        replaced = record.get("replaces")
        if isinstance(replaced, list):
            return Found(state="replacing", digest=digest, levels=tuple(map(str, replaced)))
        return Found(state="importing", digest=digest, levels=_levels(url, attributes))
    if state != "complete" or not ngff.is_image(attributes):
        return Found(state="other")
    return Found(state="volume", levels=_levels(url, attributes))


def metadata(url: str) -> bytes | None:
    """Return the metadata file of a group that an import writes; None if it is gone."""
    try:
        return location.read_bytes(location.join(url, _GROUP_FILES[0]))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def check_replaceable(url: str, found: Found) -> None:
    """Raise OutputError if anything but a volume is at a destination, whose replacement would delete it."""
    foreign = _foreign_names(url, found.levels)
    if foreign:
        raise OutputError(
            f"{url}: beside the volume itself there are {shortened(foreign, limit=_SHOWN)}; only the volume may be "
            "replaced; move them away, or choose another name."
        )


def begin(url: str, record: dict[str, Any]) -> None:
    """Make the group of an unfinished import, or mark the existing one."""
    arrays.create_group(url, attributes={IMPORT_KEY: {**record, "state": _UNFINISHED}})


def finish(url: str, record: dict[str, Any]) -> None:
    """Mark an import as complete."""
    arrays.create_group(url, attributes={IMPORT_KEY: {**record, "state": "complete"}})


def discard(url: str, found: Found) -> None:
    """Delete an unfinished import, but for the journal; its group is deleted last."""
    staging = location.join(url, STAGING)
    staged = _levels(staging, arrays.group_attributes(staging) or {})  # some of them may be in their place already
    for path in (*found.levels, *staged, STAGING):
        location.delete(location.join_below(url, path), recursive=True)
    location.delete(location.join(url, "zarr.json"), recursive=False)


def replace_volume(url: str, found: Found, *, record: dict[str, Any]) -> None:
    """Replace the volume at a destination by the whole one in its staging folder; may be repeated after a kill.

    Args:
        url: the destination.
        found: what is there, with the levels of the old volume.
        record: attributes of the import.
    """
    staging = location.join(url, STAGING)
    begin(url, {**record, "replaces": list(found.levels)})
    for name in _GROUP_FILES[1:]:  # of Zarr v2
        location.delete(location.join(url, name), recursive=False)
    new = _levels(staging, arrays.group_attributes(staging) or {})
    for path in sorted({*found.levels} - {*new}):
        location.delete(location.join_below(url, path), recursive=True)
    for path in new:
        old, staged = location.join_below(url, path), location.join_below(staging, path)
        if location.exists(staged):  # else it was moved before a kill
            location.delete(old, recursive=True)
            location.move_or_copy(staged, to=old)
    finish(staging, record)
    location.write_bytes(location.join(url, "zarr.json"), location.read_bytes(location.join(staging, "zarr.json")))
    location.delete(staging, recursive=True)


def journal_url(url: str) -> str:
    """Return the URL of the folder of records."""
    return location.join(url, *JOURNAL)


def remove_if_empty(url: str) -> None:
    """Remove folders that hold nothing: the ledger, and the destination itself."""
    location.delete_empty_folder(location.join(url, JOURNAL[0]))
    location.delete_empty_folder(url)


def _levels(url: str, attributes: dict[str, Any]) -> tuple[str, ...]:
    if not ngff.is_image(attributes):
        return ()
    try:
        paths = ngff.parse_multiscale(attributes, where=url).paths
        for path in paths:
            location.join_below(url, path)  # raises if it leads out
    except SourceError:
        return ()
    return paths


def _foreign_names(url: str, levels: tuple[str, ...]) -> list[str]:
    """Return what is at a volume's place but not part of it, in order."""
    foreign = list[str]()
    for name in location.list_names(url):
        own = [level for level in levels if level == name or level.startswith(f"{name}/")]
        if own:
            foreign += _foreign_files(url, name, levels)
        elif name not in (*_GROUP_FILES, STAGING) and not (name == JOURNAL[0] and _is_own_ledger(url)):
            foreign.append(name)
    return foreign


def _foreign_files(url: str, name: str, levels: tuple[str, ...]) -> Iterator[str]:
    """Yield the files below a name that are neither metadata nor chunks of a level."""
    for file in location.list_files(location.join(url, name)):
        path = f"{name}/{file}"
        level = next((level for level in levels if path.startswith(f"{level}/")), None)
        inside = "" if level is None else path.removeprefix(f"{level}/")
        if level is None or not (inside in _ARRAY_FILES or arrays.chunk_index(inside)):
            yield path


def _is_own_ledger(url: str) -> bool:
    """Return whether the ledger has nothing but what an import leaves."""
    names = location.list_names(location.join(url, JOURNAL[0]))
    return all(name == JOURNAL[1] or places.is_lease(name) for name in names)
