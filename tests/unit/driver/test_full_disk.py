"""Whenever the disk gets full or read-only, a run says so, and the same command continues it when that is over."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zarr.storage import LocalStore

from ssem_dask.storage import local_files
from tests.support.shard_pipeline import Config
from tests.support.simulated_drivers import Simulation, simulated


class Disk:
    """A disk on which a number of files can be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, error: int) -> None:
        self.room, self.error = 0, error
        put = LocalStore.set

        async def set_file(store: LocalStore, key: str, value: Any) -> None:
            self.take()
            await put(store, key, value)

        monkeypatch.setattr(LocalStore, "set", set_file)
        for name in ("write_file", "create_file"):
            monkeypatch.setattr(local_files, name, self.taking(getattr(local_files, name)))

    def taking(self, write: Callable[[Path, bytes], Any]) -> Callable[[Path, bytes], Any]:
        def write_if_there_is_room(path: Path, content: bytes) -> Any:
            path.parent.mkdir(parents=True, exist_ok=True)  # a folder takes no space
            self.take()
            return write(path, content)

        return write_if_there_is_room

    def take(self) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(("error", "naming"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only")])
@pytest.mark.parametrize("room", [*range(10), 14, 20])
def test_a_run_continues_after_the_disk_was_full_or_read_only(
    room: int, error: int, naming: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.zarr"
    output.mkdir()
    simulation = Simulation(str(output), seed=0, one_host=True)
    disk = Disk(monkeypatch, error=error)
    with simulated(simulation):
        disk.room = room
        simulation.finish(Config(0, 1))
        disk.room = 1000
        simulation.finish(Config(0, 1))
        simulation.close()
    first, second = simulation.endings
    assert naming in first.how
    assert second.how == "complete"
