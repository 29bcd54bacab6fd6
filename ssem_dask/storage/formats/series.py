"""A series: one image file per section, in natural order of the names (s2 before s10)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.image_file import read_header, read_image
from ssem_dask.storage.formats.source import IMAGE_SUFFIXES, SourceInfo, natural_key
from ssem_dask.types import AnyArray

_READERS = 4
"""Sections decoded at once, and therefore held in memory beside the band."""


class SeriesSource:
    """Image files of one size and type."""

    def __init__(self, files: list[str], *, where: str) -> None:
        """Check the header of every file.

        Args:
            files: URLs, in order of z.
            where: what the user gave, for error messages.

        Raises:
            SourceError: there is no file, one is damaged, or one differs from the first in size or type.
        """
        if not files:
            raise SourceError(
                f"{where}: holds no images (looked for {', '.join('*' + suffix for suffix in IMAGE_SUFFIXES)}); "
                "check the path."
            )
        self._files = files
        self._readers = ThreadPoolExecutor(_READERS)
        headers = self._readers.map(read_header, files)
        try:
            first = next(headers)
            for file, header in zip(files[1:], headers, strict=True):
                if header.shape != first.shape:
                    raise SourceError(
                        f"{file}: is {_size(header.shape)} pixels, but {files[0]} is {_size(first.shape)}; "
                        "bring all sections to one size."
                    )
                if header.dtype != first.dtype:
                    raise SourceError(
                        f"{file}: is {header.dtype}, but {files[0]} is {first.dtype}; bring all sections to one type."
                    )
        except BaseException:
            self._readers.shutdown(cancel_futures=True)
            raise
        self.info = SourceInfo(shape=(len(files), *first.shape), dtype=first.dtype, pixel_size=first.pixel_size)

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`; every file is decoded as a whole."""
        rows = slice(y_start, y_stop)
        out = np.empty((z_stop - z_start, y_stop - y_start, self.info.shape[2]), self.info.dtype)

        def fill(index: int) -> None:
            file = self._files[z_start + index]
            image = read_image(file)
            if image.shape != self.info.shape[1:]:
                raise SourceError(f"{file}: its header says {_size(self.info.shape[1:])}, but it holds {image.shape}.")
            out[index] = image[rows]

        for _ in self._readers.map(fill, range(len(out))):
            pass
        return out

    def close(self) -> None:
        """Stop the readers."""
        self._readers.shutdown(cancel_futures=True)


def files_of(url: str) -> list[str]:
    """Return the image files of a folder, or those that match a glob pattern, in natural order.

    Raises:
        SourceError: the folder holds images of several kinds, so it is not clear which are the sections.
    """
    if location.is_pattern(url):
        return sorted((name for name in location.glob_urls(url) if _is_image(name)), key=natural_key)
    names = sorted((name for name in location.list_names(url) if _is_image(name)), key=natural_key)
    kinds = sorted({name.lower().rpartition(".")[2].replace("tiff", "tif").replace("jpeg", "jpg") for name in names})
    if len(kinds) > 1:
        raise SourceError(
            f"{url}: holds images of several kinds ({', '.join(kinds)}); "
            f"name the sections, for example '{location.join(url, '*.' + kinds[0])}'."
        )
    return [location.join(url, name) for name in names]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"
