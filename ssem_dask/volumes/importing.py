"""Import: convert a volume of any readable format to sharded OME-Zarr 0.5 with all of its levels, in bounded memory.

The levels are made from the rows that are in memory anyway. So the stages coarse and register, and viewers, need not
decode mip 0 to see a coarser level.

Laws: an import is complete or there is no new volume. The state in the group is "importing" from its first byte on,
`Volume.open` refuses it in that state, and "complete" is written last: after the shards were counted, and after the
files of the source were found to be the same as before. An interrupted import resumes by whole shards if source and
options are the same. One process at a time imports to a place (`storage.lease`). `import_place` describes how a
complete volume is replaced.
"""

import contextlib
from collections.abc import Callable

from ssem_dask.errors import OutputError, SourceError, SsemDaskError
from ssem_dask.geometry.mip import level_count
from ssem_dask.runtime.exclusive_driver import FencedExecutor, lease_url
from ssem_dask.runtime.executor import Executor
from ssem_dask.shown import without_secrets
from ssem_dask.stages.configs import DownsampleStageConfig
from ssem_dask.storage import location, places
from ssem_dask.storage.channels import ChannelChoice
from ssem_dask.storage.fence import confirm_fence, fenced
from ssem_dask.storage.formats.advice import explain_swapped
from ssem_dask.storage.formats.channel_set import Channels, ChannelSet, select_channels
from ssem_dask.storage.formats.detect import plain_address
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo
from ssem_dask.storage.lease import hold_lease
from ssem_dask.storage.lengths import known_sizes
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.storage.volume_checks import check_image_dtype, check_sections
from ssem_dask.types import ShapeZYX
from ssem_dask.volumes import import_place
from ssem_dask.volumes.import_journal import Journal
from ssem_dask.volumes.import_place import Found
from ssem_dask.volumes.import_plan import ImportPlan, source_fingerprints
from ssem_dask.volumes.import_writer import write_volume

DEFAULT_CHUNK: ShapeZYX = (1, 512, 512)
DEFAULT_SHARD: ShapeZYX = (8, 2048, 2048)


def plan_import(
    source: str,
    destination: str,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    chunk: ShapeZYX = DEFAULT_CHUNK,
    shard: ShapeZYX = DEFAULT_SHARD,
    labels: bool = False,
    channel: ChannelChoice | None = None,
    channels: Channels | None = None,
    time: int | None = None,
    order: str | None = None,
    pyramid: bool = True,
    overwrite: bool = False,
) -> ImportPlan:
    """Check source and destination, without changing anything; arguments and errors as in `import_volume`."""
    source, destination = plain_address(without_secrets(source)), without_secrets(destination)
    order = None if order is None else without_secrets(order)
    reading = ReadOptions(time=time, labels=labels, order=order)
    with contextlib.closing(
        _open(source, reading, destination=destination, channel=channel, channels=channels)
    ) as opened:
        return _plan(
            opened,
            source,
            destination,
            pixel_size=pixel_size,
            section_thickness=section_thickness,
            chunk=chunk,
            shard=shard,
            reading=reading,
            pyramid=pyramid,
            overwrite=overwrite,
        )


def run_import(
    plan: ImportPlan,
    *,
    progress: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
    executor: Executor | None = None,
) -> VolumeInfo:
    """Write the volume of a plan.

    Args:
        plan: what to import.
        progress: as in `import_volume`.
        note: as in `import_volume`.
        executor: copies slabs of sections, as many as a shard is deep; None: this process does.

    Returns:
        As in `import_volume`.

    Raises:
        SsemDaskError: as in `import_volume`.
        IncompleteError: workers of the executor died.
    """
    with contextlib.closing(ChannelSet(plan.source, plan.reading, plan.selection)) as opened:
        return _write(opened, plan, progress=progress or _ignore, note=note or _ignore, executor=executor)


