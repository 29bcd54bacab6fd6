"""Where the source of a run is: recorded relative to the run and absolutely, so that it is found from any folder.

Run and source can be moved together, or the run alone. If the source alone was moved, the user gives its new place.

The recorded relative path is also the source's *identity*, which is part of every digest. A source that was moved keeps
it, so that nothing is computed again.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.requests import HTTP


def source_places(source: str, *, output: str) -> dict[str, str]:
    """Return the attributes of a run that say where its source is."""
    return {"source_place": _relative(source, output=output), "source_absolute": _absolute(source)}


def recorded_source(attributes: Mapping[str, Any], *, output: str) -> str:
    """Return the URL of the source that a run's attributes record: the first place where something is."""
    places = _places(attributes, output=output)
    return next((place for place in places if not location.is_local(place) or location.exists(place)), places[0])


def source_identity(source: str, *, output: str, attributes: Mapping[str, Any] | None) -> str:
    """Return the name that a source has in digests.

    Args:
        source: URL of the source.
        output: URL of the run.
        attributes: of the run; None if there is none yet.
    """
    if attributes is not None and isinstance(attributes.get("source"), str):
        place = _resolved(source)
        if any(_resolved(known) == place for known in _places(attributes, output=output)):
            return str(attributes["source"])
    return _relative(source, output=output)


@contextmanager
def asking_for_source(place: str, *, given: str | None) -> Iterator[None]:
    """Add to a `SourceError` that the source's URL can be given again, if it is one that may need a secret.

    Args:
        place: where the run has recorded its source.
        given: URL that the user gave instead; None: none.
    """
    try:
        yield
    except SourceError as error:
        if given is not None or not place.startswith(HTTP):
            raise
        raise SourceError(
            f"{str(error).removesuffix('.')}; if its URL needs a password or a signature, which no run keeps, give it "
            "again with --source."
        ) from error


def _places(attributes: Mapping[str, Any], *, output: str) -> list[str]:
    """Return the places where a source may be, the likeliest first."""
    identity = str(attributes.get("source", ""))
    relative = [str(attributes[key]) for key in ("source_place", "source") if attributes.get(key)]
    absolute = [str(attributes["source_absolute"])] if attributes.get("source_absolute") else []
    # Earlier versions recorded the path as it was given, relative to the folder of that day.
    return [*(_beside(place, output) for place in relative[:1]), *absolute, _beside(identity, output), identity]


def _relative(source: str, *, output: str) -> str:
    if not (location.is_local(source) and location.is_local(output)):
        return _absolute(source)
    return os.path.relpath(_absolute(source), _absolute(output))


def _beside(stored: str, output: str) -> str:
    if not (location.is_local(stored) and location.is_local(output)) or location.local_path(stored).is_absolute():
        return stored
    return os.path.normpath(os.path.join(_absolute(output), stored))  # noqa: PTH118  (Path does not remove `..`)


def _absolute(url: str) -> str:
    return os.path.normpath(location.local_path(url).absolute()) if location.is_local(url) else url


def _resolved(url: str) -> str:
    return str(location.local_path(url).resolve()) if location.is_local(url) else url.rstrip("/")
