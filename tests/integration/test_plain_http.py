"""Volumes behind a web server that ignores byte ranges, as Python's own does."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zarr

from ssem_dask.errors import SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import location
from ssem_dask.storage.volume import Volume
from ssem_dask.types import ShapeZYX
from tests.support.cli import ssem_dask as command

VALUES = np.arange(2 * 64 * 64, dtype=np.uint8).reshape(2, 64, 64)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def write(path: Path, *, shards: ShapeZYX | None) -> None:
    array = zarr.create_array(path, shape=VALUES.shape, dtype="uint8", chunks=(1, 32, 32), shards=shards)
    array[:] = VALUES


def test_chunks_in_shards_are_not_called_damaged(tmp_path: Path, address: str) -> None:
    write(tmp_path / "sharded.zarr", shards=(2, 64, 64))
    volume = Volume.open(f"{address}/sharded.zarr", pixel_size=5, section_thickness=50)
    with pytest.raises(SourceError, match=r"sharded\.zarr/c/0/0/0: the server sent .* ignores byte ranges"):
        volume.read(Box((0, 0, 0), (1, 32, 32)))


def test_an_import_of_whole_shards_needs_no_ranges(tmp_path: Path, address: str) -> None:
    write(tmp_path / "sharded.zarr", shards=(2, 64, 64))
    sizes = ("--pixel-size", "5", "--section-thickness", "50")
    ended = command("import", f"{address}/sharded.zarr", str(tmp_path / "out.zarr"), *sizes)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "0")[:], VALUES)


def test_whole_chunks_need_no_ranges(tmp_path: Path, address: str) -> None:
    write(tmp_path / "chunked.zarr", shards=None)
    volume = Volume.open(f"{address}/chunked.zarr", pixel_size=5, section_thickness=50)
    box = Box((0, 0, 0), VALUES.shape)
    np.testing.assert_array_equal(volume.read(box), VALUES)


def test_the_range_of_a_file_is_cut_from_the_whole(tmp_path: Path, address: str) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    assert location.read_range(f"{address}/file", start=10, stop=20) == bytes(range(10, 20))
