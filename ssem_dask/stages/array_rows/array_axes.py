"""Axes, layouts and attributes that arrays of several stages share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div, mip_for_pixel_size, shape_at_mip
from ssem_dask.registration.coarse_alignment.pieces import REACH
from ssem_dask.registration.section_parts.find_parts import LARGEST_SIDE, PIXEL_NM
from ssem_dask.stages.compose import layout
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import Axis, Extent
from ssem_dask.storage.fields import FieldInfo, field_attributes


def node_spacing(job: Job) -> int:
    """Return the px between nodes of fields."""
    return job.spacing


def restricted_spacing(job: Job) -> int:
    """Return the px between nodes of restricted fields, by which wide sections are solved."""
    return job.spacing * layout.restriction_factor(job)


def fixed_size(size: int) -> Extent:
    """Return an extent that is the same in every run."""
    return lambda job: size  # noqa: ARG005


Z = Axis("z", lambda job: job.shape[0], "z")
Y = Axis("y", lambda job: job.grid.shape[0], "y", node_spacing)
X = Axis("x", lambda job: job.grid.shape[1], "x", node_spacing)
RESTRICTED_Y, RESTRICTED_X = (
    replace(
        axis,
        size=lambda job, i=i: ceil_div(job.shape[i], restricted_spacing(job)),  # type: ignore[misc]
        step=restricted_spacing,
        dimension=f"restricted_{axis.name}",
    )
    for i, axis in ((1, Y), (2, X))
)
C = Axis("c", fixed_size(2))
ROW, COLUMN, PART = (
    Axis("row", fixed_size(2)),
    Axis("column", fixed_size(3)),
    Axis("part", fixed_size(2), dimension="variance_part"),
)
K_COARSE = Axis("k", lambda job: job.coarse.neighbours, dimension="coarse_k")
K_REGISTER = Axis("k", lambda job: job.register.neighbours)
K_COMPOSE = Axis("k", layout.pair_steps, dimension="compose_k")
K_WIDE = Axis("k", fixed_size(REACH), dimension="wide_k")
DISTANCE = Axis("distance", lambda job: len(job.compose.far.distances))
CHAIN_BLOCK = Axis("block", layout.block_count, "z", lambda job: job.compose.chain.block)
CHAIN_BLOCK_Z = Axis("z", layout.block_depth, dimension="block_z")


def parts_mip(job: Job) -> int:
    """Return the mip at which parts of sections are searched: about 20 nm, coarser for large sections."""
    mip = mip_for_pixel_size(job.info.pixel_size, wanted=PIXEL_NM)
    while max(shape_at_mip(job.shape_yx, mip=mip)) > LARGEST_SIDE:
        mip += 1
    return mip


LABEL_Y, LABEL_X = (
    replace(
        axis,
        size=lambda job, i=i: shape_at_mip(job.shape_yx, mip=parts_mip(job))[i],  # type: ignore[misc]
        step=lambda job: 1 << parts_mip(job),
        dimension=f"label_{axis.name}",
    )
    for i, axis in enumerate((Y, X))
)


def attributes_of_field(
    axes: tuple[Axis, ...], *, spacing: Extent = node_spacing, unit: str = "1"
) -> Callable[[Job], dict[str, Any]]:
    """Return the attributes of a field array (C1–C8)."""
    names = tuple(axis.name for axis in axes)
    return lambda job: field_attributes(
        FieldInfo(spacing=spacing(job), shape_mip0=job.shape), axes=names, scalar_unit=unit
    )


def window_nodes(job: Job) -> tuple[int, int]:
    """Return the nodes (y, x) of the core of a register window."""
    _, y, x = job.window_core
    return ceil_div(y, job.spacing), ceil_div(x, job.spacing)


def result_shard(job: Job) -> tuple[int, int]:
    """Return the nodes (y, x) of a shard of the fields that stage compose writes."""
    chunk = layout.result_chunk(job)
    if job.compose.method == "relax" and layout.restriction_factor(job) > 1:
        return chunk
    y, x = (round_up(n, multiple=c) for n, c in zip(job.grid.shape, chunk, strict=True))
    return y, x


PULL_PX = {"direction": "pull", "unit": "px@mip0"}
"""Attributes of an affine from aligned to source positions."""
