"""Requests are retried until the time limit; errors that no repetition fixes are raised at once."""

import errno
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ssem_dask.storage import arrays, location
from ssem_dask.storage import retry as retry_module
from ssem_dask.storage.retry import in_this_context, is_transient, retry, retry_for


class Moody(MemoryFileSystem):
    """Keeps files in memory; every request fails until `anger` is used up."""

    protocol = "moody"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    anger = 0

    def _suffer(self) -> None:
        if Moody.anger > 0:
            Moody.anger -= 1
            raise ConnectionResetError(errno.ECONNRESET, "not now")

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._suffer()
        return super().cat_file(path, *args, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._suffer()
        return super().info(path, **kwargs)

    def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._suffer()
        return super().pipe_file(path, *args, **kwargs)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(retry_module, "_LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_module, "_SHORT_RETRY_S", 0.0)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError(errno.ECONNRESET, ""), True),
        (OSError(errno.EIO, "InternalError"), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (TimeoutError(), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(errno.EINVAL, "precondition"), False),
        (ValueError("checksum"), False),
    ],
)
def test_what_a_repetition_may_mend(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_the_clients_errors_tell_by_their_status() -> None:
    botocore = pytest.importorskip("botocore.exceptions")

    def error_of(status: int) -> Exception:
        response = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}
        error: Exception = botocore.ClientError(response, "GetObject")
        return error

    assert [is_transient(error_of(status)) for status in (500, 503, 429, 403, 400)] == [True, True, True, False, False]
    assert is_transient(botocore.EndpointConnectionError(endpoint_url="http://nowhere"))
    assert not is_transient(botocore.NoCredentialsError())


def failing(times: int, error: Exception) -> Any:
    calls = []

    def request() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return request


def test_patience_is_short_outside_and_long_inside() -> None:
    with retry_for(30):
        assert retry(failing(5, ConnectionError())) == 6
    with retry_for(0.0), pytest.raises(ConnectionError):
        retry(failing(5, ConnectionError()))
    with retry_for(30), pytest.raises(FileNotFoundError):
        retry(failing(1, FileNotFoundError()))


def test_patience_goes_along_into_other_threads() -> None:
    with ThreadPoolExecutor(2) as threads:
        with retry_for(30):
            taken = in_this_context(retry)
        assert list(threads.map(taken, [failing(3, ConnectionError()) for _ in range(4)])) == [4] * 4


def test_every_request_of_a_location_is_retried() -> None:
    fsspec.register_implementation("moody", Moody, clobber=True)
    url = "moody://folder/file"
    location.write_bytes(url, b"0123456789")
    with retry_for(30):
        for request, result in (
            (lambda: location.file_size(url), 10),
            (lambda: location.read_range(url, start=2, stop=4), b"23"),
            (lambda: location.read_bytes(url), b"0123456789"),
        ):
            Moody.anger = 3
            assert request() == result
            assert Moody.anger == 0


def test_zarr_is_patient_too() -> None:
    fsspec.register_implementation("moody", Moody, clobber=True)
    array = arrays.create_array(
        "moody://a.zarr",
        shape=(8, 8),
        dtype="uint8",
        axes=("y", "x"),
        chunks=(4, 4),
        shards=None,
        fill_value=0,
        attributes={},
    )
    values = np.arange(64, dtype="uint8").reshape(8, 8)
    with retry_for(30):
        Moody.anger = 7
        array[:] = values
        assert Moody.anger == 0
        Moody.anger = 7
        np.testing.assert_array_equal(array[:], values)
        assert Moody.anger == 0
    Moody.anger = 1000
    with retry_for(0.0), pytest.raises(ConnectionResetError):
        array[:]
    Moody.anger = 0
