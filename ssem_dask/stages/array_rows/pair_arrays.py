"""Arrays of the stages mask and register, and what stage render measures of pairs."""

from dataclasses import fields

from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.image.contrast_pairs import ContrastPair
from ssem_dask.stages.array_rows.array_axes import K_REGISTER, C, X, Y, Z, attributes_of_field, fixed_size, window_nodes
from ssem_dask.stages.job import Job
from ssem_dask.stages.stored_array import Axis, Frame, RunArray
from ssem_dask.storage import contrast_table

# Stage mask.
MASK_SHARD_PX, MASK_CHUNK_PX, MASK_SECTIONS = 1024, 256, 8


def mask_shape(job: Job) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of `masks/damage`."""
    return job.shape[0], *shape_at_mip(job.shape_yx, mip=job.mask.mip)


def mask_shard(job: Job) -> tuple[int, int, int]:
    """Return the shard (z, y, x) of `masks/damage`; one task writes one."""
    _, y, x = mask_shape(job)
    y, x = (min(MASK_SHARD_PX, round_up(n, multiple=MASK_CHUNK_PX)) for n in (y, x))
    return min(MASK_SECTIONS, job.deepest), y, x


DAMAGE = RunArray(
    path="masks/damage",
    meaning="0 tissue, 1 empty, 2 damaged, 3 tear (fold or crack); only if damage is detected or masks are given",
    axes=(
        Z,
        Axis("y", lambda job: mask_shape(job)[1], "y", lambda job: 1 << job.mask.mip),
        Axis("x", lambda job: mask_shape(job)[2], "x", lambda job: 1 << job.mask.mip),
    ),
    dtype="uint8",
    frame=Frame.SOURCE,
    unit="code",
    chunk=lambda job: (1, MASK_CHUNK_PX, MASK_CHUNK_PX),  # noqa: ARG005
    shard=mask_shard,
    fill=0,
    attributes=lambda job: {
        "axes": ["z", "y", "x"],
        "frame": "source",
        "mip": job.mask.mip,
        "pixel_size": job.info.pixel_size * 2**job.mask.mip,
        "shape_mip0": list(job.shape),
        "codes": {"0": "tissue", "1": "empty", "2": "damaged", "3": "tear"},
    },
)

# Stage register.
PAIRS = RunArray(
    path="fields/pairs",
    meaning="pair field with fixed = z, moving = z-k, both coarse-aligned",
    axes=(K_REGISTER, Z, C, Y, X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 1, 2, *window_nodes(job)),
    shard=lambda job: (job.register.neighbours, job.window_core[0], 2, *window_nodes(job)),
    attributes=attributes_of_field((K_REGISTER, Z, C, Y, X)),
)
CONFIDENCE = RunArray(
    path="fields/confidence",
    meaning="confidence of the pair field, 0 to 1",
    axes=(K_REGISTER, Z, Y, X),
    frame=Frame.COARSE_ALIGNED,
    unit="1",
    chunk=lambda job: (1, 1, *window_nodes(job)),
    shard=lambda job: (job.register.neighbours, job.window_core[0], *window_nodes(job)),
    attributes=attributes_of_field((K_REGISTER, Z, Y, X)),
)

# Stage render, before it warps.
SUPPORT_SECTIONS = 8
"""Sections per task of those that measure the support of pairs."""
SUPPORT = RunArray(
    path="fields/pair_support",
    meaning="mean confidence of the pair field over all nodes, 0 where it is unknown; without any, z has no place",
    axes=(K_REGISTER, Z),
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (job.register.neighbours, SUPPORT_SECTIONS),
    attributes=lambda job: {"meaning": "mean confidence of the pair field over all nodes, 0 where it is unknown"},  # noqa: ARG005
)

CONTRAST_REACH = 3
"""Sections before a section that its contrast is compared with."""
CONTRAST_SECTIONS = 16
"""Sections per task of those that compare contrast."""
CONTRAST_PAIRS = RunArray(
    path=contrast_table.PAIRS_PATH,
    meaning="contrast of z compared with that of z-k; only with [render] contrast = match",
    axes=(
        Axis("k", fixed_size(CONTRAST_REACH)),
        Z,
        Axis("column", fixed_size(len(fields(ContrastPair))), dimension="pair_column"),
    ),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (CONTRAST_REACH, CONTRAST_SECTIONS, len(fields(ContrastPair))),  # noqa: ARG005
    attributes=lambda job: {"columns": [column.name for column in fields(ContrastPair)]},  # noqa: ARG005
)
SECTION_CONTRAST = RunArray(
    path=contrast_table.SECTIONS_PATH,
    meaning="gain and offset of each section, and whether it was matched; only with [render] contrast = match",
    axes=(Z, Axis("column", fixed_size(len(contrast_table.SECTION_COLUMNS)))),
    dtype="float64",
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (job.shape[0], len(contrast_table.SECTION_COLUMNS)),
    attributes=lambda job: {  # noqa: ARG005
        "columns": list(contrast_table.SECTION_COLUMNS),
        "meaning": "aligned = round(gain * source + offset), clipped to the range of the data type",
    },
)
