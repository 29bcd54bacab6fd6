"""Interface of all formats: shape and type before values are read, then any band of sections.

Law: `read` of a band equals the same band of the whole volume, and holds no more in memory than the band and a few
sections.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.storage import location
from ssem_dask.types import AnyArray, ShapeZYX

TIFF = (".tif", ".tiff")
PNG = (".png",)
JPEG = (".jpg", ".jpeg")
IMAGE_SUFFIXES = TIFF + PNG + JPEG
HDF5_NAME = re.compile(r"^(?P<file>.+\.(?:h5|hdf5|hdf|he5))(?::(?P<dataset>.+))?$", re.IGNORECASE)
"""Name of an HDF5 file, with or without a dataset."""
_NM_PER_UNIT = {
    "a": 0.1,
    "å": 0.1,
    "angstrom": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "\\u00b5m": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Shape, type and physical size of a volume, as far as its format records them."""

    shape: ShapeZYX
    dtype: np.dtype[Any]
    pixel_size: float | None = None
    """nm per pixel in y and x; None if the files do not contain it."""
    section_thickness: float | None = None
    """nm per section; None if the files do not contain it."""


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

    def close(self) -> None:
        """Close open files."""
        ...


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turn any error of a decoder about a damaged file into a `SourceError` that names the file."""
    try:
        yield
    except (SsemDaskError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise SourceError(location.not_found_message(where)) from error
    except PermissionError as error:
        raise SourceError(f"{where}: no permission to read it; ask for the right to read, or copy it.") from error
    except Exception as error:  # decoders raise errors of a dozen unrelated kinds
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise SourceError(
            f"{where}: cannot be decoded ({text or type(error).__name__}), it is damaged, truncated or of another "
            "format; export it again."
        ) from error


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts s2 before s10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part)


def length_in_nm(value: float, *, unit: str) -> float | None:
    """Return a length in nm; None if the unit is not a known length or the value is not positive."""
    factor = _NM_PER_UNIT.get(unit.strip().lower())
    return value * factor if factor is not None and value > 0 else None
