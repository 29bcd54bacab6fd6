"""One TIFF file of many pages, one section per page; also ImageJ stacks, whose sections follow a single page."""

import threading
from typing import Any

import fsspec
import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.source import SourceInfo, decoding
from ssem_dask.storage.formats.tiff_tags import check_whole, grey_dtype, sizes
from ssem_dask.types import AnyArray, ShapeZYX


class TiffStackSource:
    """Pages of one size and type."""

    def __init__(self, url: str) -> None:
        """Check the tags of every page.

        Raises:
            SourceError: the file is missing, damaged or truncated, or a page differs from the first or is not grey.
        """
        self._url = url
        self._lock = threading.Lock()
        with decoding(url):
            self._file = None if location.is_local(url) else fsspec.open(url, "rb").open()
            self._tiff = tifffile.TiffFile(self._file or location.local_path(url))
            try:
                self._contiguous, shape, dtype = self._layout()
            except BaseException:
                self.close()
                raise
            pixel_size, thickness = sizes(self._tiff)
        self.info = SourceInfo(shape=shape, dtype=dtype, pixel_size=pixel_size, section_thickness=thickness)

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`; compressed pages are decoded as a whole, one at a time."""
        out = np.empty((z_stop - z_start, y_stop - y_start, self.info.shape[2]), self.info.dtype)
        with self._lock:
            for index, z in enumerate(range(z_start, z_stop)):
                with decoding(f"{self._url} page {z}"):
                    out[index] = self._rows(z, y_start, y_stop)
        return out

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        if self._file is not None:
            self._file.close()

    def _layout(self) -> tuple[int | None, ShapeZYX, np.dtype[Any]]:
        """Return where the values start (None: they are stored page by page), their shape and type."""
        tiff, url = self._tiff, self._url
        check_whole(tiff, url)
        first: Any = tiff.pages.first
        page: Any
        dtype = grey_dtype(first, url)
        shape_yx = (first.imagelength, first.imagewidth)
        for number, page in enumerate(tiff.pages):
            page_shape = (page.imagelength, page.imagewidth)
            if page_shape != shape_yx:
                raise SourceError(
                    f"{url}: page {number} is {page_shape[1]} × {page_shape[0]} pixels, but page 0 is "
                    f"{shape_yx[1]} × {shape_yx[0]}; bring all sections to one size."
                )
            if grey_dtype(page, f"{url} page {number}") != dtype:
                raise SourceError(
                    f"{url}: page {number} is {page.dtype}, but page 0 is {dtype}; bring all sections to one type."
                )
        series = tiff.series[0]
        kinds = dict(zip(series.axes, series.shape, strict=True))
        if kinds.get("C", 1) > 1 and any(kinds.get(axis, 1) > 1 for axis in "ZT"):  # C alone: sections, mislabelled
            raise SourceError(f"{url}: has {kinds['C']} channels, but a volume has one; export one channel.")
        sections = len(tiff.pages)
        if sections == 1 and series.size > shape_yx[0] * shape_yx[1]:
            sections = series.size // (shape_yx[0] * shape_yx[1])
            if series.dataoffset is None or series.dataoffset + series.nbytes > tiff.filehandle.size:
                raise SourceError(
                    f"{url}: the TIFF is truncated, it ends before its {sections} sections; copy it again."
                )
            return series.dataoffset, (sections, *shape_yx), dtype
        return None, (sections, *shape_yx), dtype

    def _rows(self, z: int, y_start: int, y_stop: int) -> AnyArray:
        if self._contiguous is None:
            return np.asarray(self._tiff.pages[z].asarray())[y_start:y_stop]
        _, y, x = self.info.shape
        stored = self.info.dtype.newbyteorder(self._tiff.byteorder)
        count = (y_stop - y_start) * x
        self._tiff.filehandle.seek(self._contiguous + (z * y + y_start) * x * stored.itemsize)
        content = self._tiff.filehandle.read(count * stored.itemsize)
        return np.frombuffer(content, stored, count).reshape(y_stop - y_start, x)
