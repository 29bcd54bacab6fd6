"""Files and folders of this machine: written atomically, created exclusively, removed as a whole.

A process that is killed leaves at most `*.partial` files, which no listing of `storage.location` shows.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from ssem_dask.errors import ContentError

PARTIAL = ".partial"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of a file system without hard links, such as exFAT and some network file systems."""


def with_home(path: Path) -> Path:
    """Return a path with `~` replaced by the home folder; unchanged if there is no such user, as the shell does."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def read_file(path: Path, *, start: int = 0, length: int = -1) -> bytes:
    """Return the content of a file, or a part of it.

    A store may hold a pipe, which would be waited for, or a link to a device, which has no end.

    Args:
        path: of the file.
        start: first byte.
        length: number of bytes at most; -1: up to the end.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no file.
        ContentError: it is a pipe or a device.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        refuse_special(os.fstat(file.fileno()).st_mode, path)
        if start:
            file.seek(start)
        return file.read(length)


def refuse_special(mode: int, path: Path) -> None:
    """Raise ContentError about a pipe or a device, IsADirectoryError about a folder."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise ContentError(f"{path}: is a pipe or a device, not a file; delete it.")


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, with the folders it needs; replaces an existing file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        _write_synced(partial, content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def create_file(path: Path, content: bytes) -> bool:
    """Write a file only if there is none, with the folders it needs; return False if there is one.

    The content appears together with the name, except on a file system without hard links: there a reader may see an
    empty file for a moment, or for ever if the process is killed in that moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        _write_synced(partial, content)
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS or not partial.exists():
            raise
        return _create_in_place(path, content)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, content: bytes) -> bool:
    try:
        _write_synced(path, content)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def remove_folder(path: Path, *, confirm: Callable[[], None]) -> None:
    """Remove a folder with all that is in it.

    The folder loses its name first, and at once. A process that is suspended in the middle of a long removal may find
    a new folder of that name when it continues, and must not touch it.

    Args:
        path: of the folder.
        confirm: raises if the folder may not be removed; then it stays.
    """
    confirm()
    delete_removed(path)
    removed = _removed_name(path)
    try:
        path.rename(removed)
    except OSError:  # a mount point, or a parent that may not be written: as far as it goes
        shutil.rmtree(path)
        return
    try:
        confirm()
    except BaseException:
        # The suspension was just before the renaming: what got renamed belongs to others.
        with contextlib.suppress(OSError):
            removed.rename(path)
        raise
    shutil.rmtree(removed)


def delete_removed(path: Path) -> None:
    """Delete what `remove_folder` has left of a folder, if it was killed."""
    shutil.rmtree(_removed_name(path), ignore_errors=True)


def _removed_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.removed{PARTIAL}")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
