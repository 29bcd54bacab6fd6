"""HDF5: one dataset, given as `file.h5` if it is the only volume, else as `file.h5:/path` or `file.h5/path`."""

import math
import re
import threading
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import channel_options, unnamed_channels
from ssem_dask.storage.formats.array_attributes import parse_array_attributes, plain_value
from ssem_dask.storage.formats.axes import order_axes
from ssem_dask.storage.formats.big_data_viewer import stored_sizes
from ssem_dask.storage.formats.chunk_count import grid_of, missing_note
from ssem_dask.storage.formats.hdf5_parts import VirtualDataset, beside, bounded, open_unlocked
from ssem_dask.storage.formats.imaris import IMARIS_IMAGE, Cropped, image_lengths, image_shape
from ssem_dask.storage.formats.source import HDF5_NAME, ReadOptions, SourceInfo, decoding, native_dtype
from ssem_dask.storage.lengths import sizes_of
from ssem_dask.types import AnyArray
from ssem_dask.units import plural, shortened

_BDV_CELLS = re.compile(r"t(?P<time>\d{5,})/s(?P<setup>\d{2,})/(?P<level>\d+)/cells")
"""Path of an image of BigDataViewer, which stores uint16 values as int16."""
_LEVEL = re.compile(r"(.*/)?(?:s|scale|level|mip)?(\d+)(/[^/\d]*)?")
_NAMES_SHOWN = 8


