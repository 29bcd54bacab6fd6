"""The viewer's content for a run: the files to serve and the scene to show."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.report.hotspots import marked_hotspots
from ssem_dask.report.intensities import volume_limits
from ssem_dask.report.report_data import ReportData, read_report_data
from ssem_dask.report.shown_channels import channel_name, ordered_channels
from ssem_dask.report.viewer.access import parse_origin
from ssem_dask.report.viewer.computed_volume import serve_channel, serve_coarse
from ssem_dask.report.viewer.http import Site, Viewpoint
from ssem_dask.report.viewer.layers import WARPED, NodeArray, Scene, ShownChannel, make_state
from ssem_dask.report.viewer.live_volume import serve_warped
from ssem_dask.report.viewer.served_files import ServedFiles, StoredFiles, serve_volume
from ssem_dask.report.viewer.viewer_address import run_token
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.warped_volume import Warping
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import RunRecord, read_run
from ssem_dask.storage.run_source import asking_for_source
from ssem_dask.storage.volume import Volume
from ssem_dask.volumes.alignment import open_alignment
from ssem_dask.volumes.warping import warping_of

_COMPUTED_FORMAT = 3
"""Zarr format of images that are computed on request."""
_NODE_TITLES = {"confidence": "confidence (0 … 1, coarse-aligned)", "uncertainty": "uncertainty (px)"}


def make_site(
    run: str,
    *,
    labels: str | None,
    worst: int,
    origins: Iterable[str] = (),
    source: str | None = None,
    volume: str | None = None,
    volume_holds_labels: bool = False,
) -> tuple[Site, list[str]]:
    """Return the viewer's content for a run, and a line about everything that is missing.

    Args:
        run: URL of the run.
        labels: URL of a segmentation in the frame of the aligned volume, or None.
        worst: largest number of hotspots to mark.
        origins: sites whose pages may read the data too.
        source: URL of the source volume; None: where the run has recorded it.
        volume: URL of another volume of the source's sections, which is warped as it is looked at; None: none is.
        volume_holds_labels: whether the values of that volume are ids.

    Raises:
        ConfigError: one of `origins` is not an origin.
        SourceError: there is no run, or nothing of it can be shown yet.
        OutputError: something that is not a run is there.
    """
    allowed = frozenset(parse_origin(origin) for origin in origins)
    record = read_run(run)
    if source is not None:
        record = replace(record, source=source)
    images = _open_images(run, record, given=source)
    warped = _open_warped(run, volume, labels=volume_holds_labels)
    shown_warped = {} if volume_holds_labels else warped
    node_files, leading_axes, spacing = _serve_node_arrays(run)
    files = {**images.files, **node_files, **{name: serve_warped(*pair) for name, pair in warped.items()}}
    main = images.most_aligned
    segmentation = None if labels is None else _open_labels(labels, like=main)
    if segmentation is not None:
        files["labels"] = serve_volume(segmentation)

    @cache
    def scene() -> Scene:
        # Made on the first request, since reading a long ledger takes a while.
        data = read_report_data(run, source=source)
        return Scene(
            info=main.info,
            images={**images.formats, **dict.fromkeys(shown_warped, _COMPUTED_FORMAT)},
            nodes=[
                NodeArray(name=name, title=_NODE_TITLES[name], leading=leading, high=_lightest_value(name, data))
                for name, leading in leading_axes.items()
            ],
            spacing=spacing,
            labels=None if segmentation is None else segmentation.zarr_format,
            limits=volume_limits(main),
            channels={
                name: ShownChannel(name=channel_name(channel), limits=volume_limits(channel))
                for name, channel in {
                    **images.channels,
                    **{name: pair[0] for name, pair in shown_warped.items()},
                }.items()
            },
            warped_labels=volume_holds_labels and bool(warped),
            hotspots=marked_hotspots(data, count=worst),
            window=data.window,
            section_names=data.run.section_names,
            spoilt=() if data.attention is None else data.attention.records,
        )

    def state(data: str, viewpoint: Viewpoint | None) -> dict[str, Any]:
        return make_state(scene(), data=data, viewpoint=viewpoint)

    return Site(run_token(record.config_digest), files, state, allowed), images.missing


@dataclass(frozen=True, slots=True)
class _Images:
    """The image layers of a run that exist."""

    volumes: dict[str, Volume]
    """The stored ones: `source`, `aligned`."""
    files: dict[str, ServedFiles]
    """Files of `source`, `coarse`, `aligned`."""
    missing: list[str]
    """A line about each layer that is missing."""
    channels: dict[str, Volume]
    """Channels of the stored ones, by the name of their layer."""

    @property
    def most_aligned(self) -> Volume:
        """The aligned volume, or the source before there is one."""
        return next(reversed(self.volumes.values()))

    @property
    def formats(self) -> dict[str, int]:
        """Zarr format of each layer."""
        stored = {name: volume.zarr_format for name, volume in self.volumes.items() if name not in self.channels}
        return {name: stored.get(name, 3) for name in self.files}


def _open_images(run: str, record: RunRecord, *, given: str | None) -> _Images:
    files: dict[str, ServedFiles] = {}
    missing: list[str] = []
    volumes: dict[str, Volume] = {}
    channels: dict[str, Volume] = {}
    try:
        with asking_for_source(record.source, given=given):
            volumes["source"] = record.open_source()
        channels |= _by_layer("source", volumes["source"])
        files |= _serve_stored("source", serve_volume(volumes["source"]), channels)
        coarse = COARSE.at(run)
        if is_node(coarse):
            files["coarse"] = serve_coarse(volumes["source"], coarse=coarse)
    except SsemDaskError as error:
        missing.append(f"The source cannot be shown: {error}")
    aligned = join(run, ALIGNED)
    if is_node(aligned):
        volumes["aligned"] = Volume.open(aligned)
        channels |= _by_layer("aligned", volumes["aligned"])
        files |= _serve_stored("aligned", StoredFiles(aligned, root=aligned), channels)
    else:
        missing.append("There is no aligned volume yet.")
    if not volumes:
        raise SourceError(f"{run}: nothing of it can be shown yet. {' '.join(missing)}")
    return _Images(volumes, files, missing, channels)


def _by_layer(name: str, volume: Volume) -> dict[str, Volume]:
    """Return the channels of an image by the names of their layers; the registered one last, named as the image."""
    registered = volume.info.channel or 0
    return {
        name if channel.info.channel == registered else f"{name}-{channel.info.channel}": channel
        for channel in ordered_channels(volume)
    }


def _serve_stored(name: str, files: ServedFiles, channels: dict[str, Volume]) -> dict[str, ServedFiles]:
    """Return the files of an image's layers: of each channel, or of the image if it has no channels."""
    served = {layer: serve_channel(volume) for layer, volume in channels.items() if layer.partition("-")[0] == name}
    return {**served} or {name: files}


