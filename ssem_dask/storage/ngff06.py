"""OME-Zarr 0.6 metadata: images, displacement fields as multiscale groups, and the scene that joins them (RFC-5).

- Every group has one coordinate system, `physical`, in nm. Readers differ in whether they take the first or the last.
- Transformations between images are in the scene alone. A reader that knows no fields still opens the images.
- A field has the axis of its components before z, y, x. Component i belongs to axis i of the images, and is nm.
- NGFF counts from the centre of pixel 0, we from its corner (C3). So node i of a field of spacing s is at
  `i·s·p + (s - 1)/2·p` nm, where p is the pixel size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssem_dask.storage.channels import omero
from ssem_dask.storage.ngff import AXES, LABEL_KEY, ImageMetadata

VERSION = "0.6"
SYSTEM = "physical"
"""Name of the coordinate system of every group."""
FIELD_LEVEL = "s0"
"""Path of the array of a field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPlacement:
    """Positions of the nodes of an exported field, which are those of a mip-0 field with more nodes on every side."""

    spacing: int
    """mip-0 px between nodes."""
    margin: int
    """Nodes before the first node of the section, along y and x."""
    pixel_size: float
    """nm per mip-0 px."""
    section_thickness: float
    """nm per section."""

    @property
    def scale(self) -> list[float]:
        """Nm between nodes along z, y, x."""
        step = self.spacing * self.pixel_size
        return [self.section_thickness, step, step]

    @property
    def origin(self) -> list[float]:
        """Position of node 0 along z, y, x; nm from the centre of pixel 0."""
        start = ((self.spacing - 1) / 2 - self.margin * self.spacing) * self.pixel_size
        return [0.0, start, start]


def image_attributes_v06(image: ImageMetadata, *, labels: bool) -> dict[str, Any]:
    """Return the group attributes of an OME-Zarr 0.6 image with arrays "0", "1", …; `labels`: of a label image."""
    leading = [1.0] if image.channels else []
    datasets = []
    for mip in range(image.mips):
        pixel, offset = image.pixel_size * 2**mip, image.pixel_size * (2**mip - 1) / 2
        scale = [*leading, image.section_thickness, pixel, pixel]
        datasets.append(_dataset(str(mip), scale=scale, origin=[*(0.0 for _ in leading), 0.0, offset, offset]))
    axes: list[dict[str, Any]] = [{"name": "c", "type": "channel", "discrete": True}] if image.channels else []
    ome = _multiscale(image.name, axes=[*axes, *_space()], datasets=datasets)
    if image.channels:
        ome["omero"] = omero(image.channels, dtype=image.dtype)
    if labels:
        ome[LABEL_KEY] = {}
    return {"ome": ome}


def field_attributes_v06(name: str, placement: FieldPlacement) -> dict[str, Any]:
    """Return the group attributes of a displacement field with one array (c, z, y, x)."""
    axes = [{"name": "c", "type": "displacement", "discrete": True}, *_space()]
    dataset = _dataset(FIELD_LEVEL, scale=[1.0, *placement.scale], origin=[0.0, *placement.origin])
    return {"ome": _multiscale(name, axes=axes, datasets=[dataset])}


def node_attributes_v06(name: str, placement: FieldPlacement) -> dict[str, Any]:
    """Return the group attributes of one value per node of a field, with one array (z, y, x)."""
    dataset = _dataset(FIELD_LEVEL, scale=placement.scale, origin=placement.origin)
    return {"ome": _multiscale(name, axes=_space(), datasets=[dataset])}


def scene_attributes(
    *, source: str, target: str, forward: str, inverse: str, name: str, note: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the group attributes of a scene of two images with a field each way.

    Args:
        source: path of the image whose points `forward` moves.
        target: path of the other image.
        forward: path of the field source → target.
        inverse: path of the field target → source.
        name: of the transformation.
        note: attributes of the group beside those of OME-Zarr.
    """
    bijection = {
        "type": "bijection",
        "name": name,
        "input": {"path": source, "name": SYSTEM},
        "output": {"path": target, "name": SYSTEM},
        "forward": {"type": "displacements", "path": forward, "interpolation": "linear"},
        "inverse": {"type": "displacements", "path": inverse, "interpolation": "linear"},
    }
    return {"ome": {"version": VERSION, "scene": {"coordinateTransformations": [bijection]}}, **note}


def _multiscale(name: str, *, axes: Sequence[dict[str, Any]], datasets: list[dict[str, Any]]) -> dict[str, Any]:
    systems = [{"name": SYSTEM, "axes": list(axes)}]
    return {"version": VERSION, "multiscales": [{"name": name, "coordinateSystems": systems, "datasets": datasets}]}


def _space() -> list[dict[str, Any]]:
    return [{"name": axis, "type": "space", "unit": "nanometer", "discrete": False} for axis in AXES]


def _dataset(path: str, *, scale: list[float], origin: list[float]) -> dict[str, Any]:
    """Return an array of a multiscale, whose index i is at `scale·i + origin`."""
    ends = {"input": {"path": path}, "output": {"name": SYSTEM}}
    if not any(origin):
        return {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale, **ends}]}
    parts = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": origin}]
    return {"path": path, "coordinateTransformations": [{"type": "sequence", "transformations": parts, **ends}]}
