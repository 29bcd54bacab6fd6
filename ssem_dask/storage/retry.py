"""Requests that a store answers badly now and then are made again, with growing pauses, below the level of tasks.

A server that says 500, 503 or slow down, or cuts the connection, is asked again until patience ends. Patience is short
where a place is looked at for the first time, so that a wrong address is told of at once, and long inside `patient()`,
where work would be lost. What no repetition mends (nothing is there, no permission, a wrong request) is raised at once.
"""

import asyncio
import errno
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

_T = TypeVar("_T")
_SHORT = 1.0  # s
_LONG = 120.0  # s
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # s
# A context variable and no argument, since zarr and fsspec stand between the task and its requests; they run them in
# another thread, with a copy of the context.
_PATIENCE: ContextVar[float] = ContextVar("patience", default=_SHORT)
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_ERRNO = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.ENOTEMPTY}
_CLIENTS = "botocore", "aiobotocore", "aiohttp", "gcsfs"
_NOT_TRANSPORT = "NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError"


@contextmanager
def patient(seconds: float = _LONG) -> Iterator[None]:
    """Inside, requests are repeated for that long before they fail."""
    token = _PATIENCE.set(seconds)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later; only of errors of remote stores."""
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL) and error.errno not in _FINAL_ERRNO
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return True
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _CLIENTS or kind.__name__ in _NOT_TRANSPORT:
        return False
    status = _status(error)
    return status is None or status >= 500 or status == 429


def retrying(request: Callable[[], _T]) -> _T:
    """Make a request until it succeeds, fails for good or patience ends; the last error is raised."""
    for pause in _pauses():
        try:
            return request()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return request()


def carried(call: Callable[..., _T]) -> Callable[..., _T]:
    """`call` for another thread, where it is to have the patience of this one."""
    context = copy_context()
    return lambda *given: context.copy().run(call, *given)


async def _retrying(request: Callable[[], Awaitable[_T]]) -> _T:
    for pause in _pauses():
        try:
            return await request()
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(pause)
    return await request()


class PatientStore(FsspecStore):
    """An fsspec store whose requests are repeated."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As in zarr."""
        return await _retrying(lambda: FsspecStore.get(self, key, prototype, byte_range))

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        """As in zarr."""
        wanted = list(key_ranges)
        return await _retrying(lambda: FsspecStore.get_partial_values(self, prototype, wanted))

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """As in zarr."""
        await _retrying(lambda: FsspecStore.set(self, key, value, byte_range))

    async def delete(self, key: str) -> None:
        """As in zarr."""
        await _retrying(lambda: FsspecStore.delete(self, key))

    async def exists(self, key: str) -> bool:
        """As in zarr."""
        return await _retrying(lambda: FsspecStore.exists(self, key))


def _pauses() -> Iterator[float]:
    """Seconds between two attempts: doubled each time, spread so that many workers do not come back at once."""
    end, pause = time.monotonic() + _PATIENCE.get(), _FIRST_PAUSE
    while time.monotonic() < end:
        yield min(pause * random.uniform(0.5, 1.5), max(0.0, end - time.monotonic()))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error tells of."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    try:
        return None if status is None else int(status)
    except (TypeError, ValueError):
        return None
