"""The layers that neuroglancer shows, and the state that it opens with.

Axes are named x, y, z in this order, in nm, so that sections are seen face on. All layers are in the frame of the
aligned volume, except `source` (the unaligned sections) and `confidence` (the frame of the coarse-aligned sections).

neuroglancer, like NGFF, puts coordinate 0 of OME-Zarr images on the centre of pixel 0; ours is its corner (C3). So
position p here is position p - 1/2 there, in z too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import neuroglancer
import numpy as np
from neuroglancer import json_utils

from ssem_dask.report.hotspots import Hotspot
from ssem_dask.report.viewer.http import Viewpoint
from ssem_dask.section_record import SectionRecord
from ssem_dask.storage.section_names import section_label
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ShapeYX

_PANEL_PX = 700.0
"""Width and height of the part of the screen that a viewpoint should fill."""
_CENTRE = 0.5
_UNIT_METRES = 1e-9
_HOTSPOTS_TITLE = "worst places"
_SPOILT_TITLE = "sections that need a look"
WARPED = "warped"
"""Layer of a volume that is warped as it is looked at."""
_TITLES = {"source": "source", "coarse": "coarse-aligned", "aligned": "aligned", WARPED: "warped"}
_NODE_SHADER = """#uicontrol invlerp normalized
#uicontrol float opacity slider(min=0, max=1, default=0.7)
void main() {
  float value = normalized();
  if (!(value == value)) discard;
  emitRGBA(vec4(mix(vec3(0.0, 0.13, 0.30), vec3(1.0, 0.91, 0.27), clamp(value, 0.0, 1.0)), opacity));
}
"""
"""Dark blue to yellow, readable with and without colour vision deficiency; NaN is transparent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeArray:
    """An array with one value per node."""

    name: str
    title: str
    leading: int
    """Number of axes before z (k)."""
    high: float
    """Value of the lightest colour; the darkest is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownChannel:
    """One channel of an image as a layer."""

    name: str
    limits: tuple[float, float]
    """Intensities that are shown black and white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The content of the viewer."""

    info: VolumeInfo
    images: dict[str, int]
    """Zarr format of each served image layer: `source`, `coarse`, `aligned`, and `aligned-1` for another channel."""
    nodes: Sequence[NodeArray]
    spacing: int
    """mip-0 px between nodes."""
    labels: int | None
    """Zarr format of the labels; None if there are none."""
    limits: tuple[float, float]
    """Intensities that are shown black and white."""
    hotspots: Sequence[Hotspot]
    window: ShapeYX
    """Extent (y, x) of a hotspot, mip-0 px."""
    section_names: Sequence[str] = ()
    """Name of each section; empty if sections have no names."""
    channels: Mapping[str, "ShownChannel"] = field(default_factory=dict)
    """Channel that a layer shows; layers of images without channels are not listed."""
    warped_labels: bool = False
    """Whether there is a segmentation that is warped as it is looked at."""
    spoilt: Sequence[SectionRecord] = ()
    """Sections with a fault of their own, which are marked as a whole."""


def make_state(scene: Scene, *, data: str, viewpoint: Viewpoint | None) -> dict[str, Any]:
    """Return the state of neuroglancer, as plain JSON values.

    Args:
        scene: content of the viewer.
        data: address below which it is served.
        viewpoint: part of a section to show; None: the whole middle section.
    """
    info = scene.info
    pixel_metres = info.pixel_size * _UNIT_METRES
    scales = [pixel_metres, pixel_metres, info.section_thickness * _UNIT_METRES]
    space = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="m", scales=scales)
    z, y, x = info.shape
    viewpoint = viewpoint or Viewpoint(z // 2, y / 2, x / 2, max(y, x))
    state = neuroglancer.ViewerState(
        dimensions=space,
        position=[viewpoint.x - _CENTRE, viewpoint.y - _CENTRE, viewpoint.z],
        cross_section_scale=viewpoint.side / _PANEL_PX,
        projection_scale=2 * max(y, x),
        layout=neuroglancer.DataPanelLayout("4panel-alt"),
        show_slices=True,
    )
    last_image = next(reversed(scene.images))
    for name, version in scene.images.items():
        channel = scene.channels.get(name)
        title = _TITLES[name.partition("-")[0]]
        limits = scene.limits if channel is None else channel.limits
        state.layers.append(
            name=title if channel is None else f"{title}, {channel.name}",
            layer=neuroglancer.ImageLayer(
                source=f"{data}/{name}/|zarr{version}:",
                shader_controls={"normalized": {"range": list(limits)}},
            ),
            visible=name == last_image,
        )
    for nodes in scene.nodes:
        layer = _node_layer(scene, nodes, url=f"{data}/{nodes.name}/|zarr3:")
        state.layers.append(name=nodes.title, layer=layer, visible=False)
    if scene.labels is not None:
        source = f"{data}/labels/|zarr{scene.labels}:"
        state.layers.append(name="labels", layer=neuroglancer.SegmentationLayer(source=source))
    if scene.warped_labels:
        layer = neuroglancer.SegmentationLayer(source=f"{data}/{WARPED}/|zarr3:")
        state.layers.append(name="warped labels", layer=layer)
    if scene.spoilt:
        state.layers.append(name=_SPOILT_TITLE, layer=_section_boxes(scene, space))
    if scene.hotspots:
        state.layers.append(name=_HOTSPOTS_TITLE, layer=_annotations(scene, space))
        state.selected_layer.layer = _HOTSPOTS_TITLE
    plain: dict[str, Any] = json.loads(json.dumps(state.to_json(), default=json_utils.json_encoder_default))
    return plain


def _node_layer(scene: Scene, nodes: NodeArray, *, url: str) -> neuroglancer.ImageLayer:
    info, leading = scene.info, nodes.leading
    node_metres = info.pixel_size * scene.spacing * _UNIT_METRES
    units = [""] * leading + ["m"] * 3
    scales = [1.0] * leading + [info.section_thickness * _UNIT_METRES, node_metres, node_metres]
    stored = neuroglancer.CoordinateSpace(names=["k"] * leading + ["z", "y", "x"], units=units, scales=scales)
    # An axis whose name ends in ' belongs to the layer alone, so the layer has its own slider for k.
    displayed = neuroglancer.CoordinateSpace(names=["k'"] * leading + ["z", "y", "x"], units=units, scales=scales)
    shift = [0.0] * leading + [-_CENTRE, -_CENTRE / scene.spacing, -_CENTRE / scene.spacing]
    source = neuroglancer.LayerDataSource(
        url=url,
        transform=neuroglancer.CoordinateSpaceTransform(
            input_dimensions=stored,
            output_dimensions=displayed,
            matrix=np.column_stack([np.eye(len(shift)), shift]),
        ),
    )
    return neuroglancer.ImageLayer(
        source=source,
        shader=_NODE_SHADER,
        shader_controls={"normalized": {"range": [0.0, nodes.high]}},
        opacity=1.0,
        local_position=[0.5] * leading,
    )


def _annotations(scene: Scene, space: neuroglancer.CoordinateSpace) -> neuroglancer.LocalAnnotationLayer:
    height, width = scene.window
    boxes = []
    for index, hotspot in enumerate(scene.hotspots):
        y, x = hotspot.row * height, hotspot.column * width
        bottom, right = min(y + height, scene.info.shape[1]), min(x + width, scene.info.shape[2])
        boxes.append(
            neuroglancer.AxisAlignedBoundingBoxAnnotation(
                id=str(index),
                point_a=[x - _CENTRE, y - _CENTRE, hotspot.z - _CENTRE],
                point_b=[right - _CENTRE, bottom - _CENTRE, hotspot.z + _CENTRE],
                description=f"{index + 1}. {section_label(hotspot.z, scene.section_names)}: {hotspot.reason}",
            )
        )
    return neuroglancer.LocalAnnotationLayer(dimensions=space, annotations=boxes, annotation_color="#e69f00")


def _section_boxes(scene: Scene, space: neuroglancer.CoordinateSpace) -> neuroglancer.LocalAnnotationLayer:
    """Return a box around each section that needs a look."""
    _, height, width = scene.info.shape
    boxes = [
        neuroglancer.AxisAlignedBoundingBoxAnnotation(
            id=f"section-{record.z}",
            point_a=[-_CENTRE, -_CENTRE, record.z - _CENTRE],
            point_b=[width - _CENTRE, height - _CENTRE, record.z + _CENTRE],
            description=f"section {record.describe()} (certainty {record.certainty:.2f})",
        )
        for record in scene.spoilt
    ]
    return neuroglancer.LocalAnnotationLayer(dimensions=space, annotations=boxes, annotation_color="#d55e00")
