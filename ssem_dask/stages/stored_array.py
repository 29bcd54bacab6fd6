"""Arrays and records of a run: the types of the rows in `stages.run_arrays`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import DTypeLike

from ssem_dask.errors import PlanError
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Region
from ssem_dask.stages.job import GROWN_DEPTH, Job
from ssem_dask.storage import location
from ssem_dask.storage.arrays import Compression, ZarrArray, create_array, open_array, planned_array
from ssem_dask.storage.json_records import read_record, write_record
from ssem_dask.storage.untrusted import interpreting
from ssem_dask.types import AnyArray

Extent = Callable[[Job], int]
Sizes = Callable[[Job], tuple[int, ...]]


class Frame(StrEnum):
    """The coordinates of an array's nodes or pixels."""

    ALIGNED = "aligned"
    COARSE_ALIGNED = "coarse-aligned"
    SOURCE = "source"
    SECTION = "per section"
    """One value per section or pair of sections; the array has no y and x."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an array."""

    name: str
    size: Extent
    """Number of elements."""
    follows: Literal["z", "y", "x"] | None = None
    """Axis of a region's mip-0 box that this axis follows; None: every region holds all of it."""
    step: Extent = lambda job: 1  # noqa: ARG005
    """mip-0 px, or sections, per element."""
    optional: bool = False
    """Whether an array has no such axis if its size is 0."""
    dimension: str = ""
    """Name of the dimension as it is stored; empty: that of the axis. Dimensions of one name in one folder have one
    length, so that xarray opens the folder."""

    def span(self, job: Job, box: Box) -> tuple[int, int]:
        """Return the elements that hold some of a mip-0 box, half-open."""
        size = self.size(job)
        if self.follows is None:
            return 0, size
        i, step = "zyx".index(self.follows), self.step(job)
        return box.start[i] // step, min(ceil_div(box.stop[i], step), size)


