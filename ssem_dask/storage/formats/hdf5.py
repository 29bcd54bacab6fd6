"""HDF5: a three-dimensional dataset (z, y, x), given as `file.h5` if it is the only one, else as `file.h5:/path`."""

import threading
from typing import Any

import fsspec
import h5py
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import HDF5_NAME, SourceInfo, decoding
from ssem_dask.types import AnyArray


class Hdf5Source:
    """One dataset of an HDF5 file."""

    def __init__(self, url: str) -> None:
        """Open the file and find the dataset.

        Raises:
            SourceError: the file is missing or damaged, or it is not clear which dataset is meant.
        """
        match = HDF5_NAME.match(url)
        if match is None:
            raise SourceError(f"{url}: is not the name of an HDF5 file (*.h5, *.hdf5); check it.")
        self._url = url
        self._lock = threading.Lock()
        file = match["file"]
        with decoding(file):
            self._remote = None if location.is_local(file) else fsspec.open(file, "rb").open()
            self._file = h5py.File(self._remote or location.local_path(file), "r")
        try:
            self._dataset = _dataset(self._file, file, match["dataset"])
        except BaseException:
            self.close()
            raise
        thickness, pixel_size = _sizes(self._dataset.attrs)
        z, y, x = self._dataset.shape
        dtype: np.dtype[Any] = self._dataset.dtype
        self.info = SourceInfo(
            shape=(z, y, x), dtype=dtype.newbyteorder("="), pixel_size=pixel_size, section_thickness=thickness
        )

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with self._lock, decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            return np.asarray(self._dataset[z_start:z_stop, y_start:y_stop], dtype=self.info.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._remote is not None:
            self._remote.close()


def _dataset(file: Any, url: str, name: str | None) -> Any:
    paths: list[str] = []
    file.visititems(lambda path, node: paths.append(path) if _is_volume(node) else None)
    volumes = ", ".join(f"{url}:/{path}" for path in paths)
    if name is None:
        if len(paths) == 1:
            return file[paths[0]]
        if not paths:
            raise SourceError(f"{url}: holds no dataset with three axes (z, y, x); check the file.")
        raise SourceError(f"{url}: holds several volumes; name one of them: {volumes}.")
    if name.strip("/") not in file:
        raise SourceError(f"{url}: holds no dataset {name}; its volumes are: {volumes or 'none'}.")
    node = file[name.strip("/")]
    if not _is_volume(node):
        raise SourceError(
            f"{url}: {name} is not an array with three axes (z, y, x); its volumes are: {volumes or 'none'}."
        )
    return node


def _is_volume(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.ndim == 3


def _sizes(attributes: Any) -> tuple[float | None, float | None]:
    """Return (section thickness, pixel size) in nm from `resolution` (nm) or `element_size_um`, both (z, y, x)."""
    for name, factor in (("resolution", 1.0), ("element_size_um", 1e3)):
        values = np.asarray(attributes.get(name, ()))
        if values.shape == (3,) and np.issubdtype(values.dtype, np.number) and np.all(values > 0):
            z, y, x = (float(value) * factor for value in values)
            return z, (y if abs(y - x) <= 1e-3 * y else None)
    return None, None
