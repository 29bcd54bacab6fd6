"""Apply an alignment to another volume of the same sections: a second channel, or a segmentation.

The tasks are those of the run's own stages render and downsample. Their ledger is beside the volume that is written, so
that an interrupted warp resumes. Its entries carry digests of what the tasks read (`volumes.origins`), so a warp that
is repeated follows a volume or an alignment that has changed.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ssem_dask.driver.run_fixes import kept_meaning, stored_fixes
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import StageWork, run_on_cluster
from ssem_dask.errors import OutputError, SourceError
from ssem_dask.geometry.mip import level_count
from ssem_dask.runtime.events import Observer
from ssem_dask.runtime.executor import Executor
from ssem_dask.shown import without_secrets
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import SUPPORT
from ssem_dask.stages.configs import DownsampleStageConfig, RenderStageConfig
from ssem_dask.stages.downsample import DownsampleStage, estimate_downsampling, warp_level_tasks
from ssem_dask.stages.fix_clusters import clusters_between, pairs_of
from ssem_dask.stages.fixed_sections import reading_order
from ssem_dask.stages.render import RenderStage, estimate_rendering, warp_tasks
from ssem_dask.stages.replaced_sections import nearest_reach
from ssem_dask.stages.warped_volume import Warping, warp_sections
from ssem_dask.storage import arrays, location, places
from ssem_dask.storage.json_digest import digest_of
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.storage.volume_checks import WARP_KEY, check_image_dtype
from ssem_dask.volumes.alignment import Alignment, open_alignment
from ssem_dask.volumes.origins import Origin, Origins, field_fingerprints, is_complete
from ssem_dask.volumes.volume_stages import VolumeWork, run_stages


@dataclass(frozen=True, slots=True)
class WarpPlan:
    """A warp that was checked, with everything that its tasks need."""

    warping: Warping
    attributes: dict[str, Any]
    """Alignment and volume, with a digest of everything that decides the layout; stored as attributes of the written
    volume."""
    origins: Origins
    """Volume and fields that are read."""

    def work(self) -> VolumeWork:
        """Return the stages that write the volume."""
        warping, output = self.warping, self.warping.target
        digests = frozenset(map(self._digest, warp_sections(warping)))
        return VolumeWork(
            output=output,
            stages=(
                StageWork(
                    name=RenderStage.name,
                    generations=[warp_tasks(warping, digest=self._digest)],
                    estimate=estimate_rendering(warping),
                    digests=digests,
                ),
                StageWork(
                    name=DownsampleStage.name,
                    generations=warp_level_tasks(warping, digest=self._digest),
                    estimate=estimate_downsampling(warping),
                    digests=digests,
                ),
            ),
            origins=self.origins,
            check=partial(_check_destination, self),
            prepare=warping.create,
            record_state=self.record_state,
        )

    def _digest(self, sections: range) -> str:
        """Return the digest of a task, of any level: all of them are made of the same sections of mip 0."""
        reach = nearest_reach(self.warping.config, self.warping.fixes)
        read = range(max(0, sections.start - reach), min(self.warping.info.shape[0], sections.stop + reach))
        order = reading_order(self.warping.fixes.within(read))
        return self.origins.digest(read, mip=0, others=sorted(z for z in order.values() if z not in read))

    def record_state(self, state: str) -> None:
        """Write the warp's state to the attributes of the written volume."""
        arrays.create_group(self.warping.target, attributes={WARP_KEY: {**self.attributes, "state": state}})


