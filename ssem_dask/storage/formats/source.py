"""Interface of all formats: shape and type before values are read, then any band of sections.

Law: `read` of a band equals the same band of the whole volume, and holds no more in memory than the band and a few
sections.
"""

import errno
import logging
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.storage import location
from ssem_dask.storage.lengths import UNKNOWN_SIZES, Sizes
from ssem_dask.types import AnyArray, ShapeZYX

TIFF = (".tif", ".tiff")
PNG = (".png",)
JPEG = (".jpg", ".jpeg")
IMAGE_SUFFIXES = TIFF + PNG + JPEG
HDF5_NAME = re.compile(r"^(?P<file>.+?\.(?:h5|hdf5|hdf|he5|ims))(?::(?P<dataset>.+)|(?P<path>/.+))?$", re.IGNORECASE)
"""Name of an HDF5 file, with or without a dataset: `file.h5:/raw` or `file.h5/raw`."""
_LOCKED = re.compile(r"unable to lock|already open|resource temporarily unavailable|file is locked", re.IGNORECASE)
_NO_CODEC = re.compile(
    r"requires the 'imagecodecs'|codec not available|unknown codec|not supported.{0,30}compress|"
    r"compress.{0,40}not supported|"
    r"can't (?:open|synchronously read).{0,40}filter|required filter|unknown compression|DelayedImportError",
    re.IGNORECASE,
)
_METADATA_BYTES = 64 << 20
"""Bytes that an image file may have beside its pixels."""
_HARDWARE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EREMOTEIO}


_ALWAYS_DECODED_BYTES = 1 << 30
"""Bytes of a decoded image that are always accepted."""
_MAX_EXPANSION = 10_000
"""Factor by which an image may expand: deflate reaches 1032, and an empty image in other codecs some thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Choices of the user about how a source is read."""

    channel: int | None = None
    """Channel to read, from 0; None if the source has one, or equal ones."""
    time: int | None = None
    """Time point to read, from 0; None if the source has one."""
    labels: bool = False
    """Whether the values are ids, to which palettes and inversion do not apply."""
    order: str | None = None
    """URL of a text file that lists the image files in order of z, one name per line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Shape, type and physical size of a volume, as far as its format records them."""

    shape: ShapeZYX
    dtype: np.dtype[Any]
    sizes: Sizes = UNKNOWN_SIZES
    """Size of a voxel."""
    channels: tuple[str, ...] = ()
    """Name of each channel that the source has, empty if it has none; () if there is one channel."""
    is_read_together: bool = True
    """Whether `Source.read_channels` reads all channels; False if each is a source of its own."""
    names: tuple[str, ...] = ()
    """Name of the file or label of each section; empty if sections have no names."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, one sentence each."""


class Source(Protocol):
    """A volume in some format, open for reading."""

    @property
    def info(self) -> SourceInfo:
        """Shape, type and physical size."""
        ...

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """Read values (z, y, x) of sections `z_start <= z < z_stop`, rows `y_start <= y < y_stop`, all of x.

        Raises:
            SourceError: a file is damaged; names it.
        """
        ...

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """Read such a band of several channels, whatever channel was chosen; what holds all of them is decoded once.

        Raises:
            SourceError: a file is damaged; names it.
        """
        ...

    def close(self) -> None:
        """Close open files."""
        ...


def native_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a type in native byte order; numpy has two names for integers of 64 bits, of which Zarr knows one."""
    native: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    return np.dtype(native.str)


def refuse_no_file(where: str, path: Path) -> None:
    """Raise SourceError about a local path that is a folder, or a pipe or a device, which would be waited for."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise SourceError(f"{where}: is a folder, but its name is that of an image; rename it or move it away.")
    if not stat.S_ISREG(mode):
        raise SourceError(f"{where}: is a pipe or a device, not a file; move it away.")


def refuse_overlong_image(where: str, *, declared: int, stored: int) -> None:
    """Raise SourceError about a file that is far longer than its image, before all of it is read."""
    if stored > 4 * declared + _METADATA_BYTES:
        raise SourceError(
            f"{where}: has {stored} bytes, but its image takes {declared} without compression; export it again."
        )


def refuse_bomb(where: str, *, declared: int, stored: int) -> None:
    """Raise SourceError if a header declares an image that so few bytes cannot hold, before memory is taken for it.

    Args:
        where: name of the file or page.
        declared: bytes of the decoded image.
        stored: bytes of the encoded one.
    """
    if declared > max(_ALWAYS_DECODED_BYTES, stored * _MAX_EXPANSION):
        raise SourceError(
            f"{where}: declares an image of {declared} bytes, but holds only {stored} bytes of it; export it again."
        )


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turn any error of a decoder into a `SourceError` that names the file and the cause; keep decoders from logging.

    A file that is locked, that needs another codec or whose disk fails is not called damaged.
    """
    try:
        with _quiet():
            yield
    except SsemDaskError:
        raise
    except MemoryError as error:
        raise SourceError(
            f"{where}: takes more memory than there is ({error}); store it in smaller chunks, or use a larger machine."
        ) from error
    except FileNotFoundError as error:
        raise SourceError(location.not_found_message(where)) from error
    except PermissionError as error:
        raise SourceError(f"{where}: no permission to read it; ask for the right to read, or copy it.") from error
    except Exception as error:  # decoders raise errors of a dozen unrelated kinds
        raise SourceError(_diagnosis(where, error)) from error


def _diagnosis(where: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if _LOCKED.search(text):
        return (
            f"{where}: another program has it open ({text}); close it there, or copy the file and import the copy. "
            "If no "
            "program has it open, `h5clear -s FILE` removes the mark."
        )
    if _NO_CODEC.search(text) or isinstance(error, ImportError):
        return f"{where}: its compression cannot be decoded here ({text}); export it with another compression."
    if "encrypted" in text:
        return f"{where}: is encrypted ({text}); decrypt or unpack it first."
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{where}: is a symbolic link that leads back to itself; copy the file that was meant."
    if isinstance(error, OSError) and error.errno in _HARDWARE:
        return f"{where}: the disk or the network does not deliver it ({text}); check them and try again."
    return f"{where}: cannot be decoded ({text}), it is damaged, truncated or of another format; export it again."


class _QuietThreads(logging.Filter):
    """Filter that drops what decoders log in threads that report errors themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.state = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return not getattr(self.state, "depth", 0)


_quiet_threads = _QuietThreads()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop records of tifffile's logger that this thread makes: the errors behind them are raised as sentences."""
    logging.getLogger("tifffile").addFilter(_quiet_threads)  # does nothing if it is there
    state = _quiet_threads.state
    state.depth = getattr(state, "depth", 0) + 1
    try:
        yield
    finally:
        state.depth -= 1
