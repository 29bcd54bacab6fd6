"""OME-Zarr (NGFF) multiscale metadata, in nm: written as 0.5, exported as 0.4, read as either.

NGFF puts coordinate 0 on the *centre* of pixel 0, we put it on the corner (C3). So mip m, whose pixel 0 covers 2**m
mip-0 pixels, carries a translation of (2**m - 1)/2 mip-0 pixels in y and x; without it a viewer would show the mips of
a volume shifted against each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ome_zarr_models.v04.image import ImageAttrs as ImageAttrsV04
from ome_zarr_models.v04.image_label import ImageLabelAttrs as ImageLabelAttrsV04
from ome_zarr_models.v05.image import ImageAttrs
from pydantic import TypeAdapter

from ssem_dask.storage.untrusted import interpreting

AXES = ("z", "y", "x")
_NAME = TypeAdapter(str)
LABEL_KEY = "image-label"
"""Attribute of an image whose values are ids."""
_NM_PER_UNIT = {
    "picometer": 1e-3,
    "angstrom": 0.1,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscale:
    """Parsed metadata of an image group."""

    axes: tuple[str, ...]
    paths: tuple[str, ...]
    """Array of each level, finest first."""
    scales: tuple[tuple[float, ...], ...]
    """Scale of each level along `axes`: nm if the axis has a length unit, else the bare number."""
    in_nm: tuple[bool, ...]
    """Whether an axis has a length unit, so that its scale is nm."""

    def scale_of(self, axis: str) -> float | None:
        """Return nm per pixel of level 0 along `axis`; None if the axis has no length unit."""
        index = self.axes.index(axis)
        return self.scales[0][index] if self.in_nm[index] else None


def image_attributes(*, name: str, pixel_size: float, section_thickness: float, mips: int) -> dict[str, Any]:
    """Return the group attributes of an OME-Zarr 0.5 image with arrays "0", "1", ….

    Args:
        name: shown by viewers.
        pixel_size: nm per mip-0 pixel in y and x.
        section_thickness: nm per section.
        mips: number of levels.
    """
    multiscale = _multiscale(name, pixel_size=pixel_size, section_thickness=section_thickness, mips=mips)
    ome = {"version": "0.5", "multiscales": [multiscale]}
    ImageAttrs.model_validate(ome)
    return {"ome": ome}


def image_attributes_v04(
    *, name: str, pixel_size: float, section_thickness: float, mips: int, labels: bool
) -> dict[str, Any]:
    """Return the group attributes of an OME-Zarr 0.4 image, like `image_attributes`; `labels`: of a label image."""
    multiscale = _multiscale(name, pixel_size=pixel_size, section_thickness=section_thickness, mips=mips)
    attributes: dict[str, Any] = {"multiscales": [{"version": "0.4", **multiscale}]}
    if labels:
        attributes[LABEL_KEY] = {"version": "0.4"}
        ImageLabelAttrsV04.model_validate(attributes)
    ImageAttrsV04.model_validate(attributes)
    return attributes


def is_image(attributes: Mapping[str, Any]) -> bool:
    """Return whether group attributes hold multiscale metadata."""
    return bool(_multiscales(attributes))


def parse_multiscale(attributes: Mapping[str, Any], *, where: str) -> Multiscale:
    """Read the first multiscale of a group's attributes, OME-Zarr 0.4 or 0.5.

    Args:
        attributes: of the group.
        where: the group's URL, for the error's sentence.

    Raises:
        SourceError: the metadata is missing or malformed.
    """
    cure = "give the array itself (for example .../0) with its pixel size and section thickness"
    with interpreting(where, what="its OME-Zarr metadata", cure=cure):
        image = _multiscales(attributes)[0]
        axes = tuple(_NAME.validate_python(axis["name"]) for axis in image["axes"])
        factors = tuple(_NM_PER_UNIT.get(axis.get("unit", ""), 0.0) for axis in image["axes"])
        shared = _scale(image.get("coordinateTransformations", ()), len(axes))
        paths, scales = [], []
        for dataset in image["datasets"]:
            level_scale = _scale(dataset.get("coordinateTransformations", ()), len(axes))
            paths.append(_NAME.validate_python(dataset["path"]))
            scales.append(tuple(a * b * (f or 1.0) for a, b, f in zip(level_scale, shared, factors, strict=True)))
        if not paths or len({*axes}) != len(axes):
            raise ValueError("no datasets, or an axis named twice")
    return Multiscale(axes=axes, paths=tuple(paths), scales=tuple(scales), in_nm=tuple(f > 0 for f in factors))


def _multiscale(name: str, *, pixel_size: float, section_thickness: float, mips: int) -> dict[str, Any]:
    datasets = []
    for mip in range(mips):
        pixel = pixel_size * 2**mip
        offset = pixel_size * (2**mip - 1) / 2
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [section_thickness, pixel, pixel]}]
        if mip > 0:
            transformations.append({"type": "translation", "translation": [0.0, offset, offset]})
        datasets.append({"path": str(mip), "coordinateTransformations": transformations})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in AXES]
    return {"name": name, "axes": axes, "datasets": datasets}


def _multiscales(attributes: Mapping[str, Any]) -> Sequence[Any]:
    ome = attributes.get("ome")
    multiscales = ome.get("multiscales") if isinstance(ome, Mapping) else attributes.get("multiscales")
    return multiscales if isinstance(multiscales, list) else []


def _scale(transformations: Sequence[Mapping[str, Any]], ndim: int) -> tuple[float, ...]:
    for transformation in transformations:
        if transformation["type"] == "scale":
            scale = tuple(float(value) for value in transformation["scale"])
            if len(scale) != ndim:
                raise ValueError(f"scale has {len(scale)} values for {ndim} axes")
            return scale
    return (1.0,) * ndim
