"""OME-Zarr (NGFF) multiscale metadata, in nm: written as 0.5, exported as 0.4, read as 0.1 to 0.6.

NGFF puts coordinate 0 on the *centre* of pixel 0, we put it on the corner (C3). So mip m, whose pixel 0 covers 2**m
mip-0 pixels, carries a translation of (2**m - 1)/2 mip-0 pixels in y and x; without it a viewer would show the mips of
a volume shifted against each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ome_zarr_models.v04.image import ImageAttrs as ImageAttrsV04
from ome_zarr_models.v04.image_label import ImageLabelAttrs as ImageLabelAttrsV04
from ome_zarr_models.v05.image import ImageAttrs
from pydantic import TypeAdapter

from ssem_dask.storage.channels import omero
from ssem_dask.storage.lengths import length_in_nm
from ssem_dask.storage.untrusted import interpreting

AXES = ("z", "y", "x")
CHANNEL_AXES = ("c", *AXES)
"""Axes of an image with channels."""
_NAME = TypeAdapter(str)
LABEL_KEY = "image-label"
"""Attribute of an image whose values are ids."""
_OLDEST_AXES = ("t", "c", "z", "y", "x")
"""Axes of OME-Zarr 0.1 and 0.2, which do not name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscale:
    """Parsed metadata of an image group."""

    axes: tuple[str, ...]
    paths: tuple[str, ...]
    """Array of each level, finest first."""
    scales: tuple[tuple[float, ...], ...]
    """Scale of each level along `axes`: nm if the axis has a length unit, else the bare number."""
    in_nm: tuple[bool, ...]
    """Whether an axis has a length unit and a scale, so that its scale is nm."""

    def scale_of(self, axis: str) -> float | None:
        """Return nm per pixel of level 0 along `axis`; None if the axis has no length unit."""
        index = self.axes.index(axis)
        return self.scales[0][index] if self.in_nm[index] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """Everything that the metadata of an image say."""

    name: str
    """Name that viewers show."""
    pixel_size: float
    """nm per mip-0 pixel in y and x."""
    section_thickness: float
    """nm per section."""
    mips: int
    """Number of levels."""
    channels: tuple[str, ...] = ()
    """Name of each channel of an image with the axis c; empty if it has none."""
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))
    """Type of the pixels, from which viewers get the window of a channel."""
    folder: str = ""
    """Path from the group that has the metadata to that with the arrays; empty: the same group."""


def image_attributes(image: ImageMetadata) -> dict[str, Any]:
    """Return the group attributes of an OME-Zarr 0.5 image with arrays "0", "1", …."""
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [_multiscale(image)]}
    if image.channels:
        ome["omero"] = omero(image.channels, dtype=image.dtype)
    ImageAttrs.model_validate(ome)
    return {"ome": ome}


def image_attributes_v04(image: ImageMetadata, *, labels: bool) -> dict[str, Any]:
    """Return the group attributes of an OME-Zarr 0.4 image, like `image_attributes`; `labels`: of a label image."""
    attributes: dict[str, Any] = {"multiscales": [{"version": "0.4", **_multiscale(image)}]}
    if image.channels:
        attributes["omero"] = omero(image.channels, dtype=image.dtype)
    if labels:
        attributes[LABEL_KEY] = {"version": "0.4"}
        ImageLabelAttrsV04.model_validate(attributes)
    ImageAttrsV04.model_validate(attributes)
    return attributes


def is_image(attributes: Mapping[str, Any]) -> bool:
    """Return whether group attributes hold multiscale metadata."""
    return bool(_multiscales(attributes))