def warp_volume(
    alignment: str,
    volume: str,
    destination: str,
    *,
    labels: bool = False,
    pixel_size: float | None = None,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Apply an alignment to a volume in its source's frame, in bounded memory, shard by shard.

    Args:
        alignment: URL of the run.
        volume: URL of the volume (OME-Zarr or array) of the source's sections: with or without channels, all of which
            are warped; at the source's pixel size, or at a coarser or finer one that its metadata say.
        destination: URL of the OME-Zarr image to write. The same warp resumes if it was interrupted, and does the work
            again whose sections or fields have changed since.
        labels: the values are ids: nearest pixel, and the most frequent id in the pyramid.
        pixel_size: nm per pixel of the volume; None: the value in its metadata, or the source's if it has none.
        cluster: as in `align`.
        workers: as in `align`.
        observer: notified of events; None: nobody is.

    Returns:
        The status of the volume; `incomplete` if the alignment is, or changed while it was read.

    Raises:
        SourceError: there is no such alignment or volume, or the volume does not fit.
        OutputError: the destination holds something else.
        ConfigError: the cluster is unknown, or its workers are too small.
    """
    plan = plan_warp(alignment, volume, destination, labels=labels, pixel_size=pixel_size)
    return run_on_cluster(partial(run_warp, plan), plan.work(), cluster=cluster, workers=workers, observer=observer)


def plan_warp(
    alignment: str, volume: str, destination: str, *, labels: bool, pixel_size: float | None = None
) -> WarpPlan:
    """Check everything and plan the warp, without changing anything; errors as in `warp_volume`."""
    alignment, volume, destination = (without_secrets(url) for url in (alignment, volume, destination))
    places.refuse_overlap(destination, {"the alignment": alignment, "the volume": volume})
    opened = open_alignment(alignment)
    config = opened.record.config
    warping = warping_of(opened, volume, destination, labels=labels, pixel_size=pixel_size)
    info, scale, fixes = warping.info, warping.scale, warping.fixes
    attributes = {"alignment": alignment, "source": volume, "labels": labels}
    if scale != 1:
        attributes["scale"] = scale
    layout = [info.shape, info.dtype.str, warping.config.chunk, warping.config.shard, warping.mips, *info.channels]
    origins = Origins(
        options={
            **attributes,
            "spacing": opened.spacing,
            "render": {**config["render"], **warping.levels.decisive()},
            **({} if fixes.is_empty else {"fixes": fixes.digest()}),
        },
        origins=(
            Origin(name=volume, read=lambda: warping.open_source().fingerprints(mips=(0,))),
            Origin(name=alignment, read=lambda: field_fingerprints(alignment)),
        ),
    )
    return WarpPlan(
        warping=warping,
        attributes={**attributes, "digest": digest_of({**attributes, "layout": layout})},
        origins=origins,
    )


def warping_of(opened: Alignment, volume: str, destination: str, *, labels: bool, pixel_size: float | None) -> Warping:
    """Return how an alignment warps a volume; arguments and errors as in `warp_volume`."""
    config = opened.record.config
    info, scale = _volume_info(opened, volume, labels=labels, pixel_size=pixel_size)
    # A section that was left out, or has changed places, is so in every volume of these sections.
    stored = stored_fixes(opened.url)
    fixes, fitted = (
        kept_meaning(text, pixel_size=opened.record.pixel_size, where=opened.url)
        for text in (stored.current, stored.fitted)
    )
    clusters = clusters_between(fixes, fitted, count=info.shape[0])
    return Warping(
        source=volume,
        info=info,
        fields=SECTION.at(opened.url),
        spacing=opened.spacing,
        target=destination,
        mips=level_count(info.shape[1:], smallest=DownsampleStageConfig(**config["downsample"]).smallest),
        config=RenderStageConfig(**config["render"]),
        support=SUPPORT.at(opened.url),
        fixed_support=FIXED[SUPPORT].at(opened.url),
        changed_pairs=pairs_of(clusters, steps=config["register"]["neighbours"], count=info.shape[0]),
        fixes=fixes.showing(),
        labels=labels,
        scale=scale,
    )


def run_warp(plan: WarpPlan, *, executor: Executor, observer: Observer) -> Summary:
    """Run the pending tasks of a plan; errors as in `warp_volume`."""
    alignment = plan.attributes["alignment"]
    if not is_complete(alignment):
        observer.note(f"{alignment} is not complete: pixels whose field is still missing are written as 0.")
    return run_stages(plan.work(), executor=executor, observer=observer)


def _volume_info(alignment: Alignment, url: str, *, labels: bool, pixel_size: float | None) -> tuple[VolumeInfo, float]:
    """Return what is warped, and the px of the run's source per px of it."""
    record = alignment.record
    volume = _open_volume(alignment, url, pixel_size=pixel_size)
    scale = alignment.scale_of(volume, size_given=pixel_size is not None)
    info = volume.info
    if labels and info.dtype.kind not in "iu":
        raise SourceError(f"{url}: labels are {info.dtype}, but must be integers; convert them.")
    if not labels:
        check_image_dtype(url, info.dtype)
    # The frame is the run's, so are its sizes.
    return replace(info, pixel_size=record.pixel_size * scale, section_thickness=record.section_thickness), scale


def _open_volume(alignment: Alignment, url: str, *, pixel_size: float | None) -> Volume:
    """Open the volume to warp with its own pixel size; with the source's if its metadata has none."""
    record = alignment.record
    if pixel_size is not None:
        return Volume.open(url, pixel_size=pixel_size, section_thickness=record.section_thickness)
    try:
        return Volume.open(url, section_thickness=record.section_thickness)
    except SourceError:
        return Volume.open(url, pixel_size=record.pixel_size, section_thickness=record.section_thickness)


def _check_destination(plan: WarpPlan) -> None:
    """Raise OutputError if the destination holds something other than this warp, begun earlier."""
    target = plan.warping.target
    with location.writing(target), location.as_output_error():
        stored = (arrays.group_attributes(target) or {}).get(WARP_KEY)
        if stored is not None:
            if stored.get("digest") != plan.attributes["digest"]:
                raise OutputError(
                    f"{target}: a warp of {stored.get('source')} by {stored.get('alignment')} is already there, with "
                    "other options, another type or other chunks; choose another destination or delete it."
                )
        elif places.is_occupied(target):
            raise OutputError(f"{target}: something else is already there; choose another destination or delete it.")
