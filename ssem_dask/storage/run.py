"""A run: one Zarr v3 group whose attribute `ssem_dask` says what it is and how far it is."""

from typing import Any

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.storage import arrays, location

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
    with location.writing(url), location.reaching_output():
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


def update_run(url: str, **changes: Any) -> None:
    """Change some attributes of a run and keep the others; errors as in `read_run` and `create_run`."""
    attributes = {**read_run(url), **changes}
    with location.writing(url):
        arrays.create_group(url, attributes={KEY: attributes})


def _is_folder(url: str) -> bool:
    return not location.is_local(url) or location.local_path(url).is_dir()
