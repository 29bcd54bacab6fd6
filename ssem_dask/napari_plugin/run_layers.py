"""The layers of a run for napari, as plain tuples: nothing here imports napari or Qt.

World coordinates are nm. napari, like NGFF, puts coordinate 0 on the centre of pixel 0; ours is its corner (C3). So
position p in px here is world coordinate (p - 1/2) times the pixel size there.

All layers are in the frame of the aligned volume, except `source` (the unaligned sections) and the confidences (the
frame of the coarse-aligned sections).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssem_dask.errors import SourceError, SsemDaskError
from ssem_dask.geometry.box import Box
from ssem_dask.napari_plugin.lazy_level import LazyLevel
from ssem_dask.report.hotspots import Hotspot, marked_hotspots
from ssem_dask.report.intensities import volume_limits
from ssem_dask.report.report_data import ReportData, read_report_data
from ssem_dask.report.shown_channels import channel_name, ordered_channels
from ssem_dask.report.viewer.live_volume import warped_pixels
from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE
from ssem_dask.storage.arrays import is_node
from ssem_dask.storage.fields import open_field
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.section_names import section_label
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.alignment import open_alignment
from ssem_dask.volumes.warping import warping_of

LayerData = tuple[Any, dict[str, Any], str]
"""Data, arguments and kind of a layer, as napari's readers return them."""
AXES = ("z", "y", "x")
WORST_PLACES = 24
_UNIT = "nanometer"
_PLACE_COLOUR, _SECTION_COLOUR = "#e69f00", "#d55e00"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedPlace:
    """A place that needs a look."""

    z: int
    centre: tuple[float, float]
    """(y, x), mip-0 px."""
    side: float
    """Extent of the part to show, mip-0 px."""
    title: str
    """Name of the section and what is wrong, in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as it is shown."""

    url: str
    verdict: str
    """The result in a line."""
    pixel_size: float
    """nm per mip-0 px."""
    section_thickness: float
    """nm per section."""
    section_names: Sequence[str]
    """Name of each section; empty if sections have no names."""
    layers: list[LayerData]
    spoilt: list[MarkedPlace]
    """Sections that need a look."""
    worst: list[MarkedPlace]
    """Worst places."""
    missing: list[str]
    """A line about everything that cannot be shown."""

    def section_label(self, z: int) -> str:
        """Return the name of a section."""
        return section_label(z, self.section_names)

    def world(self, place: MarkedPlace) -> tuple[float, float, float]:
        """Return the position of a place in napari's world, nm."""
        y, x = place.centre
        return place.z * self.section_thickness, (y - 0.5) * self.pixel_size, (x - 0.5) * self.pixel_size


def read_run_view(run: str) -> RunView:
    """Read what is shown of a run; pixels are read later.

    Raises:
        SourceError: there is no run, or nothing of it can be shown yet.
        OutputError: something that is not a run is there.
    """
    record = read_run(run)
    layers: list[LayerData] = []
    missing: list[str] = []
    try:
        layers += _image_layers(record.open_source(), name="source", visible=False)
    except SsemDaskError as error:
        missing.append(f"The source cannot be shown: {error}")
    if is_node(join(run, ALIGNED)):
        layers += _image_layers(Volume.open(join(run, ALIGNED)), name="aligned", visible=True)
    else:
        missing.append("There is no aligned volume yet.")
    if not layers:
        raise SourceError(f"{run}: nothing of it can be shown yet. {' '.join(missing)}")
    scale = (record.section_thickness, record.pixel_size, record.pixel_size)
    layers += _confidence_layers(run, scale=scale)
    data = read_report_data(run)
    worst = [_worst_place(hotspot, data) for hotspot in marked_hotspots(data, count=WORST_PLACES)]
    _, height, width = data.shape
    spoilt = [
        MarkedPlace(
            z=section.z, centre=(height / 2, width / 2), side=max(height, width), title=f"section {section.describe()}"
        )
        for section in (() if data.attention is None else data.attention.records)
    ]
    layers.append(_points_layer("worst places", worst, scale=scale, colour=_PLACE_COLOUR))
    layers.append(_points_layer("sections that need a look", spoilt, scale=scale, colour=_SECTION_COLOUR))
    return RunView(
        url=run,
        verdict=data.verdict or f"State: {record.state}.",
        pixel_size=record.pixel_size,
        section_thickness=record.section_thickness,
        section_names=data.run.section_names,
        layers=layers,
        spoilt=spoilt,
        worst=worst,
        missing=missing,
    )


