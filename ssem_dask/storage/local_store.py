"""Zarr's store of local files, with the fence: every file is written or deleted only while its writer may do so."""

import asyncio
import contextlib
from pathlib import Path
from typing import Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import AccessModeLiteral
from zarr.storage import LocalStore

from ssem_dask.storage.fence import current_fence
from ssem_dask.storage.local_files import create_file, refuse_special


class FencedLocalStore(LocalStore):
    """A local store that asks the `storage.fence` under which it was made before it writes.

    The fence is kept, because Zarr's pool of threads does not pass on the context of its caller.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._fence = current_fence()

    def with_read_only(self, read_only: bool = False) -> Self:
        """See `LocalStore.with_read_only`."""
        store = super().with_read_only(read_only)
        store._fence = self._fence
        return store

    async def _open(self, *, mode: AccessModeLiteral | None = None) -> None:
        # Zarr makes the folder of a store that may be written, even if an array is to be opened that was removed.
        if self._fence is not None and not self.read_only and not self.root.exists():
            await asyncio.to_thread(self._fence.confirm)
        await super()._open(mode=mode)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See `LocalStore.get_sync`."""
        self._refuse_special(key)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See `LocalStore.get`."""
        self._refuse_special(key)
        return await super().get(key, prototype, byte_range)

    def set_sync(self, key: str, value: Buffer) -> None:
        """See `LocalStore.set_sync`."""
        self._ask_fence()
        super().set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        """See `LocalStore.delete_sync`."""
        self._ask_fence()
        super().delete_sync(key)

    async def set(self, key: str, value: Buffer) -> None:
        """See `LocalStore.set`."""
        await self._ask_fence_aside()
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """See `LocalStore.set_if_not_exists`, which needs hard links."""
        await self._ask_fence_aside()
        await asyncio.to_thread(create_file, self.root / key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """See `LocalStore.delete`."""
        await self._ask_fence_aside()
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """See `LocalStore.delete_dir`."""
        await self._ask_fence_aside()
        await super().delete_dir(prefix)

    def _refuse_special(self, key: str) -> None:
        """Raise ContentError about a pipe, which would be waited for, or a device, which has no end."""
        path = self.root / key
        with contextlib.suppress(OSError):
            refuse_special(path.stat().st_mode, path)

    def _ask_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    async def _ask_fence_aside(self) -> None:
        if self._fence is not None:
            await asyncio.to_thread(self._fence.check)  # it reads files