def _open_warped(run: str, volume: str | None, *, labels: bool) -> dict[str, tuple[Volume, Warping]]:
    """Return each channel of a volume and how it is warped, by the name of its layer; the registered one last."""
    if volume is None:
        return {}
    warping = warping_of(open_alignment(run), volume, "", labels=labels, pixel_size=None)
    opened = warping.open_source()
    return {name: (channel, warping) for name, channel in (_by_layer(WARPED, opened) or {WARPED: opened}).items()}


def _serve_node_arrays(run: str) -> tuple[dict[str, ServedFiles], dict[str, int], int]:
    """Return the files of the existing node arrays, their numbers of axes before z, and their spacing."""
    files: dict[str, ServedFiles] = {}
    leading_axes: dict[str, int] = {}
    spacing = 1
    for name in _NODE_TITLES:
        url = join(run, "fields", name)
        if is_node(url):
            array, info = open_field(url)
            files[name] = StoredFiles(url, root=url)
            leading_axes[name] = array.ndim - 3
            spacing = info.spacing
    return files, leading_axes, spacing


def _lightest_value(name: str, data: ReportData) -> float:
    """Return the largest value of a colour scale."""
    values = data.sections["uncertainty"]
    known = values[np.isfinite(values)]
    return 2.0 * float(np.median(known)) if name == "uncertainty" and known.size else 1.0


def _open_labels(url: str, *, like: Volume) -> Volume:
    volume = Volume.open(url, like=like.info)
    if volume.info.shape != like.info.shape:
        raise SourceError(
            f"Labels {url}: their shape is {volume.info.shape}, but the aligned volume has {like.info.shape}; "
            "give a segmentation of the aligned sections ('ssem-dask warp --labels' makes one from the source's)."
        )
    return volume