class _Layout(TypedDict):
    """Arguments of `create_array`."""

    shape: tuple[int, ...]
    dtype: DTypeLike
    axes: tuple[str, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    fill_value: float
    attributes: dict[str, Any]
    compression: Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArray:
    """One array of a run."""

    path: str
    """Path in the run's group."""
    meaning: str
    axes: tuple[Axis, ...]
    dtype: str = "float32"
    """numpy name; empty: the source's."""
    frame: Frame
    unit: str
    """Unit of the values, for example px@mip0."""
    chunk: Sizes
    shard: Sizes | None = None
    """Shard; None: one file per chunk."""
    fill: float = np.nan
    attributes: Callable[[Job], dict[str, Any]] = field(default=lambda job: {})  # noqa: ARG005
    compression: Callable[[Job], Compression] = lambda job: "zstd"  # noqa: ARG005
    keeps_depth: bool = False
    """Whether files stay as deep as they are configured in a run that grew."""
    opener: Callable[..., ZarrArray] = open_array
    """Function that opens the array; some also check its convention."""

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the axes, in order."""
        return tuple(axis.name for axis in self.axes)

    def url(self, job: Job) -> str:
        """Return the URL of the array."""
        return job.url(*self.path.split("/"))

    def at(self, run: str) -> str:
        """Return the URL of the array in a run that is known by its URL alone, such as a finished one."""
        return location.join(run, *self.path.split("/"))

    def exists(self, job: Job) -> bool:
        """Return whether the array exists."""
        return location.exists(location.join(self.url(job), "zarr.json"))

    def create(self, job: Job) -> ZarrArray:
        """Create the array, with every value unknown; open it if it exists with this layout.

        Raises:
            LayoutError: the array exists with another layout.
            OutputError: something else is stored there, or the location is not writable.
        """
        return create_array(self.url(job), **self._layout(job))

    def planned(self, job: Job) -> ZarrArray:
        """Return the array as the configuration makes it, whatever its stored metadata are; touch nothing."""
        return planned_array(self.url(job), **self._layout(job))

    def open(self, job: Job, *, mode: Literal["r", "r+"] = "r") -> ZarrArray:
        """Open the array; raise SourceError if it does not exist."""
        return self.opener(self.url(job), mode=mode)

    def read(self, job: Job, **index: slice | range | int) -> AnyArray:
        """Read a part of the array.

        Args:
            job: the run.
            index: elements per axis, by the axis's name; an axis that is not named is read whole.
        """
        return np.asarray(self.open(job)[self._index(job, index)])

    def write(self, job: Job, values: AnyArray, **index: slice | range | int) -> int:
        """Write a part of the array, indexed as in `read`; return the number of bytes."""
        self.open(job, mode="r+")[self._index(job, index)] = values
        return int(values.nbytes)

    def region(self, job: Job, start: int = 0, stop: int | None = None) -> Region:
        """Return the region of whole sections `start <= z < stop`, clipped to the volume."""
        return Region(self.path, job.sections_box(start, stop))

    def region_of(self, box: Box) -> Region:
        """Return the region under a mip-0 box."""
        return Region(self.path, box)

    def extents(self, job: Job, region: Region) -> list[tuple[int, int]]:
        """Return start and stop of a region per axis, in the array's own elements."""
        return [axis.span(job, region.box) for axis in self.axes_in(job)]

    def axes_in(self, job: Job) -> tuple[Axis, ...]:
        """Return the axes that the array has in a run."""
        return tuple(axis for axis in self.axes if not axis.optional or axis.size(job))

    def _layout(self, job: Job) -> "_Layout":
        return _Layout(
            shape=tuple(axis.size(job) for axis in self.axes_in(job)),
            dtype=self.dtype or job.info.dtype,
            axes=tuple(axis.dimension or axis.name for axis in self.axes_in(job)),
            chunks=self._file(job, self.chunk(job)),
            shards=None if self.shard is None else self._file(job, self.shard(job)),
            fill_value=self.fill,
            attributes=self.attributes(job),
            compression=self.compression(job),
        )

    def _file(self, job: Job, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return a chunk or shard as it is in this run: files of few sections can be appended, deep ones cannot."""
        if job.growth is None or self.keeps_depth:
            return sizes
        axes = self.axes_in(job)
        return tuple(
            min(size, GROWN_DEPTH) if axis.follows == "z" and axis.name == "z" else size
            for axis, size in zip(axes, sizes, strict=True)
        )

    def _index(self, job: Job, index: dict[str, slice | range | int]) -> tuple[slice | int, ...]:
        unknown = set(index) - set(self.axis_names)
        if unknown:
            raise PlanError(f"{self.path}: has axes {self.axis_names}, not {sorted(unknown)}; name one of them.")
        parts = (
            index.get(axis.name, slice(axis.size(job)) if axis.follows == "z" else slice(None))
            for axis in self.axes_in(job)
        )
        return tuple(slice(part.start, part.stop) if isinstance(part, range) else part for part in parts)


@dataclass(frozen=True, slots=True)
class RunJson:
    """One JSON record of a run."""

    path: str
    meaning: str

    def url(self, job: Job) -> str:
        """Return the URL of the record."""
        return job.url(*self.path.split("/"))

    def read(self, job: Job) -> dict[str, Any]:
        """Read the record; FileNotFoundError if it does not exist, ContentError if it is damaged."""
        return read_record(self.url(job))

    @contextmanager
    def reading(self, job: Job) -> Iterator[dict[str, Any]]:
        """Read the record; inside the context, any error of interpreting it becomes a SourceError."""
        with interpreting(self.url(job)):
            yield self.read(job)

    def write(self, job: Job, value: Mapping[str, Any]) -> int:
        """Write the record; return the number of bytes."""
        return write_record(self.url(job), value)

    def region(self, job: Job, start: int = 0, stop: int | None = None) -> Region:
        """Return the region of the record, if it describes the sections `start <= z < stop`."""
        return Region(self.path, job.sections_box(start, stop))
