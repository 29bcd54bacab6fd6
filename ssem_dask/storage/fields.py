"""Field arrays on disk, with attributes that define their numbers (C1–C8).

Shape: leading axes (none, or k), then z, then c = (dy, dx) if the array holds displacements, then nodes (y, x). Values
are float32; those that were never written read as NaN: unknown, never identity (C8). Coarse maps are one affine
`(2, 3)` per section in float64: rows are the y and x equation of the full map aligned → source, columns (y, x, 1),
mip-0 px.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ssem_dask.errors import ConventionError
from ssem_dask.geometry.mip import ceil_div
from ssem_dask.storage import arrays
from ssem_dask.storage.arrays import ZarrArray
from ssem_dask.storage.untrusted import COUNT, SHAPE_ZYX, checked
from ssem_dask.types import ShapeZYX

_PULL = {"components": ["y", "x"], "direction": "pull", "unit": "px@mip0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldInfo:
    """The frame of a field array."""

    spacing: int
    """mip-0 px between nodes."""
    shape_mip0: ShapeZYX
    """(z, y, x) of the volume at mip 0."""

    @property
    def nodes(self) -> tuple[int, int]:
        """Nodes (y, x) of a section."""
        return ceil_div(self.shape_mip0[1], self.spacing), ceil_div(self.shape_mip0[2], self.spacing)


def create_field(
    url: str,
    *,
    info: FieldInfo,
    leading: tuple[int, ...],
    components: bool,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    scalar_unit: str = "1",
) -> ZarrArray:
    """Create a field array, all unknown; an existing one of this layout is opened.

    Args:
        url: of the array.
        info: frame of the field.
        leading: () or (K,), the axes before z.
        components: True for displacements (a `c` axis of 2 after z), False for one value per node, such as confidence.
        chunks: extent of a chunk, one number per axis.
        shards: extent of a shard, or None.
        scalar_unit: unit of values that are no displacements.

    Raises:
        OutputError: something else is there, or the location cannot be written.
    """
    axes = (*(("k",) if leading else ()), "z", *(("c",) if components else ()), "y", "x")
    return arrays.create_array(
        url,
        shape=(*leading, info.shape_mip0[0], *((2,) if components else ()), *info.nodes),
        dtype="float32",
        axes=axes,
        chunks=chunks,
        shards=shards,
        fill_value=float("nan"),
        attributes=field_attributes(info, axes=axes, scalar_unit=scalar_unit),
    )


def field_attributes(info: FieldInfo, *, axes: tuple[str, ...], scalar_unit: str = "1") -> dict[str, Any]:
    """Return the attributes of a field array.

    Args:
        info: frame of the field.
        axes: names of the array's axes; with `c` the values are displacements.
        scalar_unit: unit of values that are no displacements.
    """
    return {
        "axes": list(axes),
        **(_PULL if "c" in axes else {"unit": scalar_unit}),
        "spacing": info.spacing,
        "shape_mip0": list(info.shape_mip0),
    }


def coarse_attributes(shape_mip0: ShapeZYX) -> dict[str, Any]:
    """Return the attributes of an array of per-section affines (z, 2, 3)."""
    return {"axes": ["z", "row", "column"], **_PULL, "kind": "affine", "shape_mip0": list(shape_mip0)}


def open_field(url: str, *, mode: Literal["r", "r+"] = "r") -> tuple[ZarrArray, FieldInfo]:
    """Open a field array and its frame.

    Raises:
        SourceError: nothing is there.
        ConventionError: the attributes are missing, or name another convention than C1–C5.
    """
    array = arrays.open_array(url, mode=mode)
    axes = _attribute(array, url, "axes")
    if axes not in (["z", "c", "y", "x"], ["k", "z", "c", "y", "x"], ["z", "y", "x"], ["k", "z", "y", "x"]):
        raise ConventionError(f"{url}: axes are {axes}, but a field has (k,) z, (c,) y, x; write it in that order.")
    if "c" in axes:
        _check_pull(array, url)
    spacing = checked(_attribute(array, url, "spacing"), COUNT, where=url, what="its attribute spacing")
    shape = shape_mip0_of(array, url)
    info = FieldInfo(spacing=spacing, shape_mip0=shape)
    expected = (info.shape_mip0[0], *((2,) if "c" in axes else ()), *info.nodes)
    if array.ndim != len(axes) or array.shape[-len(expected) :] != expected:
        raise ConventionError(
            f"{url}: shape {array.shape} does not fit {expected}, which spacing {spacing} and volume {shape} make."
        )
    return array, info


def create_coarse(url: str, *, shape_mip0: ShapeZYX) -> ZarrArray:
    """Create the array (z, 2, 3) of per-section affines, all unknown; one chunk, so one task writes all of it."""
    shape = (shape_mip0[0], 2, 3)
    return arrays.create_array(
        url,
        shape=shape,
        dtype="float64",
        axes=("z", "row", "column"),
        chunks=shape,
        shards=None,
        fill_value=float("nan"),
        attributes=coarse_attributes(shape_mip0),
    )


def open_coarse(url: str, *, mode: Literal["r", "r+"] = "r") -> ZarrArray:
    """Open the per-section affines; SourceError and ConventionError as in `open_field`."""
    array = arrays.open_array(url, mode=mode)
    if _attribute(array, url, "kind") != "affine" or array.ndim != 3 or array.shape[1:] != (2, 3):
        raise ConventionError(f"{url}: shape {array.shape} is not that of one affine (2, 3) per section.")
    _check_pull(array, url)
    return array


def shape_mip0_of(array: ZarrArray, url: str) -> ShapeZYX:
    """Return the attribute `shape_mip0` of a field array, or of one of affines; SourceError if it is no shape."""
    return checked(_attribute(array, url, "shape_mip0"), SHAPE_ZYX, where=url, what="its attribute shape_mip0")


def _attribute(array: ZarrArray, url: str, name: str) -> Any:
    if name not in array.attrs:
        raise ConventionError(
            f"{url}: attribute '{name}' is missing, so its numbers have no meaning; write the field again."
        )
    return array.attrs[name]


def _check_pull(array: ZarrArray, url: str) -> None:
    for name, wanted in _PULL.items():
        got = _attribute(array, url, name)
        if got != wanted:
            raise ConventionError(f"{url}: {name} is {got!r}, but ours is {wanted!r}; convert the field.")
