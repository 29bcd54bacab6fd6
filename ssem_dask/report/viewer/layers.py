"""The layers that neuroglancer shows, and the state that it opens with.

Axes are named x, y, z in this order, in nm, so that sections are seen face on. All lie in the frame of the aligned
volume, but for `source`, which is as it came, and `confidence`, which belongs to the coarse-aligned sections.

neuroglancer puts coordinate 0 of OME-Zarr images on the centre of pixel 0, as NGFF has it, where ours is its corner
(C3): what is at p here is at p - 1/2 there, in z too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import neuroglancer
import numpy as np
from neuroglancer import json_utils

from ssem_dask.geometry.box import Box
from ssem_dask.report.encode import limits
from ssem_dask.report.hotspots import Place
from ssem_dask.report.viewer.http import Spot
from ssem_dask.storage.volume import Volume, VolumeInfo
from ssem_dask.types import ShapeYX

_PIXELS = 700.0
"""Width and height of the part of the screen that a place should fill."""
_CENTRE = 0.5
_NODES = """#uicontrol invlerp normalized
#uicontrol float opacity slider(min=0, max=1, default=0.7)
void main() {
  float value = normalized();
  if (!(value == value)) discard;
  emitRGBA(vec4(mix(vec3(0.0, 0.13, 0.30), vec3(1.0, 0.91, 0.27), clamp(value, 0.0, 1.0)), opacity));
}
"""
"""Dark blue to yellow, which reads the same with and without colour vision deficiency; NaN is transparent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """An array of one value a node."""

    name: str
    title: str
    leading: int
    """Axes before z (k)."""
    high: float
    """Value of the lightest colour; 0 has the darkest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there is to show."""

    info: VolumeInfo
    images: dict[str, int]
    """Names of image layers that are served, of `source`, `coarse` and `aligned`, and their Zarr format."""
    nodes: Sequence[Nodes]
    spacing: int
    labels: int | None
    """Zarr format of the labels; None where there are none."""
    limits: tuple[float, float]
    """Intensities that are black and white."""
    places: Sequence[Place]
    window: ShapeYX
    """Extent (y, x) of a place, mip-0 px."""


def make_state(shown: Shown, *, data: str, spot: Spot | None) -> dict[str, Any]:
    """The state of neuroglancer, as plain JSON values.

    Args:
        shown: what there is.
        data: address below which it is served.
        spot: where to look; None: at all of the middle section.
    """
    info = shown.info
    nm = 1e-9
    scales = [info.pixel_size * nm, info.pixel_size * nm, info.section_thickness * nm]
    space = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="m", scales=scales)
    z, y, x = info.shape
    spot = spot or Spot(z // 2, y / 2, x / 2, max(y, x))
    state = neuroglancer.ViewerState(
        dimensions=space,
        position=[spot.x - _CENTRE, spot.y - _CENTRE, spot.z],
        cross_section_scale=spot.side / _PIXELS,
        projection_scale=2 * max(y, x),
        layout=neuroglancer.DataPanelLayout("4panel-alt"),
        show_slices=True,
    )
    last = next(reversed(shown.images))
    for name, version in shown.images.items():
        state.layers.append(
            name=_TITLES[name],
            layer=neuroglancer.ImageLayer(
                source=f"{data}/{name}/|zarr{version}:",
                shader_controls={"normalized": {"range": list(shown.limits)}},
            ),
            visible=name == last,
        )
    for nodes in shown.nodes:
        layer = _node_layer(shown, nodes, url=f"{data}/{nodes.name}/|zarr3:")
        state.layers.append(name=nodes.title, layer=layer, visible=False)
    if shown.labels is not None:
        source = f"{data}/labels/|zarr{shown.labels}:"
        state.layers.append(name="labels", layer=neuroglancer.SegmentationLayer(source=source))
    if shown.places:
        state.layers.append(name="worst places", layer=_annotations(shown, space))
        state.selected_layer.layer = "worst places"
    plain: dict[str, Any] = json.loads(json.dumps(state.to_json(), default=json_utils.json_encoder_default))
    return plain


_TITLES = {"source": "source", "coarse": "coarse-aligned", "aligned": "aligned"}


def _node_layer(shown: Shown, nodes: Nodes, *, url: str) -> neuroglancer.ImageLayer:
    info, nm, leading = shown.info, 1e-9, nodes.leading
    node = info.pixel_size * shown.spacing * nm
    units, scales = [""] * leading + ["m"] * 3, [1.0] * leading + [info.section_thickness * nm, node, node]
    here = neuroglancer.CoordinateSpace(names=["k"] * leading + ["z", "y", "x"], units=units, scales=scales)
    there = neuroglancer.CoordinateSpace(names=["k'"] * leading + ["z", "y", "x"], units=units, scales=scales)
    shift = [0.0] * leading + [-_CENTRE, -_CENTRE / shown.spacing, -_CENTRE / shown.spacing]
    source = neuroglancer.LayerDataSource(
        url=url,
        transform=neuroglancer.CoordinateSpaceTransform(
            input_dimensions=here,
            output_dimensions=there,
            matrix=np.column_stack([np.eye(len(shift)), shift]),
        ),
    )
    return neuroglancer.ImageLayer(
        source=source,
        shader=_NODES,
        shader_controls={"normalized": {"range": [0.0, nodes.high]}},
        opacity=1.0,
        local_position=[0.5] * leading,
    )


def _annotations(shown: Shown, space: neuroglancer.CoordinateSpace) -> neuroglancer.LocalAnnotationLayer:
    height, width = shown.window
    boxes = []
    for index, place in enumerate(shown.places):
        y, x = place.row * height, place.column * width
        bottom, right = min(y + height, shown.info.shape[1]), min(x + width, shown.info.shape[2])
        boxes.append(
            neuroglancer.AxisAlignedBoundingBoxAnnotation(
                id=str(index),
                point_a=[x - _CENTRE, y - _CENTRE, place.z - _CENTRE],
                point_b=[right - _CENTRE, bottom - _CENTRE, place.z + _CENTRE],
                description=f"{index + 1}. section {place.z}: {place.reason}",
            )
        )
    return neuroglancer.LocalAnnotationLayer(dimensions=space, annotations=boxes, annotation_color="#e69f00")


def intensity_limits(volume: Volume) -> tuple[float, float]:
    """Black and white, from the coarsest level of the middle section."""
    mip = volume.mips[-1]
    z, y, x = volume.shape_at(mip)
    # A volume without a pyramid is not read as a whole for this.
    height, width = min(y, 1024), min(x, 1024)
    top, left = (y - height) // 2, (x - width) // 2
    found = limits(volume.read(Box((z // 2, top, left), (z // 2 + 1, top + height, left + width), mip)))
    return found if found != (0.0, 1.0) else (0.0, float(np.iinfo(volume.info.dtype).max))
