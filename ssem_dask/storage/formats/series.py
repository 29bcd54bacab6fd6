"""A series: one image file per section, in natural order of the names, or in the order of a list."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import find_channel
from ssem_dask.storage.formats.channel_files import ChannelFiles, channel_files, channel_folders, several_series
from ssem_dask.storage.formats.foreign import no_images_message
from ssem_dask.storage.formats.grey import check_channel
from ssem_dask.storage.formats.image_file import Section, read_section, read_section_header
from ssem_dask.storage.formats.section_order import natural_order, order_notes
from ssem_dask.storage.formats.source import IMAGE_SUFFIXES, TIFF, ReadOptions, SourceInfo
from ssem_dask.storage.formats.tiff_file import TiffSource
from ssem_dask.storage.lengths import sizes_of_all
from ssem_dask.types import AnyArray
from ssem_dask.units import plural

_MOST_FOLDERS = 10_000
"""Folders that are looked at for images, if a folder holds none itself."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of a text in UTF-16, as PowerShell writes it."""
_READERS = 4
"""Sections decoded at once, and therefore held in memory beside the band."""


class SeriesSource:
    """Image files of one size and type."""

    def __init__(
        self, files: list[str], options: ReadOptions, *, where: str, channels: ChannelFiles | None = None
    ) -> None:
        """Check the header of every file.

        Args:
            files: URLs, in order of z.
            options: choices of the user.
            where: what the user gave, for error messages.
            channels: files of each channel, in place of `files`, if channels have files of their own.

        Raises:
            SourceError: there is no file, one is damaged, or one differs from the first in size or type; there are
                several channels, and none was chosen.
        """
        if channels:
            files, options = _chosen(where, channels, options)
        if not files:
            raise SourceError(no_images_message(where))
        if options.time:
            raise SourceError(f"{where}: is a series of images without time points, so --time {options.time} is none.")
        self._files, self._options = files, options
        self._readers = ThreadPoolExecutor(_READERS)
        try:
            headers = list(self._readers.map(lambda file: read_section_header(file, options), files))
            self._check(headers)
            self._headers = headers
            names = tuple(file.rpartition("/")[2] for file in files)
            self.info = SourceInfo(
                shape=(len(files), *headers[0].shape),
                dtype=headers[0].dtype,
                channels=tuple(channels) if channels else headers[0].channels,
                is_read_together=not channels,
                sizes=sizes_of_all(zip(names, (header.sizes for header in headers), strict=True)),
                names=names,
                notes=(*order_notes(names), *self._orientation_notes(headers, names), *self._missing_notes(headers)),
            )
        except BaseException:
            self._readers.shutdown(cancel_futures=True)
            raise

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`; every file is decoded as a whole."""
        return self._read(None, z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)[0]

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """See `Source.read_channels`."""
        return self._read(numbers, z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)

    def _read(
        self, channels: Sequence[int] | None, *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        shape = (z_stop - z_start, y_stop - y_start, self.info.shape[2])
        out = [np.empty(shape, self.info.dtype) for _ in range(len(channels) if channels else 1)]

        def fill(index: int) -> None:
            file, header = self._files[z_start + index], self._headers[z_start + index]
            for band, image in zip(
                out, read_section(file, self._options, header=header, channels=channels), strict=True
            ):
                if image.shape != self.info.shape[1:]:
                    raise SourceError(
                        f"{file}: its header says {_size(self.info.shape[1:])}, but it holds {image.shape}."
                    )
                band[index] = image[y_start:y_stop]

        for _ in self._readers.map(fill, range(shape[0])):
            pass
        return out

    def close(self) -> None:
        """Stop the readers."""
        self._readers.shutdown(cancel_futures=True)

    def _check(self, headers: list[Section]) -> None:
        files, first = self._files, headers[0]
        for file, header in zip(files, headers, strict=True):
            if header.shape != first.shape:
                raise SourceError(
                    f"{file}: is {_size(header.shape)} pixels, but {files[0]} is {_size(first.shape)}; "
                    "bring all sections to one size."
                )
            if header.dtype != first.dtype:
                raise SourceError(
                    f"{file}: is {header.dtype}, but {files[0]} is {first.dtype}; bring all sections to one type."
                )
            if self._options.channel is not None and len(header.channels) != len(first.channels):
                raise SourceError(
                    f"{file}: has {plural(max(1, len(header.channels)), 'channel')}, but {files[0]} has "
                    f"{max(1, len(first.channels))}; bring all sections to the same channels."
                )
        if first.channels:
            check_channel(files[0], self._options.channel, len(first.channels))
        if first.channels and self._options.channel is None:
            read_section(files[0], self._options)  # channels that differ end the import here, not later

    @staticmethod
    def _missing_notes(headers: list[Section]) -> list[str]:
        missing = [note for header in headers for note in header.missing]
        others = f" (so have {plural(len(missing) - 1, 'other file')})" if len(missing) > 1 else ""
        return [missing[0] + others] if missing else []

    @staticmethod
    def _orientation_notes(headers: list[Section], names: tuple[str, ...]) -> list[str]:
        turned = [name for header, name in zip(headers, names, strict=True) if header.orientation != 1]
        return (
            [f"orientation tags are applied to {len(turned)} of {len(names)} files, first {turned[0]}"]
            if turned
            else []
        )


def _chosen(where: str, channels: ChannelFiles, options: ReadOptions) -> tuple[list[str], ReadOptions]:
    """Return the files of the chosen channel, and the options that are left for reading them."""
    names = list(channels)
    if options.channel is None:
        raise SourceError(several_series(where, names))
    number = find_channel(where, options.channel, ("",) * len(names))
    return channels[names[number]], replace(options, channel=None)


def channels_of(url: str, files: list[str]) -> ChannelFiles:
    """Return the files of each channel of a folder, if channels have files or folders of their own; else {}.

    Raises:
        SourceError: the folder holds tiles, or a folder for each section.
    """
    if files:
        return channel_files(url, files)
    folders: dict[str, list[str]] = {}
    for name in natural_order(location.list_names(url))[:_MOST_FOLDERS]:
        place = location.join(url, name)
        if "." not in name and (not location.is_local(place) or location.local_path(place).is_dir()):
            images = [location.join(place, image) for image in location.list_names(place) if _is_image(image)]
            folders |= {name: images} if images else {}
    return channel_folders(url, folders)


def open_file_set(files: list[str], options: ReadOptions) -> TiffSource | None:
    """Open the files of a folder as one OME-TIFF set, if they are one and hold several pages each; else return None."""
    if len(files) < 2 or not files[0].lower().endswith(TIFF) or not location.is_local(files[0]):
        return None
    try:
        opened = TiffSource(files[0], options)
    except SourceError:
        return None  # the series reports what is wrong with the first file
    pages = opened.info.shape[0]
    if opened.set_files == frozenset(file.rpartition("/")[2] for file in files) and pages > len(files):
        return opened
    opened.close()
    return None


def files_of(url: str) -> list[str]:
    """Return the image files of a folder, or those that match a glob pattern, in natural order.

    Raises:
        SourceError: the folder holds images of several kinds, so it is not clear which are the sections.
    """
    if location.is_pattern(url):
        return natural_order([name for name in location.glob_urls(url) if _is_image(name)])
    names = natural_order([name for name in location.list_names(url) if _is_image(name)])
    kinds = sorted({name.lower().rpartition(".")[2].replace("tiff", "tif").replace("jpeg", "jpg") for name in names})
    if len(kinds) > 1:
        raise SourceError(
            f"{url}: holds images of several kinds ({', '.join(kinds)}); "
            f"name the sections, for example '{location.join(url, '*.' + kinds[0])}'."
        )
    return [location.join(url, name) for name in names]


def listed_files(folder: str, order: str) -> list[str]:
    """Return the image files that a text file lists, one name per line, in its order.

    Args:
        folder: folder of the files; names with a path begin there, or where the list is.
        order: URL of the text file.

    Raises:
        SourceError: the list is missing, empty, names a file twice, or a file that is not there.
    """
    with location.reading(order):
        content = location.read_bytes(order)
    text = content.decode("utf-16" if content[:2] in _UTF_16 else "utf-8-sig", "replace")
    files: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip().strip('"')
        if not name:
            continue
        candidates = [name] if "://" in name or name.startswith("/") else [location.join(folder, name)]
        if location.is_local(order) and candidates[0] != name:
            candidates.append(location.join(location.parent(order) or "", name))
        file = next((candidate for candidate in candidates if location.exists(candidate)), None)
        if file is None:
            raise SourceError(f"{order}: line {number} names {name}, which is not in {folder}; correct the list.")
        if file in files:
            raise SourceError(f"{order}: lines {files[file]} and {number} both name {name}; list each section once.")
        files[file] = number
    if not files:
        raise SourceError(f"{order}: lists no file; write one name of an image per line.")
    return list(files)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"
