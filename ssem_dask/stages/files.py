"""What tasks have written: the files of a region, and whether they still hold what they should.

Files are the shards (or the chunks, where an array has none, or a JSON file) under the regions of a task's footprint. A
shard that holds nothing but the fill value is not written at all, so a task's ledger entry says which files there were.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product

from ssem_dask.errors import SourceError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.geometry.region import Footprint, Region
from ssem_dask.stages.job import Job
from ssem_dask.storage import location
from ssem_dask.storage.arrays import ZarrArray, open_array, reading_chunks, write_unit

_JSON = ".json"


def written_files(job: Job, footprint: Footprint) -> dict[str, int]:
    """Bytes of each file, by its path in the run, that a task has written."""
    files = {}
    for region in footprint.writes:
        for path in _paths(job, region):
            size = location.file_size(job.url(path))
            if size is not None:
                files[path] = size
    return files


def find_damage(job: Job, footprint: Footprint, *, files: Mapping[str, int]) -> str:
    """Read what a task has written.

    Args:
        job: of the run.
        footprint: of the task.
        files: that its ledger entry tells of, with their bytes.

    Returns:
        A sentence on the first thing that is missing or damaged; empty if all is well.
    """
    for path, size in files.items():
        found = location.file_size(job.url(path))
        if found != size:
            return f"{job.url(path)}: {'is missing' if found is None else f'has {found} bytes, not {size}'}."
    for region in footprint.writes:
        try:
            _read(job, region)
        except SourceError as error:
            return str(error)
    return ""


def _read(job: Job, region: Region) -> None:
    """Decode all chunks of a region, one file's at a time."""
    if region.name.endswith(_JSON):
        with reading_chunks(job.url(region.name)):
            if location.exists(job.url(region.name)):
                json.loads(location.read_bytes(job.url(region.name)))
        return
    array = _array(job, region)
    if array is None:
        return
    unit = write_unit(array)
    for place in product(*_units(job, region, array)):
        index = tuple(
            slice(i * n, min((i + 1) * n, extent)) for i, n, extent in zip(place, unit, array.shape, strict=True)
        )
        with reading_chunks(f"{job.url(region.name)}: {_key(array, place)}"):
            array[index]


def _paths(job: Job, region: Region) -> Iterator[str]:
    if region.name.endswith(_JSON):
        yield region.name
        return
    array = _array(job, region)
    if array is not None:
        for place in product(*_units(job, region, array)):
            yield f"{region.name}/{_key(array, place)}"


def _array(job: Job, region: Region) -> ZarrArray | None:
    """The region's array; None where the configuration makes none."""
    try:
        return open_array(job.url(region.name), mode="r")
    except SourceError:
        if location.exists(location.join(job.url(region.name), "zarr.json")):
            raise
        return None


def owns_whole_files(job: Job, region: Region) -> bool:
    """Whether no file of the region's array holds anything beyond the region; True where it is no array."""
    if region.name.endswith(_JSON):
        return True
    array = _array(job, region)
    return array is None or all(
        start % unit == 0 and (stop % unit == 0 or stop == extent)
        for (start, stop), extent, unit in zip(
            _extents(job, region, array), array.shape, write_unit(array), strict=True
        )
    )


def _units(job: Job, region: Region, array: ZarrArray) -> list[range]:
    """For each axis the numbers of the files that hold some of the region."""
    return [
        range(start // unit, ceil_div(stop, unit))
        for (start, stop), unit in zip(_extents(job, region, array), write_unit(array), strict=True)
    ]


def _extents(job: Job, region: Region, array: ZarrArray) -> list[tuple[int, int]]:
    """For each axis start and stop of the region in the array's own elements."""
    axes = array.metadata.dimension_names or ()  # type: ignore[union-attr]  # all of ours are Zarr v3
    low, high = dict(zip("zyx", region.box.start, strict=True)), dict(zip("zyx", region.box.stop, strict=True))
    scale = _scale(region, array)
    extents = []
    for axis, extent in zip(axes, array.shape, strict=True):
        start, stop = 0, extent
        if axis == "block":
            block = job.compose.chain.block
            start, stop = low["z"] // block, ceil_div(high["z"], block)
        elif axis == "z" and "block" not in axes:
            start, stop = low["z"], high["z"]
        elif axis in ("y", "x"):
            start, stop = low[axis] // scale, ceil_div(high[axis], scale)
        extents.append((start, min(stop, extent)))
    return extents


def _scale(region: Region, array: ZarrArray) -> int:
    """mip-0 px of one of the array's."""
    if "spacing" in array.attrs:
        return int(str(array.attrs["spacing"]))
    if "mip" in array.attrs:
        return 1 << int(str(array.attrs["mip"]))
    last = region.name.rpartition("/")[2]
    return 1 << int(last) if last.isdigit() else 1


def _key(array: ZarrArray, place: tuple[int, ...]) -> str:
    key: str = array.metadata.encode_chunk_key(place)
    return key