def warped_layers(run: str, volume: str, *, labels: bool) -> list[LayerData]:
    """Return the layers of another volume of the source's sections, which is warped as it is looked at.

    Args:
        run: URL of the run.
        volume: URL of the volume; its pixels may be larger or smaller than the source's.
        labels: its values are ids.

    Raises:
        SourceError: there is no such volume, or it does not cover the source's sections.
    """
    warping = warping_of(open_alignment(run), volume, "", labels=labels, pixel_size=None)
    opened = warping.open_source()
    layers = []
    for channel in ordered_channels(opened) or [opened]:
        name = f"warped, {channel_name(channel)}"
        layers.append(_layer(channel, warped_pixels(channel, warping), name=name, visible=True, labels=labels))
    return layers


def _image_layers(volume: Volume, *, name: str, visible: bool) -> list[LayerData]:
    channels = ordered_channels(volume)
    if not channels:
        return [_layer(volume, _stored_pixels(volume), name=name, visible=visible)]
    return [
        _layer(
            channel,
            _stored_pixels(channel),
            name=f"{name}, {channel_name(channel)}",
            visible=visible and channel is channels[-1],
        )
        for channel in channels
    ]


def _stored_pixels(volume: Volume) -> Callable[[Box], AnyArray]:
    return lambda box: np.asarray(volume.read(box)[0])


def _layer(
    volume: Volume, read: Callable[[Box], AnyArray], *, name: str, visible: bool, labels: bool = False
) -> LayerData:
    info = volume.info
    levels = [LazyLevel(volume.shape_at(mip), info.dtype, mip=mip, read=read) for mip in volume.mips]
    options = _options(name, scale=(info.section_thickness, info.pixel_size, info.pixel_size), visible=visible)
    options["multiscale"] = True
    if labels:
        return levels, options, "labels"
    return levels, {**options, "contrast_limits": volume_limits(volume), "colormap": "gray"}, "image"


def _confidence_layers(run: str, *, scale: tuple[float, float, float]) -> list[LayerData]:
    """Return a layer for each distance between the sections of a pair; none before registration."""
    url = CONFIDENCE.at(run)
    if not is_node(url):
        return []
    array, info = open_field(url)
    layers: list[LayerData] = []
    for k in range(array.shape[0]):

        def nodes(box: Box, k: int = k) -> AnyArray:
            return np.asarray(np.asarray(array[(k, *box.slices)])[0])

        options = _options(
            f"confidence to section z-{k + 1} (coarse-aligned)",
            scale=(scale[0], scale[1] * info.spacing, scale[2] * info.spacing),
            translate=(0.0, *((info.spacing - 1) / 2 * pixel for pixel in scale[1:])),
            visible=False,
        )
        options |= {"contrast_limits": (0.0, 1.0), "colormap": "viridis", "opacity": 0.7, "blending": "translucent"}
        level = LazyLevel((array.shape[1], *info.nodes), np.dtype(np.float32), mip=0, read=nodes)
        layers.append((level, options, "image"))
    return layers


def _points_layer(name: str, places: list[MarkedPlace], *, scale: tuple[float, float, float], colour: str) -> LayerData:
    """Return places as points with their names beside them; a point shows in its section alone."""
    points = np.array([(place.z, *(p - 0.5 for p in place.centre)) for place in places], dtype=float).reshape(-1, 3)
    options = _options(name, scale=scale, visible=True)
    options |= {
        "features": {"name": [place.title for place in places], "section": [place.z for place in places]},
        "text": {"string": "{name}", "color": colour, "size": 10, "anchor": "upper_left"},
        "face_color": "transparent",
        "border_color": colour,
        "size": np.array([place.side / 8 for place in places]),
        "ndim": 3,
    }
    return points, options, "points"


def _options(
    name: str, *, scale: tuple[float, float, float], visible: bool, translate: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> dict[str, Any]:
    return {
        "name": name,
        "scale": scale,
        "translate": translate,
        "units": (_UNIT,) * 3,
        "axis_labels": AXES,
        "visible": visible,
    }


def _worst_place(hotspot: Hotspot, data: ReportData) -> MarkedPlace:
    box = data.window_box(z=hotspot.z, row=hotspot.row, column=hotspot.column)
    (_, top, left), (_, bottom, right) = box.start, box.stop
    return MarkedPlace(
        z=hotspot.z,
        centre=((top + bottom) / 2, (left + right) / 2),
        side=max(bottom - top, right - left),
        title=f"{section_label(hotspot.z, data.run.section_names)}: {hotspot.reason}",
    )
