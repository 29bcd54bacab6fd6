"""Carry another volume of the same sections along with an alignment: a second channel, or a segmentation.

The work is the run's own: the tasks of the stages render and downsample, with a ledger beside the volume that is
written, so that an interrupted warp goes on where it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ssem_dask.config.digest import digest_of
from ssem_dask.config.schema import cluster_settings
from ssem_dask.driver.run_status import Summary
from ssem_dask.driver.tasks import run_generations
from ssem_dask.errors import LeaseLostError, OutputError, SourceError
from ssem_dask.geometry.mip import level_count
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import ClusterConfig
from ssem_dask.runtime.events import Observer, SilentObserver
from ssem_dask.runtime.exclusive_driver import exclusive_driver
from ssem_dask.runtime.executor import Executor, dashboard_message
from ssem_dask.stages import downsample, render
from ssem_dask.stages.configs import DownsampleStageConfig, RenderStageConfig
from ssem_dask.stages.render import Warping
from ssem_dask.stages.stage import Estimate
from ssem_dask.storage import arrays, location
from ssem_dask.storage.volume import WARP_KEY, Volume, VolumeInfo, check_image_dtype
from ssem_dask.task import Result, Task
from ssem_dask.volumes.alignment import Alignment, open_alignment


@dataclass(frozen=True, slots=True)
class WarpPlan:
    """What a warp will do."""

    warping: Warping
    attributes: dict[str, Any]
    digest: str


def warp_volume(
    alignment: str,
    volume: str,
    destination: str,
    *,
    labels: bool = False,
    cluster: str = "local",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Apply an alignment to a volume that lies in its source's frame, in bounded memory, shard by shard.

    Args:
        alignment: URL of the run.
        volume: URL of the volume (OME-Zarr or array): the source's shape at mip 0, any integer type.
        destination: URL of the OME-Zarr image to write; continued if this very warp was interrupted.
        labels: the values are ids: nearest pixel, and most frequent id in the pyramid.
        cluster: as in `align`.
        workers: as in `align`.
        observer: told what happens; None: nobody.

    Raises:
        SourceError: there is no such alignment or volume, or the volume does not fit.
        OutputError: something else lies at the destination.
    """
    plan = plan_warp(alignment, volume, destination, labels=labels)
    where = cluster_settings(cluster, workers=workers, table=ClusterConfig())
    executor = open_cluster(where.name, workers=where.workers, settings=where)
    try:
        return run_warp(plan, executor=executor, observer=observer or SilentObserver())
    finally:
        executor.close()


def plan_warp(alignment: str, volume: str, destination: str, *, labels: bool) -> WarpPlan:
    """Check everything and lay out the warp; touches nothing. Errors as in `warp_volume`."""
    opened = open_alignment(alignment)
    config = opened.attributes["config"]
    info = _volume_info(opened, volume, labels=labels)
    warping = Warping(
        source=volume,
        info=info,
        fields=location.join(alignment, "fields", "section"),
        spacing=opened.spacing,
        target=destination,
        mips=level_count(info.shape[1:], smallest=DownsampleStageConfig(**config["downsample"]).smallest),
        config=RenderStageConfig(**config["render"]),
        labels=labels,
    )
    attributes = {"alignment": alignment, "source": volume, "labels": labels}
    digest = digest_of(
        {**attributes, "run": opened.attributes["config_digest"], "shape": info.shape, "dtype": info.dtype.str}
    )
    return WarpPlan(warping=warping, attributes={**attributes, "digest": digest}, digest=digest[:16])


def run_warp(plan: WarpPlan, *, executor: Executor, observer: Observer) -> Summary:
    """Do what is left to do of a plan. Errors as in `warp_volume`."""
    warping, target = plan.warping, plan.warping.target
    _check_destination(plan)
    if open_alignment(plan.attributes["alignment"]).state != "complete":
        observer.note(f"{plan.attributes['alignment']} is not complete: what it does not know becomes 0.")
    dashboard = dashboard_message(executor)
    if dashboard is not None:
        observer.note(dashboard)
    summary = Summary(output=target, state="complete")
    _set_state(plan, "running")
    warping.create()
    shards: list[Iterable[Task]] = [render.render_tasks(warping, output=target, digest=plan.digest)]
    levels = downsample.downsample_tasks(warping, output=target, digest=plan.digest)
    stages: list[tuple[str, Iterable[Iterable[Task]], Callable[[Task], Result], Estimate]] = [
        (render.NAME, shards, render.run, render.estimate_rendering(warping)),
        (downsample.NAME, levels, downsample.run, downsample.estimate_downsampling(warping)),
    ]
    with exclusive_driver(target, executor) as guarded:
        try:
            for name, generations, work, estimate in stages:
                run_generations(
                    name,
                    generations,
                    work=work,
                    estimate=estimate,
                    digest=plan.digest,
                    summary=summary,
                    executor=guarded,
                    observer=observer,
                )
                if summary.failed:
                    break
        except LeaseLostError:
            raise
        except BaseException:
            _set_state(plan, "incomplete")
            raise
        _set_state(plan, summary.state)
    return summary


def _volume_info(alignment: Alignment, url: str, *, labels: bool) -> VolumeInfo:
    sizes = alignment.attributes["config"]["volume"]
    info = Volume.open(url, pixel_size=sizes["pixel_size"], section_thickness=sizes["section_thickness"]).info
    if info.shape != alignment.shape:
        raise SourceError(
            f"{url}: has shape {info.shape}, but the alignment {alignment.url} is for {alignment.shape}; give a volume "
            "that lies in its source's frame."
        )
    if labels and info.dtype.kind not in "iu":
        raise SourceError(f"{url}: labels are {info.dtype}, but must be integers; convert them.")
    if not labels:
        check_image_dtype(url, info.dtype)
    return info


def _check_destination(plan: WarpPlan) -> None:
    """OutputError where something other than this warp, begun before, lies at the destination."""
    target = plan.warping.target
    with location.writing(target), location.as_output_error():
        found = (arrays.group_attributes(target) or {}).get(WARP_KEY)
        if found is not None and found.get("digest") == plan.attributes["digest"]:
            return
        if found is not None or (location.exists(target) and location.list_names(target)):
            raise OutputError(f"{target}: something else is already there; choose another destination or delete it.")


def _set_state(plan: WarpPlan, state: str) -> None:
    arrays.create_group(plan.warping.target, attributes={WARP_KEY: {**plan.attributes, "state": state}})
