"""Retry transient errors of remote stores with exponential backoff, below the level of tasks.

A request that ends in a 500, a 503, "slow down" or a cut connection is repeated until a time limit. The limit is short
by default, so that a wrong address is reported at once. It is long inside `retry_for(LONG_RETRY_S)`, where giving up
would cost work already done. Errors that no repetition fixes (not found, no permission, bad request) are raised
immediately.

The pauses are our own because `tenacity` has no equal: its `wait_exponential_jitter` has no jitter at the longest
pause, where many workers would return together, and its time limit is overrun by a whole pause or met a pause early.
"""

import asyncio
import errno
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from ssem_dask.errors import SourceError
from ssem_dask.storage.fence import current_fence

_T = TypeVar("_T")
LONG_RETRY_S = 120.0
"""Time limit for requests of work in progress: tasks, the ledger, the lease."""
_SHORT_RETRY_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
# A context variable instead of an argument, because zarr and fsspec are called in between; they run requests in another
# thread, with a copy of the context. None: the short limit.
_TIME_LIMIT_S: ContextVar[float | None] = ContextVar("retry time limit", default=None)
_PERMANENT_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PERMANENT_ERRNOS = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.ENOTEMPTY}
_STORE_CLIENTS = "botocore", "aiobotocore", "aiohttp", "gcsfs"
# Not that of the module, whose state belongs to the program around us.
_RANDOM = random.Random()
_USER_ERRORS = "NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError"


@contextmanager
def retry_for(seconds: float) -> Iterator[None]:
    """Set for how long requests made inside the context are retried."""
    token = _TIME_LIMIT_S.set(seconds)
    try:
        yield
    finally:
        _TIME_LIMIT_S.reset(token)


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a little later; valid for errors of remote stores only."""
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT_ERRORS) and error.errno not in _PERMANENT_ERRNOS
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return True
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _STORE_CLIENTS or kind.__name__ in _USER_ERRORS:
        return False
    status = _http_status(error)
    return status is None or status >= 500 or status == 429


def retry(request: Callable[[], _T]) -> _T:
    """Make a request until it succeeds, fails permanently or the time limit is reached; raise the last error."""
    for pause in _pauses():
        try:
            return request()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return request()


async def _retry_async(request: Callable[[], Awaitable[_T]]) -> _T:
    for pause in _pauses():
        try:
            return await request()
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(pause)
    return await request()


def tried_once(files: Any) -> Any:
    """Return an fsspec file system whose client of S3 makes each request once, since it is repeated here.

    The client would try five times, in two layers of which each repeats the other.
    """
    if "s3" in files.protocol:
        files.retries = 1
    return files


def in_this_context(call: Callable[..., _T]) -> Callable[..., _T]:
    """Wrap `call` so that it runs in another thread with this thread's time limit."""
    context = copy_context()
    return lambda *arguments: context.copy().run(call, *arguments)


class RetryingStore(FsspecStore):
    """An fsspec store that retries its requests, and asks the fence under which it was made before it writes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fence = current_fence()
        tried_once(self.fs)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """See `FsspecStore.get`; raises SourceError if the server sends more than the range."""
        content = await _retry_async(lambda: FsspecStore.get(self, key, prototype, byte_range))
        self._check_range(key, byte_range, content)
        return content

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        """See `FsspecStore.get_partial_values`; raises SourceError if the server sends more than the ranges."""
        ranges = list(key_ranges)
        contents = await _retry_async(lambda: FsspecStore.get_partial_values(self, prototype, ranges))
        for (key, byte_range), content in zip(ranges, contents, strict=True):
            self._check_range(key, byte_range, content)
        return contents

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """See `FsspecStore.set`."""
        await self._ask_fence()
        await _retry_async(lambda: FsspecStore.set(self, key, value, byte_range))

    async def delete(self, key: str) -> None:
        """See `FsspecStore.delete`."""
        await self._ask_fence()
        await _retry_async(lambda: FsspecStore.delete(self, key))

    async def exists(self, key: str) -> bool:
        """See `FsspecStore.exists`."""
        return await _retry_async(lambda: FsspecStore.exists(self, key))

    def _check_range(self, key: str, byte_range: ByteRequest | None, content: Buffer | None) -> None:
        """Raise SourceError if a server has ignored a range; the wrong bytes would count as a damaged chunk."""
        match byte_range:
            case RangeByteRequest(start=start, end=end):
                wanted = end - start
            case SuffixByteRequest(suffix=wanted):
                pass
            case _:
                return
        if content is not None and len(content) > wanted:
            url = self.fs.unstrip_protocol(f"{self.path}/{key}")
            raise SourceError(
                f"{url}: the server sent {len(content)} bytes where {wanted} were asked for, so it ignores byte "
                "ranges, which chunks in shards need; serve the files by a server that knows them, for example nginx, "
                "or copy them to this machine."
            )

    async def _ask_fence(self) -> None:
        if self._fence is not None:
            await asyncio.to_thread(self._fence.check)  # it sends requests of its own


def _pauses() -> Iterator[float]:
    """Yield the seconds between attempts: doubled each time, with jitter so that workers do not return together."""
    limit = _TIME_LIMIT_S.get()
    end = time.monotonic() + (_SHORT_RETRY_S if limit is None else limit)
    pause = _FIRST_PAUSE_S
    while time.monotonic() < end:
        # Clipped, so that the last attempt is made exactly at the limit.
        yield min(pause * _RANDOM.uniform(0.5, 1.5), max(0.0, end - time.monotonic()))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, if any."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    try:
        return None if status is None else int(status)
    except (TypeError, ValueError):
        return None
