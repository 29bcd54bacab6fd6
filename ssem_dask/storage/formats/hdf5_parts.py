"""Values of an HDF5 dataset that are in other files: the parts of a virtual dataset, and external storage.

HDF5 reads what it cannot find there as the fill value. So every part is looked for before values are read.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.formats.hdf5_chunks import BoundedDataset
from ssem_dask.storage.formats.source import decoding, refuse_no_file
from ssem_dask.types import AnyArray
from ssem_dask.units import plural, shortened

_SAME_FILE = "."
_NUMBERED = "%b"
_DEEPEST = 4
"""Virtual datasets whose parts are virtual, at most."""
_UNLIMITED = h5py.h5s.UNLIMITED


@dataclass(slots=True, kw_only=True)
class _Part:
    """A dataset that holds values of a virtual one."""

    file: str
    """Its file; "" for that of the virtual dataset."""
    name: str
    boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """First and last place of its values in the virtual dataset."""
    needed: tuple[int, ...] = ()
    """Extents that it must have; () if only the number of its values is known."""
    values: int = 0
    """Values that it must have."""
    looked_at: bool = False


class VirtualDataset:
    """A virtual dataset that can be sliced; the chunks of its parts are bounded as in `BoundedDataset`."""

    def __init__(self, dataset: Any, *, where: str, depth: int = 0) -> None:
        """Look for the parts.

        Raises:
            SourceError: a part is missing, smaller than the virtual dataset says, or cannot be read.
        """
        self.shape: tuple[int, ...] = dataset.shape
        self._dataset, self._where, self._depth = dataset, where, depth
        if depth > _DEEPEST:
            raise SourceError(f"{where}: its parts have parts in turn, {depth} times; export it as one array.")
        self._parts, placed = self._find_parts()
        self._check_files()
        for part in self._parts:
            self._check(part)
        self.notes: tuple[str, ...] = ()
        if placed < dataset.size:
            self.notes = (
                f"{where}: {dataset.size - placed:,} of {dataset.size:,} pixels are in no part of it, read as the fill "
                "value.",
            )

    def __getitem__(self, index: tuple[slice | int, ...]) -> AnyArray:
        """Return the values of a part of the dataset."""
        spans = [
            (at, at + 1) if isinstance(at, int) else at.indices(extent)[:2]
            for at, extent in zip(index, self.shape, strict=True)
        ]
        for part in self._parts:
            if not part.looked_at and any(_overlap(spans, box) for box in part.boxes):
                with self._opened(part) as (dataset, where):
                    _look_at_all(dataset, where, self._depth)
                part.looked_at = True
        values: AnyArray = self._dataset[index]
        return values

    def _find_parts(self) -> tuple[list[_Part], int]:
        """Return the parts, and how many values they give."""
        parts: dict[tuple[str, str], _Part] = {}
        placed = 0
        for source in self._dataset.virtual_sources():
            if _NUMBERED in source.file_name or _NUMBERED in source.dset_name:
                raise SourceError(
                    f"{self._where}: its parts are numbered ({source.file_name}), so that nobody can know how many "
                    "belong to it; export it as one array."
                )
            file = "" if source.file_name == _SAME_FILE else beside(self._dataset.file, source.file_name)
            part = parts.setdefault((file, source.dset_name), _Part(file=file, name=source.dset_name))
            values = int(source.vspace.get_select_npoints())
            placed += values
            part.values = max(part.values, values)
            part.boxes.append(tuple(tuple(map(int, ends)) for ends in source.vspace.get_select_bounds()))  # type: ignore[arg-type]
            if source.src_space.get_simple_extent_ndims():  # else all of it, without a shape
                ends = [int(last) + 1 for last in source.src_space.get_select_bounds()[1]]
                part.needed = tuple(max(pair) for pair in zip(ends, part.needed or ends, strict=True))
        return list(parts.values()), placed

    def _check_files(self) -> None:
        files = Counter(part.file for part in self._parts if part.file)
        missing = sorted(file for file in files if not location.exists(file))
        if missing:
            names = shortened([file.rpartition("/")[2] for file in missing], limit=3)
            raise SourceError(
                f"{self._where}: is made of {plural(len(files), 'file')}, of which {len(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing ({names}); copy all of them."
            )

    def _check(self, part: _Part) -> None:
        with self._opened(part) as (dataset, where):
            shape, needed = dataset.shape, part.needed
            fits = not needed or (len(shape) == len(needed) and all(np.array(shape) >= needed))
            if not fits or dataset.size < part.values:
                raise SourceError(
                    f"{where}: has shape {shape}, but {self._where} needs {needed or part.values} of it; copy it again."
                )
            if dataset.external:
                raise SourceError(f"{where}: its values are in raw files, but it is part of another; export it as one.")
            bounded(dataset, where=where, depth=self._depth + 1)

    @contextmanager
    def _opened(self, part: _Part) -> Iterator[tuple[Any, str]]:
        """Open a part; SourceError if there is no such dataset."""
        where = f"{part.file or self._dataset.file.filename}:{part.name}"
        with decoding(where):
            if part.file:
                refuse_no_file(where, location.local_path(part.file))
            file = self._dataset.file if not part.file else open_unlocked(location.local_path(part.file))
            try:
                dataset = file.get(part.name)
                if not isinstance(dataset, h5py.Dataset):
                    raise SourceError(f"{where}: is not there, but {self._where} is made of it; copy the file again.")
                yield dataset, where
            finally:
                if part.file:
                    file.close()


class ExternalDataset:
    """A dataset whose values are in raw files, which can be sliced.

    HDF5 looks for these files in the folder of the process, and fills with zeros where they end.
    """

    def __init__(self, dataset: Any, *, where: str) -> None:
        """Look for the files.

        Raises:
            SourceError: one is missing, shorter than it must be, or not below the folder of the HDF5 file.
        """
        self.shape: tuple[int, ...] = dataset.shape
        self._dtype = dataset.dtype
        self._segments: list[tuple[Path, int, int]] = []
        folder = Path(location.local_path(location.parent(dataset.file.filename) or ".")).resolve()
        left = dataset.size * dataset.dtype.itemsize
        for name, offset, size in dataset.external:
            place = Path(beside(dataset.file, name)).resolve()
            if not place.is_relative_to(folder):
                raise SourceError(
                    f"{where}: its values are in {name}, outside of the folder of the file; export it as one file, for "
                    "example with h5repack."
                )
            if not place.is_file():
                raise SourceError(f"{where}: its values are in {name}, which is not there; copy that file too.")
            needed = left if size == _UNLIMITED else min(left, size)
            if place.stat().st_size < offset + needed:
                raise SourceError(
                    f"{where}: its values are in {name}, which has {place.stat().st_size} bytes, but {offset + needed} "
                    "are needed; copy that file again."
                )
            self._segments.append((place, offset, needed))
            left -= needed
        if left:
            raise SourceError(f"{where}: {left} bytes of its values are in no file; export it again.")

    def __getitem__(self, index: tuple[slice | int, ...]) -> AnyArray:
        """Return the values of a part of the dataset; all values along the first axis of it are in memory at once."""
        first = index[0]
        start, stop = (first, first + 1) if isinstance(first, int) else first.indices(self.shape[0])[:2]
        step = math.prod(self.shape[1:]) * self._dtype.itemsize
        content = b"".join(self._read(start * step, stop * step))
        values: AnyArray = np.frombuffer(content, self._dtype).reshape(stop - start, *self.shape[1:])
        return values[(0 if isinstance(first, int) else slice(None), *index[1:])]

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        at = 0
        for place, offset, size in self._segments:
            inside = max(start, at), min(stop, at + size)
            if inside[0] < inside[1]:
                with place.open("rb") as file:
                    file.seek(offset + inside[0] - at)
                    yield file.read(inside[1] - inside[0])
            at += size


Readable: TypeAlias = BoundedDataset | VirtualDataset | ExternalDataset


def bounded(dataset: Any, *, where: str, depth: int = 0) -> Readable:
    """Return a dataset whose values can be read safely.

    Raises:
        SourceError: values are missing that HDF5 would read as the fill value, or cannot be decoded.
    """
    if dataset.is_virtual:
        return VirtualDataset(dataset, where=where, depth=depth)
    if dataset.external:
        return ExternalDataset(dataset, where=where)
    return BoundedDataset(dataset, where=where)


def open_unlocked(file: Any) -> Any:
    """Open a local file, or an open one, for reading."""
    if hasattr(file, "read"):
        return h5py.File(file, "r")
    try:
        # Nothing is written, so a program that has the file open, or a file system without locks, must not matter.
        return h5py.File(file, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(file, "r")  # this very process has the file open, with locks


def beside(file: Any, name: str) -> str:
    """Return the place of a file that another one names."""
    return name if name.startswith("/") else location.join(location.parent(file.filename) or "", name)


def _look_at_all(dataset: Any, where: str, depth: int) -> None:
    found = bounded(dataset, where=where, depth=depth + 1)
    if isinstance(found, BoundedDataset):
        found.look_at_all()
    elif isinstance(found, VirtualDataset):
        for part in found._parts:
            with found._opened(part) as (inner, place):
                _look_at_all(inner, place, depth + 1)


def _overlap(spans: list[tuple[int, int]], box: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    return all(start <= last and first < stop for (start, stop), first, last in zip(spans, box[0], box[1], strict=True))