def parse_multiscale(attributes: Mapping[str, Any], *, where: str) -> Multiscale:
    """Read the first multiscale of a group's attributes, OME-Zarr 0.1 to 0.6.

    An image without a scale has none: 1.0 is never taken in its place.

    Args:
        attributes: of the group.
        where: the group's URL, for the error's sentence.

    Raises:
        SourceError: the metadata is missing or malformed.
    """
    cure = "give the array itself (for example .../0) with its pixel size and section thickness"
    with interpreting(where, what="its OME-Zarr metadata", cure=cure):
        image = _multiscales(attributes)[0]
        axes, units = _axes_of(image)
        factors = tuple(length_in_nm(1, unit=unit) or 0.0 for unit in units)
        # Before 0.6, transformations of the image apply to all levels; since then, they lead to other systems.
        shared = None if "coordinateSystems" in image else _scale(image.get("coordinateTransformations", ()), len(axes))
        paths, scales, known = [], [], len(axes) * [True]
        for dataset in image["datasets"]:
            own = _scale(dataset.get("coordinateTransformations", ()), len(axes))
            paths.append(_NAME.validate_python(dataset["path"]))
            if own is None and shared is None:
                known = len(axes) * [False]
            pairs = zip(own or (1.0,) * len(axes), shared or (1.0,) * len(axes), factors, strict=True)
            scales.append(tuple(a * b * (f or 1.0) for a, b, f in pairs))
        # The finest level comes first, also if a writer listed it last.
        order = sorted(range(len(paths)), key=lambda level: math.prod(scales[level]))
        paths, scales = [paths[level] for level in order], [scales[level] for level in order]
        if not paths or len({*axes}) != len(axes):
            raise ValueError("no datasets, or an axis named twice")
    return Multiscale(
        axes=axes,
        paths=tuple(paths),
        scales=tuple(scales),
        in_nm=tuple(f > 0 and k for f, k in zip(factors, known, strict=True)),
    )


def image_names(attributes: Mapping[str, Any]) -> list[str]:
    """Return the name of each image in a group's attributes; its number if it has no name."""
    images = [image for image in _multiscales(attributes) if isinstance(image, Mapping)]
    return [str(image.get("name") or number) for number, image in enumerate(images)]


def _multiscale(image: ImageMetadata) -> dict[str, Any]:
    leading = [1.0] if image.channels else []
    datasets = []
    for mip in range(image.mips):
        pixel = image.pixel_size * 2**mip
        offset = image.pixel_size * (2**mip - 1) / 2
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": [*leading, image.section_thickness, pixel, pixel]}
        ]
        if mip > 0:
            transformations.append(
                {"type": "translation", "translation": [*(0.0 for _ in leading), 0.0, offset, offset]}
            )
        path = f"{image.folder}/{mip}" if image.folder else str(mip)
        datasets.append({"path": path, "coordinateTransformations": transformations})
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if image.channels else []
    axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in AXES]
    return {"name": image.name, "axes": axes, "datasets": datasets}


def _multiscales(attributes: Mapping[str, Any]) -> Sequence[Any]:
    ome = attributes.get("ome")
    multiscales = ome.get("multiscales") if isinstance(ome, Mapping) else attributes.get("multiscales")
    return multiscales if isinstance(multiscales, list) else []


def _axes_of(image: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the units of the axes of an image, "" for axes without a unit."""
    axes = _intrinsic_axes(image) if "coordinateSystems" in image else image.get("axes", _OLDEST_AXES)
    # Axes were plain names in 0.3.
    records = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    return tuple(_NAME.validate_python(axis["name"]) for axis in records), tuple(
        str(axis.get("unit") or "") for axis in records
    )


def _intrinsic_axes(image: Mapping[str, Any]) -> Sequence[Any]:
    """Return the axes of the coordinate system to which the transformations of the levels lead (0.6)."""
    systems = {system["name"]: system["axes"] for system in image["coordinateSystems"]}
    outputs = [
        _system_name(transformation.get("output"))
        for dataset in image["datasets"]
        for transformation in dataset.get("coordinateTransformations", ())
    ]
    name = next((output for output in outputs if output in systems), None)
    if name is None and len(systems) != 1:
        raise ValueError(f"its levels lead to none of the coordinate systems {', '.join(systems)}")
    axes: Sequence[Any] = systems[name] if name is not None else next(iter(systems.values()))
    return axes


def _system_name(reference: Any) -> str | None:
    """Return the name of a coordinate system, given as an object (0.6) or as a string (its drafts)."""
    return reference.get("name") if isinstance(reference, Mapping) else reference


def _scale(transformations: Sequence[Mapping[str, Any]], ndim: int) -> tuple[float, ...] | None:
    """Return the product of all scales, also of those in sequences; None if there is none.

    Raises:
        ValueError: a transformation is no scale and no translation, so a pixel has no size along the axes.
    """
    product: tuple[float, ...] | None = None
    for transformation in transformations:
        kind = transformation["type"]
        if kind == "sequence":
            part = _scale(transformation["transformations"], ndim)
        elif kind == "scale":
            part = tuple(float(value) for value in transformation["scale"])
            if len(part) != ndim:
                raise ValueError(f"scale has {len(part)} values for {ndim} axes")
        elif kind in ("translation", "identity"):
            part = None
        else:
            raise ValueError(f"a transformation of type {kind} gives pixels no size")
        if part is not None:
            product = part if product is None else tuple(a * b for a, b in zip(product, part, strict=True))
    return product