class Hdf5Source:
    """One dataset of an HDF5 file."""

    def __init__(self, url: str, options: ReadOptions) -> None:
        """Open the file and find the dataset.

        Raises:
            SourceError: the file is missing or damaged, or it is not clear which dataset is meant.
        """
        match = HDF5_NAME.match(url)
        file, name = (match["file"], match["dataset"] or match["path"]) if match is not None else (url, None)
        self._url = url
        self._lock = threading.Lock()
        with decoding(file):
            self._remote = None if location.is_local(file) else location.open_remote(file)
            self._file = open_unlocked(self._remote or location.local_path(file))
        try:
            with decoding(file):
                self._dataset = _find_dataset(self._file, file, name, options)
            self._describe(file, options)
        except BaseException:
            self.close()
            raise

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`."""
        with self._lock, decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            values = self._order.read(self._values, z_start=z_start, z_stop=z_stop, y_start=y_start, y_stop=y_stop)
            return self._typed(values)

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """See `Source.read_channels`."""
        band = {"z_start": z_start, "z_stop": z_stop, "y_start": y_start, "y_stop": y_stop}
        with self._lock, decoding(f"{self._url} sections {z_start} to {z_stop - 1}"):
            return [self._typed(values) for values in self._order.read_channels(self._values, numbers, **band)]

    def _typed(self, values: AnyArray) -> AnyArray:
        if self._reinterpreted:
            values = values.astype(np.int16, copy=False).view(np.uint16)
        return np.ascontiguousarray(values, dtype=self.info.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._remote is not None:
            self._remote.close()

    def _describe(self, file: str, options: ReadOptions) -> None:
        dataset = self._dataset
        path = dataset.name.strip("/")
        cells = _BDV_CELLS.fullmatch(path)
        attributes = {key: plain_value(value) for key, value in dataset.attrs.items()}
        parsed = parse_array_attributes(attributes, ndim=dataset.ndim, names=_axis_names(dataset))
        is_imaris = IMARIS_IMAGE.fullmatch(path) is not None
        shape = image_shape(dataset, f"{file}:/{path}") if is_imaris else dataset.shape
        is_one_of_several = cells is not None or is_imaris
        time, channel = (None, None) if is_one_of_several else (options.time, options.channel)
        self._order = order_axes(f"{file}:/{path}", shape, names=parsed.names, channel=channel, time=time)
        with decoding(f"{file}:/{path}"):
            values = bounded(dataset, where=f"{file}:/{path}")
            self._values = Cropped(values, shape) if is_imaris else values
            self._order.check_channels(self._values)
        dtype = native_dtype(dataset.dtype)
        self._reinterpreted = cells is not None and dtype == np.int16
        lengths = parsed.lengths
        if cells is not None and not lengths:
            lengths = stored_sizes(file, setup=int(cells["setup"]))
        elif is_imaris:
            lengths = image_lengths(self._file, shape)
        further = values.notes if isinstance(values, VirtualDataset) else ()
        self.info = SourceInfo(
            shape=self._order.shape,
            dtype=np.dtype(np.uint16) if self._reinterpreted else dtype,
            sizes=sizes_of(lengths),
            is_read_together=not is_one_of_several,
            channels=self._channels() if is_one_of_several else unnamed_channels(self._order.stored_channels),
            notes=(*self._order.notes, *_missing(dataset, f"{file}:/{path}"), *further),
        )

    def _channels(self) -> tuple[str, ...]:
        """Return the channels of a file with an image for each, if they are numbered from 0 without a gap; else ()."""
        numbers = {int(match["setup"]) for path in _volumes(self._file) if (match := _image_match(path)) is not None}
        return unnamed_channels(len(numbers)) if numbers == {*range(len(numbers))} else ()


def _axis_names(dataset: Any) -> list[str] | None:
    """Return the name of each axis: its label, or the dataset of its coordinates, as netCDF has it."""
    names = [
        dimension.label or (dimension[0].name.rpartition("/")[2] if len(dimension) else "")
        for dimension in dataset.dims
    ]
    return names if any(names) and all(names) else None


def _volumes(file: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of three axes or more, by their paths."""
    shapes: dict[str, tuple[int, ...]] = {}
    file.visititems(lambda path, node: shapes.update({path: node.shape}) if _is_volume(node) else None)
    return shapes


def _image_match(path: str) -> re.Match[str] | None:
    """Match the path of an image in a file that has one for each time point and channel."""
    return _BDV_CELLS.fullmatch(path) or IMARIS_IMAGE.fullmatch(path)


def _find_dataset(file: Any, url: str, name: str | None, options: ReadOptions) -> Any:
    shapes = _volumes(file)
    if not shapes:
        shapes = _linked(file, url)
    finest = _finest(shapes)
    volumes = shortened([f"{url}:/{path}" for path in finest], limit=_NAMES_SHOWN)
    if name is None:
        chosen = _chosen_cells(url, finest, options) or finest
        if len(chosen) == 1:
            return file[chosen[0]]
        if not shapes:
            raise SourceError(f"{url}: holds no dataset with three axes (z, y, x); check the file.")
        raise SourceError(f"{url}: holds several volumes; name one of them: {volumes}.")
    path = name.strip(":/")
    link = file.get(path, getlink=True)
    if isinstance(link, h5py.ExternalLink) and not location.exists(beside(file, link.filename)):
        raise SourceError(f"{url}: {name} is a link to {link.filename}, which is not there; copy that file too.")
    if path not in file:
        raise SourceError(f"{url}: holds no dataset {name}; its volumes are: {volumes or 'none'}.")
    node = file[path]
    if not _is_volume(node):
        inside = [found for found in finest if found.startswith(path + "/")]
        if len(inside) == 1:
            return file[inside[0]]
        raise SourceError(
            f"{url}: {name} is not an array with three axes (z, y, x); its volumes are: {volumes or 'none'}."
        )
    return node


def _linked(file: Any, url: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of volumes that the file has as links to others alone; SourceError if one is missing."""
    links = {name: file.get(name, getlink=True) for name in file}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, link in links.items():
        if not isinstance(link, h5py.ExternalLink):
            continue
        if not location.exists(beside(file, link.filename)):
            raise SourceError(f"{url}: /{name} is a link to {link.filename}, which is not there; copy that file too.")
        node = file.get(name)
        if _is_volume(node):
            shapes[name] = node.shape
    return shapes


def _is_volume(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.ndim >= 3 and node.dtype.kind in "biuf"


def _finest(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Leave out arrays that are coarser levels of another one: a higher number in the path, and smaller."""
    levels: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for path in shapes:
        image, match = _image_match(path), _LEVEL.fullmatch(path)
        if image is not None:
            key, level = (f"{image['time']}/{image['setup']}", "image"), int(image["level"])
        elif match is not None:
            key, level = (match[1] or "", match[3] or ""), int(match[2])
        else:
            key, level = (path, path), 0
        levels.setdefault(key, []).append((level, path))
    coarser = set()
    for group in levels.values():
        level, finest = min(group)
        for further, path in group:
            # Images of Imaris are padded, so that small ones take as much as their coarser levels.
            is_coarser = _image_match(path) is not None or math.prod(shapes[path]) < math.prod(shapes[finest])
            coarser |= {path} if further > level and is_coarser else set()
    return [path for path in shapes if path not in coarser]


def _chosen_cells(url: str, paths: list[str], options: ReadOptions) -> list[str] | None:
    """Choose an image of BigDataViewer or Imaris by time point and channel, or setup; None for other files."""
    matches = [match for path in paths if (match := _image_match(path)) is not None]
    if not matches:
        return None
    for group, at, option, word in (
        ("time", options.time, "--time", "time point"),
        ("setup", options.channel, "--channel", "channel"),
    ):
        values = sorted({int(match[group]) for match in matches})
        if at is None and len(values) > 1:
            choice = f"choose with {option} {values[0]} to {values[-1]}"
            if word == "channel" and values == [*range(len(values))]:
                choice = channel_options(len(values))
            raise SourceError(f"{url}: has {plural(len(values), word)}, but a volume has one; {choice}.")
        if at is not None and at not in values:
            raise SourceError(f"{url}: has no {word} {at}; choose with {option} {values[0]} to {values[-1]}.")
        matches = [match for match in matches if int(match[group]) == (values[0] if at is None else at)]
    return [match[0] for match in matches]


def _missing(dataset: Any, where: str) -> tuple[str, ...]:
    """Return a remark about chunks that are not stored."""
    if dataset.is_virtual or dataset.size == 0:
        return ()
    if dataset.chunks is None:
        empty = dataset.id.get_storage_size() == 0 and dataset.external is None
        return missing_note(where, stored=0 if empty else 1, expected=1, unit="block of values")
    expected = math.prod(grid_of(dataset.shape, dataset.chunks))
    return missing_note(where, stored=dataset.id.get_num_chunks(), expected=expected)