def import_volume(
    source: str,
    destination: str,
    *,
    pixel_size: float | None = None,
    section_thickness: float | None = None,
    chunk: ShapeZYX = DEFAULT_CHUNK,
    shard: ShapeZYX = DEFAULT_SHARD,
    labels: bool = False,
    channel: ChannelChoice | None = None,
    channels: Channels | None = None,
    time: int | None = None,
    order: str | None = None,
    pyramid: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> VolumeInfo:
    """Import a volume; the same call resumes if it was interrupted.

    Args:
        source: folder or glob of images, multi-page TIFF, `file.h5[:/dataset]`, Zarr array or OME-Zarr group, also in a
            zip file, N5 or precomputed.
        destination: URL of the OME-Zarr group to write.
        pixel_size: nm per pixel in y and x; overrides the source's own value.
        section_thickness: nm per section; overrides the source's own value.
        chunk: extent of a chunk.
        shard: extent of a shard, a multiple of `chunk`. As many sections as a shard is deep are in memory at once, in
            bands of rows of 512 MiB, or of one row of shards if that is more. The pyramid takes one and a half rows of
            shards more, for each channel.
        labels: the values are ids: any integer type, and a constant volume is no mistake. Each pixel of the pyramid has
            the most frequent id of the four below it.
        channel: number, from 0, or name of the channel to import; None if the source has one, or equal ones. With
            `channels`, the channel to align by, which `align` asks for if it is not given here.
        channels: several channels (detectors, stains, colours) to import together, "all" or some by number or name.
            The volume then has the axes (c, z, y, x); `align` registers one channel and warps all.
        time: time point to import, counted from 0; None if the source has one.
        order: URL of a text file that lists the image files of a folder in order of z, one name per line; None for the
            natural order of their names.
        pyramid: write coarser levels as well, until the longer side is at most 256 px, as those of an aligned volume
            are by default; False: mip 0 alone.
        overwrite: replace a complete volume at the destination, once the new one is whole; until then both take space.
        progress: called with the number of pixels of mip 0 done since the last call.
        note: called with remarks for the user.

    Returns:
        Shape, type and sizes of the imported volume.

    Raises:
        SourceError: the source is missing, damaged, of another type than uint8 or uint16, one section only or constant,
            or its pixel size or section thickness is unknown.
        OutputError: the destination exists, is inside the source or around it, holds more than the volume that is to be
            replaced, cannot be written, was removed meanwhile, or another process imports to it.
        IncompleteError: the source changed while it was read.
        PlanError: `shard` is not a multiple of `chunk`.
    """
    source, destination = without_secrets(source), without_secrets(destination)
    order = None if order is None else without_secrets(order)
    reading = ReadOptions(time=time, labels=labels, order=order)
    with contextlib.closing(
        _open(source, reading, destination=destination, channel=channel, channels=channels)
    ) as opened:
        plan = _plan(
            opened,
            source,
            destination,
            pixel_size=pixel_size,
            section_thickness=section_thickness,
            chunk=chunk,
            shard=shard,
            reading=reading,
            pyramid=pyramid,
            overwrite=overwrite,
        )
        return _write(opened, plan, progress=progress or _ignore, note=note or _ignore)


def _open(
    source: str, reading: ReadOptions, *, destination: str, channel: ChannelChoice | None, channels: Channels | None
) -> ChannelSet:
    try:
        selection = select_channels(source, reading, channel=channel, channels=channels)
        return ChannelSet(source, reading, selection)
    except SourceError as error:
        raise explain_swapped(source, destination, error) from error


def _plan(
    opened: ChannelSet,
    source: str,
    destination: str,
    *,
    pixel_size: float | None,
    section_thickness: float | None,
    chunk: ShapeZYX,
    shard: ShapeZYX,
    reading: ReadOptions,
    pyramid: bool,
    overwrite: bool,
) -> ImportPlan:
    labels = reading.labels
    _check_values(source, opened.info, labels=labels)
    sizes = known_sizes(source, opened.info.sizes, pixel_size=pixel_size, section_thickness=section_thickness)
    info = VolumeInfo(
        shape=opened.info.shape,
        dtype=opened.info.dtype.newbyteorder("="),
        channels=opened.selection.names,
        channel=opened.selection.register,
        pixel_size=sizes["pixel_size"],
        section_thickness=sizes["section_thickness"],
    )
    smallest = DownsampleStageConfig().smallest
    places.refuse_overlap(destination, {"the source": source})
    plan = ImportPlan(
        source=source,
        destination=destination,
        info=info,
        chunk=chunk,
        shard=shard,
        mips=level_count(info.shape[1:], smallest=smallest) if pyramid else 1,
        reading=reading,
        selection=opened.selection,
        names=opened.info.names,
        notes=opened.info.notes,
        fingerprints=source_fingerprints(source, destination=destination),
        overwrite=overwrite,
    )
    _find(plan)
    return plan


def _write(
    source: ChannelSet,
    plan: ImportPlan,
    *,
    progress: Callable[[int], None],
    note: Callable[[str], None],
    executor: Executor | None = None,
) -> VolumeInfo:
    """Write the volume of a plan."""
    destination = plan.destination
    _find(plan)  # before the lease: nothing is changed in what is not ours
    try:
        lease_held = hold_lease(lease_url(destination), output=destination, keep=False)
        with location.writing(destination), lease_held as lease, fenced(lease):
            found = _find(plan)
            journal = Journal(import_place.journal_url(destination), digest=plan.digest)
            where = _begin(plan, found, journal, note=note)
            try:
                if where is not None:
                    guarded = None if executor is None else FencedExecutor(executor, lease)
                    write_volume(source, plan, where, journal=journal, progress=progress, executor=guarded)
                confirm_fence()
                if where is None or where != destination:
                    import_place.replace_volume(destination, found, record=plan.record)
                else:
                    import_place.finish(destination, plan.record)
                journal.delete()
            except SourceError:
                if location.is_local(plan.source):  # a server may answer later, but a damaged file is refused again
                    with contextlib.suppress(OSError, SsemDaskError):
                        confirm_fence()
                        _discard(destination, where, journal)
                raise
    except KeyboardInterrupt as error:
        if not plan.digest:
            raise KeyboardInterrupt(
                "Interrupted. The files of this source cannot be compared with those of a later time, so the same "
                "command starts again."
            ) from error
        raise
    finally:
        import_place.remove_if_empty(destination)
    return plan.info


def _find(plan: ImportPlan) -> Found:
    """Return what is at the destination; raise OutputError if it must stay."""
    destination = plan.destination
    with location.writing(destination):
        found = import_place.look(destination)
        if found.state == "other":
            raise OutputError(
                f"{destination}: something that is not a volume is there; choose another name or delete it."
            )
        if found.state == "volume":
            if not plan.overwrite:
                raise OutputError(
                    f"{destination}: a volume is already there; choose another name, or replace it with --overwrite."
                )
            import_place.check_replaceable(destination, found)
    return found


def _begin(plan: ImportPlan, found: Found, journal: Journal, *, note: Callable[[str], None]) -> str | None:
    """Return the URL of the group to write; None if it is whole, and is only to be moved to its place."""
    destination = plan.destination
    staging = location.join(destination, import_place.STAGING)
    is_known = plan.digest != ""
    if found.state == "replacing":
        if is_known and found.digest == plan.digest:
            return None
        note(f"{destination}: replacing it was interrupted, for another source or with other options; starting again.")
        import_place.discard(destination, found)
    elif found.state == "volume":
        staged = import_place.look(staging)
        if not (is_known and staged.state == "importing" and staged.digest == plan.digest):
            if staged.state == "importing":
                note(
                    f"{destination}: an import of another source or with other options was interrupted; starting again."
                )
            location.delete(staging, recursive=True)
            journal.delete()
        import_place.begin(staging, plan.record)
        return staging
    elif found.state == "importing" and not (is_known and found.digest == plan.digest):
        note(
            f"{destination}: an interrupted import is there, of another source, of files that have changed, or with "
            "other options; starting again."
        )
        import_place.discard(destination, found)
    if found.state != "importing" or not is_known or found.digest != plan.digest:
        journal.delete()
    import_place.begin(destination, plan.record)
    return destination


def _discard(destination: str, where: str | None, journal: Journal) -> None:
    """Delete an import that will never be complete, to free the space."""
    journal.delete()
    if where == destination:
        import_place.discard(destination, import_place.look(destination))
    elif where is not None:
        location.delete(where, recursive=True)


def _ignore(_what: object) -> None:
    """Do nothing."""


def _check_values(where: str, info: SourceInfo, *, labels: bool) -> None:
    """Raise SourceError if a source holds no sections of images, or no labels."""
    if labels:
        if info.dtype.kind not in "iu":
            raise SourceError(f"{where}: labels are {info.dtype}, but must be integers; convert them.")
    else:
        check_image_dtype(where, info.dtype)
    check_sections(where, info.shape)
