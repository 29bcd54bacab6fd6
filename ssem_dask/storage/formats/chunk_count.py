"""Count of the chunks of an array that are stored, to show a copy of which files are missing.

Formats in chunks leave out those that were never written, and read them as a constant. So missing chunks are no error,
but the user must know about them.
"""

import math
from collections.abc import Callable, Sequence

from ssem_dask.storage import location
from ssem_dask.units import plural

_MOST_LISTED_REMOTELY = 200_000
"""Chunks above which an object store is not listed: a thousand names take a request."""


def missing_note(where: str, *, stored: int, expected: int, unit: str = "chunk") -> tuple[str, ...]:
    """Return a remark about chunks that are missing; () if there are none."""
    missing = expected - stored
    if missing <= 0:
        return ()
    return (
        f"{where}: {missing:,} of {plural(expected, unit)} not stored, read as the fill value; if its writer did not "
        "leave "
        "them out, the copy is incomplete.",
    )


def stored_chunks(
    url: str, *, grid: Sequence[int], index: Callable[[str], tuple[int, ...]]
) -> dict[tuple[int, ...], str] | None:
    """Find the files of the chunks or shards of an array.

    Args:
        url: of the array.
        grid: number of chunks along each axis.
        index: returns the index of the chunk in a file of this name; () for other files.

    Returns:
        Name of the file of each chunk that is stored, by its index; None if the location cannot be listed, or only
        slowly.
    """
    remote = not location.is_local(url)
    if remote and (url.startswith("http") or math.prod(grid) > _MOST_LISTED_REMOTELY):
        return None
    try:
        names = location.list_files(url)
    except (OSError, NotImplementedError):
        return None
    if not names and remote:
        return None
    found = {index(name): name for name in names}
    return {
        place: name
        for place, name in found.items()
        if len(place) == len(grid) and all(0 <= at < n for at, n in zip(place, grid, strict=True))
    }


def grid_of(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """Return the number of chunks along each axis."""
    return tuple(math.ceil(extent / chunk) for extent, chunk in zip(shape, chunks, strict=True))
