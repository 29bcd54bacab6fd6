"""A run: one Zarr v3 group whose attribute `ssem_dask` says what it is and how far it is.

Volumes that a run's fields were applied to, and exported ones, say so as well: the first in an attribute, the others,
whose formats have no place for it, in a file beside their ledger.
"""

import json
from typing import Any

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import arrays, location
from ssem_dask.storage.volume import WARP_KEY

KEY = "ssem_dask"


def is_run(url: str) -> bool:
    """Whether a run lies at `url`; SourceError where the place cannot be reached."""
    return KEY in (arrays.group_attributes(url) or {})


def create_run(url: str, *, attributes: dict[str, Any]) -> None:
    """Make an empty run.

    Args:
        url: of the group; nothing may be there but an empty folder.
        attributes: format, version, config, config_digest, source, encoder_digest, state.

    Raises:
        OutputError: a run or something else is there, or the place cannot be written.
    """
    with location.writing(url), location.as_output_error():
        if is_run(url):
            raise OutputError(f"{url}: an alignment is already there; choose another output or delete it.")
        if location.exists(url) and (location.list_names(url) or not _is_folder(url)):
            raise OutputError(
                f"{url}: something that is not an alignment is there; choose another output or delete it."
            )
        arrays.create_group(url, attributes={KEY: attributes})


def read_run(url: str) -> dict[str, Any]:
    """The attributes of a run.

    Raises:
        SourceError: nothing is there.
        OutputError: something that is not a run is there.
    """
    attributes = arrays.group_attributes(url)
    if attributes is None and not location.exists(url):
        raise SourceError(f"{url}: no alignment is there; check the path.")
    found = (attributes or {}).get(KEY)
    if not isinstance(found, dict):
        raise OutputError(f"{url}: this is not an alignment; give the OUT.zarr that 'align' or 'run' wrote.")
    return found


def read_export(url: str) -> dict[str, Any] | None:
    """What an exported volume says of itself: {"source", "form", "digest", "state"}; None where none was begun."""
    try:
        found = json.loads(location.read_bytes(_export_record(url)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_export(url: str, record: dict[str, Any]) -> None:
    """Say what an exported volume is; see `read_export`."""
    with location.writing(url):
        location.write_bytes(_export_record(url), json.dumps(record, indent=1).encode())


def read_state(url: str) -> str:
    """How far a run, a warped or an exported volume says that it is: `running`, `incomplete` or `complete`.

    Raises:
        SourceError: nothing is there.
        OutputError: something else is there.
    """
    attributes = arrays.group_attributes(url)
    if attributes is None and not location.exists(url):
        raise SourceError(f"{url}: nothing is there; check the path.")
    for found in ((attributes or {}).get(KEY), (attributes or {}).get(WARP_KEY), read_export(url)):
        if isinstance(found, dict):
            return str(found.get("state"))
    raise OutputError(f"{url}: was written by none of 'align', 'run', 'warp' and 'export', which alone have a status.")


def update_run(url: str, **changes: Any) -> None:
    """Change some attributes of a run and keep the others; errors as in `read_run` and `create_run`."""
    attributes = {**read_run(url), **changes}
    with location.writing(url):
        arrays.create_group(url, attributes={KEY: attributes})


def _is_folder(url: str) -> bool:
    return not location.is_local(url) or location.local_path(url).is_dir()


def _export_record(url: str) -> str:
    return location.join(url, "ledger", "export.json")
