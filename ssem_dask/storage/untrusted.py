"""Interpretation of what a store holds: JSON, attributes, Zarr metadata, compressed bytes.

Anybody may have written a store, and any file in it may be torn, empty or of another kind. So code never indexes such
content itself. It passes the content to a function here, with the type that it needs, and gets a value of this type or
a `ContentError` of one sentence. A *hint* is a file without which everything still works: if it cannot be read, it
counts as absent.

This is the only module that catches every exception of an interpretation. Parsers raise errors of a dozen unrelated
kinds, and a list of them is never complete.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from ssem_dask.errors import ContentError, SsemDaskError
from ssem_dask.storage import location

T = TypeVar("T")

JSON_OBJECT: Final = TypeAdapter(dict[str, Any])
POSITIVE: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)])
COUNT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(gt=0, lt=1 << 40)])
SHAPE_ZYX: TypeAdapter[tuple[int, int, int]] = TypeAdapter(
    tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
)
"""Type of an extent (z, y, x)."""

MAX_JSON_BYTES = 64 << 20
"""Bytes of a JSON file that are read at most; a Python object takes up to 30 times as much memory as its JSON."""
_CAUSE_CHARACTERS = 200
CURE = "restore or delete it"


@contextmanager
def interpreting(where: str, *, what: str = "its content", cure: str = CURE) -> Iterator[None]:
    """Turn any error of interpreting stored content into a `ContentError`.

    Args:
        where: location of the content, for the message.
        what: name of the content, for the message.
        cure: what the user can do.
    """
    try:
        yield
    except (SsemDaskError, OSError):
        raise  # a store that does not answer says nothing about its content: see `location.reading`
    except Exception as error:
        raise ContentError(f"{where}: {what} cannot be read ({cause_of(error)}); {cure}.") from error


def cause_of(error: BaseException) -> str:
    """Return a short cause for a sentence: the first error of a validation, or the type and text of another one."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        text = f"{place}: {first['msg']}" if place else first["msg"]
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _shortened(text)


def text_of(error: BaseException) -> str:
    """Return the text of an error for a sentence; the name of its type if it has no text."""
    return _shortened(str(error)) or type(error).__name__


def _shortened(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _CAUSE_CHARACTERS else text[:_CAUSE_CHARACTERS] + "…"


def parse_json(content: bytes, *, where: str) -> Any:
    """Return the value of JSON text; ContentError if it is none, too long, or nested too deeply."""
    if len(content) > MAX_JSON_BYTES:
        raise ContentError(f"{where}: has {len(content)} bytes, more than any file of this kind; {CURE}.")
    if not content.strip():
        raise ContentError(f"{where}: is empty; {CURE}.")
    with interpreting(where):
        return json.loads(content)


def checked(value: object, wanted: TypeAdapter[T], *, where: str, what: str = "its content", cure: str = CURE) -> T:
    """Return a stored value as the wanted type; ContentError if it is of another one. See `interpreting`."""
    with interpreting(where, what=what, cure=cure):
        return wanted.validate_python(value)


def value_at(tree: object, *path: str, wanted: TypeAdapter[T], where: str) -> T:
    """Return the value at a path of keys inside nested JSON; ContentError if it is absent or of another type."""
    value = tree
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise ContentError(f"{where}: has no value {'.'.join(path)}, which is needed; {CURE}.")
        value = value[key]
    return checked(value, wanted, where=where, what=f"its value {'.'.join(path)}")


def record_in(attributes: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any] | None:
    """Return one of our records in a group's attributes; None if it has none, ContentError if it is no JSON object."""
    if key not in attributes:
        return None
    return checked(attributes[key], JSON_OBJECT, where=where, what=f"its attribute {key}")


def read_json(url: str, wanted: TypeAdapter[T]) -> T:
    """Read a JSON file that must be there and be whole; FileNotFoundError or ContentError if it is not."""
    return checked(parse_json(location.read_bytes(url), where=url), wanted, where=url)


def read_hint(url: str, wanted: TypeAdapter[T]) -> T | None:
    """Read a JSON file that only helps; None if there is none, or if it cannot be understood."""
    try:
        return read_json(url, wanted)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ContentError):
        return None


def understood(interpret: Callable[[], T]) -> T | None:
    """Return the interpretation of a hint; None if it cannot be understood."""
    try:
        with interpreting(""):
            return interpret()
    except ContentError:
        return None


def inflated(content: bytes, *, at_once: int, limit: int) -> Iterator[bytes]:
    """Yield zlib-compressed bytes in pieces, so that a small file that expands to gigabytes takes no memory.

    Args:
        content: the compressed bytes.
        at_once: most bytes of a piece.
        limit: most bytes in all.

    Raises:
        zlib.error: the content is torn, no zlib stream, or expands to more than the limit.
    """
    stream, total = zlib.decompressobj(), 0
    while not stream.eof:
        piece = stream.decompress(content, at_once)
        content = stream.unconsumed_tail
        total += len(piece)
        if total > limit:
            raise zlib.error(f"expands to more than {limit} bytes")
        if not piece and not stream.eof:
            raise zlib.error("ends too early")
        yield piece
