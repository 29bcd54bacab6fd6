"""Paths, URLs and arrays that a user gives."""

import os
from typing import Any, Protocol, TypeAlias

from ssem_dask.errors import SourceError
from ssem_dask.shown import without_secrets
from ssem_dask.storage.array_volume import NAME, array_volume, is_array
from ssem_dask.volumes.array_import import write_array
from ssem_dask.volumes.importing import DEFAULT_CHUNK, DEFAULT_SHARD


class ArrayLike(Protocol):
    """An array (z, y, x): of numpy, dask, xarray, zarr, or anything that is indexed like them."""

    @property
    def shape(self) -> Any:
        """Extent of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a part."""


Place: TypeAlias = str | os.PathLike[str]
"""Path or URL."""


def url_of(place: Place) -> str:
    """Return a path or URL as a string.

    Raises:
        SourceError: it is neither.
    """
    if isinstance(place, str):
        return place
    if isinstance(place, os.PathLike):
        return os.fspath(place)
    raise SourceError(f"{place!r}: is no path or URL; give a str or a pathlib.Path.")


def source_url(
    source: Place | ArrayLike,
    *,
    beside: str,
    pixel_size: float | None,
    section_thickness: float | None,
    labels: bool = False,
) -> str:
    """Return the URL of a source; an array is first written beside the output, since workers read it from there.

    Args:
        source: path, URL or array.
        beside: URL of the output.
        pixel_size: nm per pixel in y and x.
        section_thickness: nm per section.
        labels: the values are ids.

    Raises:
        SourceError: an array without sizes, or with other axes or types than a volume has.
        OutputError: the place of an array cannot be written.
    """
    if not is_array(source):
        return url_of(source)  # type: ignore[arg-type]
    if pixel_size is None or section_thickness is None:
        raise SourceError(f"{NAME}: its sizes are unknown; give pixel_size and section_thickness, in nm.")
    volume = array_volume(source, pixel_size=pixel_size, section_thickness=section_thickness)
    url = without_secrets(beside).rstrip("/").removesuffix(".zarr") + ".source.zarr"
    write_array(
        volume,
        url,
        chunk=DEFAULT_CHUNK,
        shard=DEFAULT_SHARD,
        labels=labels,
        pyramid=True,
        overwrite=False,
        progress=lambda _pixels: None,
    )
    return url
