"""Advice for a location that is not what a command needs: what is there, and the command to type."""

import shlex

from ssem_dask.errors import SourceError
from ssem_dask.storage import arrays, location, ngff
from ssem_dask.storage.formats.n5_groups import is_n5
from ssem_dask.storage.formats.source import HDF5_NAME, IMAGE_SUFFIXES, TIFF
from ssem_dask.storage.formats.tensorstore_array import is_precomputed
from ssem_dask.units import plural


def importable(url: str) -> str | None:
    """Return what `import` would read at a location, such as "20 TIFF images"; None if it would read nothing.

    Looks at names alone, so that it is quick, and never fails.
    """
    try:
        return _importable(url)
    except Exception:  # noqa: BLE001  clients of stores raise errors of any kind; advice must not hide the first one
        return None


def explain_source(source: str, output: str, error: SourceError) -> SourceError:
    """Return a better error for a source that `align` cannot open: arguments swapped, or to be imported first.

    Args:
        source: URL of the source.
        output: URL of the output.
        error: error of opening the source.
    """
    if _is_missing(source):
        found = "a volume" if _is_volume(output) else importable(output)
        if found is not None:
            return SourceError(
                f"{source}: nothing is there, but {output} holds {found}; the source comes before the output, so "
                "swap them "
                "if you mean that."
            )
        return error
    found = importable(source)
    if found is None:
        return error
    volume = source.rstrip("/").removesuffix(".zip").rpartition(".")[0] if "." in source.rpartition("/")[2] else source
    command = shlex.join(["ssem-dask", "import", source, f"{volume.rstrip('/')}.zarr"])
    return SourceError(
        f"{source}: holds {found}, but align reads Zarr; import it first: {command} --pixel-size NM "
        "--section-thickness NM."
    )


def explain_swapped(source: str, destination: str, error: SourceError) -> SourceError:
    """Return a better error for an import whose source is missing while its destination could be one."""
    if not _is_missing(source):
        return error
    found = "a volume" if _is_volume(destination) else importable(destination)
    if found is None:
        return error
    return SourceError(
        f"{source}: nothing is there, but {destination} holds {found}; the source comes before the destination, so "
        "swap "
        "them if you mean that."
    )


def _importable(url: str) -> str | None:
    match = HDF5_NAME.match(url)
    if match is not None and location.exists(match["file"]):
        return "an HDF5 file"
    if not location.exists(url):
        return None
    if arrays.is_node(url):
        return None
    if location.file_size(url) is not None:
        return (
            "a TIFF file"
            if url.lower().endswith(TIFF)
            else ("an image" if url.lower().endswith(IMAGE_SUFFIXES) else None)
        )
    if is_n5(url):
        return "an N5 volume"
    if is_precomputed(url):
        return "a precomputed volume"
    images = [name for name in location.list_names(url) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        return None
    kind = images[0].rpartition(".")[2].upper().replace("TIF", "TIFF").replace("TIFFF", "TIFF")
    return plural(len(images), f"{kind} image")


def _is_missing(url: str) -> bool:
    """Return whether nothing is at a local path; False for one that cannot be looked at."""
    try:
        return location.is_local(url) and not location.exists(url)
    except OSError:
        return False


def _is_volume(url: str) -> bool:
    try:
        attributes = arrays.group_attributes(url)
        return (attributes is None and arrays.is_node(url)) or ngff.is_image(attributes or {})
    except Exception:  # noqa: BLE001  as in `importable`
        return False
