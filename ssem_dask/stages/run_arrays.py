"""The arrays and records of a run: one table of names, axes, types, layout, frames and units.

Stages create, read and write arrays through their rows here. Footprints, the files of a task, the check of stored files
and the list in docs/conventions.md follow from the same rows, so a misspelt array is an AttributeError. `ARRAYS` lists
all arrays; an array that is not listed there cannot be found by its path. Records (`RunJson`) stand at the end.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from enum import IntEnum
from functools import cache
from typing import Any

from ssem_dask.geometry.chunks import round_up
from ssem_dask.geometry.mip import ceil_div, mip_for_pixel_size, shape_at_mip
from ssem_dask.image.contrast_pairs import ContrastPair
from ssem_dask.registration.coarse_alignment.pieces import REACH
from ssem_dask.registration.section_parts.find_parts import LARGEST_SIDE, PIXEL_NM
from ssem_dask.registration.section_parts.part_maps import MAX_PARTS
from ssem_dask.stages.compose import layout
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.measure.quality_frame import quality_info
from ssem_dask.stages.stored_array import Axis, Extent, Frame, RunArray, RunJson
from ssem_dask.storage import contrast_table
from ssem_dask.storage.arrays import open_array
from ssem_dask.storage.fields import FieldInfo, coarse_attributes, field_attributes, open_coarse
from ssem_dask.storage.quality import (
    BLOCK,
    CUTS,
    SECTION_COLUMNS,
    SECTIONS_PATH,
    SOURCE_COLUMNS,
    SOURCE_PATH,
    TIMES,
    WINDOW_COLUMNS,
    WINDOWS_PATH,
    quality_attributes,
    reslice_path,
)
from ssem_dask.storage.volume import fitted_shard

ALIGNED = "aligned"
"""Path of the aligned volume, an OME-Zarr image."""


def _spacing(job: Job) -> int:
    return job.spacing


def _restricted_spacing(job: Job) -> int:
    return job.spacing * layout.restriction_factor(job)


def _fixed(size: int) -> Extent:
    return lambda job: size  # noqa: ARG005


_Z = Axis("z", lambda job: job.shape[0], "z")
_Y = Axis("y", lambda job: job.grid.shape[0], "y", _spacing)
_X = Axis("x", lambda job: job.grid.shape[1], "x", _spacing)
_RESTRICTED_Y, _RESTRICTED_X = (
    replace(
        axis,
        size=lambda job, i=i: ceil_div(job.shape[i], _restricted_spacing(job)),  # type: ignore[misc]
        step=_restricted_spacing,
        dimension=f"restricted_{axis.name}",
    )
    for i, axis in ((1, _Y), (2, _X))
)
_C = Axis("c", _fixed(2))
_ROW, _COLUMN, _PART = (
    Axis("row", _fixed(2)),
    Axis("column", _fixed(3)),
    Axis("part", _fixed(2), dimension="variance_part"),
)
_K_COARSE = Axis("k", lambda job: job.coarse.neighbours, dimension="coarse_k")
_K_REGISTER = Axis("k", lambda job: job.register.neighbours)
_K_COMPOSE = Axis("k", layout.pair_steps, dimension="compose_k")
_K_WIDE = Axis("k", _fixed(REACH), dimension="wide_k")
_DISTANCE = Axis("distance", lambda job: len(job.compose.far.distances))
_BLOCK = Axis("block", layout.block_count, "z", lambda job: job.compose.chain.block)
_BLOCK_Z = Axis("z", layout.block_depth, dimension="block_z")


_LABEL_Y, _LABEL_X = (
    replace(
        axis,
        size=lambda job, i=i: shape_at_mip(job.shape_yx, mip=parts_mip(job))[i],  # type: ignore[misc]
        step=lambda job: 1 << parts_mip(job),
        dimension=f"label_{axis.name}",
    )
    for i, axis in enumerate((_Y, _X))
)


def _field(axes: tuple[Axis, ...], *, spacing: Extent = _spacing, unit: str = "1") -> Callable[[Job], dict[str, Any]]:
    """Return the attributes of a field array (C1–C8)."""
    names = tuple(axis.name for axis in axes)
    return lambda job: field_attributes(
        FieldInfo(spacing=spacing(job), shape_mip0=job.shape), axes=names, scalar_unit=unit
    )


def _window_nodes(job: Job) -> tuple[int, int]:
    _, y, x = job.window_core
    return ceil_div(y, job.spacing), ceil_div(x, job.spacing)


def _result_shard(job: Job) -> tuple[int, int]:
    chunk = layout.result_chunk(job)
    if job.compose.method == "relax" and layout.restriction_factor(job) > 1:
        return chunk
    y, x = (round_up(n, multiple=c) for n, c in zip(job.grid.shape, chunk, strict=True))
    return y, x


# Stage coarse.
_PULL_PX = {"direction": "pull", "unit": "px@mip0"}
COARSE = RunArray(
    path="fields/coarse",
    meaning="affine per section, aligned → source; rows are the dy and dx equation of the full map",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: coarse_attributes(job.shape),
    opener=open_coarse,
)
COARSE_PAIRS = RunArray(
    path="fields/coarse_pairs",
    meaning="affine per pair of thumbnails, fixed z → moving z-k",
    axes=(_K_COARSE, _Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.coarse.neighbours, SECTIONS_PER_THUMBNAIL_TASK, 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "fixed z → moving z-k"},  # noqa: ARG005
)
COARSE_RATIO = RunArray(
    path="fields/coarse_ratio",
    meaning="score of the best rotation and shift, divided by the second best score or by chance",
    axes=(_K_COARSE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (job.coarse.neighbours, SECTIONS_PER_THUMBNAIL_TASK),
    attributes=lambda job: {  # noqa: ARG005
        "meaning": "score of the best rotation and shift, over the second best or chance; see accuracy.md"
    },
)
COARSE_SIMILARITY = RunArray(
    path="fields/coarse_similarity",
    meaning="correlation of the thumbnails of z and z-k after alignment by their affine",
    axes=(_K_COARSE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (job.coarse.neighbours, SECTIONS_PER_THUMBNAIL_TASK),
    attributes=lambda job: {  # noqa: ARG005
        "meaning": "correlation of the thumbnails of z and z-k after alignment by their affine"
    },
)

COARSE_GROSS = RunArray(
    path="fields/coarse_gross",
    meaning="rotation, mirroring, scale or shift of a whole section that is no distortion, upright → source",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "upright → source; the identity for most sections"},  # noqa: ARG005
)
COARSE_INVERTED = RunArray(
    path="fields/coarse_inverted",
    meaning="1 for a section of inverted contrast, which is compared with the others after inverting it",
    axes=(_Z,),
    dtype="uint8",
    frame=Frame.SECTION,
    unit="code",
    chunk=lambda job: (job.shape[0],),
    fill=0,
    attributes=lambda job: {"values": {"0": "as the others", "1": "inverted"}},  # noqa: ARG005
)
WIDE_PAIRS = RunArray(
    path="fields/wide_pairs",
    meaning="affine per pair of a section that matched nothing, by the wide search, fixed z → moving z-k",
    axes=(_K_WIDE, _Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**_PULL_PX, "map": "fixed z → moving z-k"},  # noqa: ARG005
)
WIDE_RATIO = RunArray(
    path="fields/wide_ratio",
    meaning="score of the wide search, as fields/coarse_ratio; 0: not searched",
    axes=(_K_WIDE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK),  # noqa: ARG005
    attributes=lambda job: {"meaning": "as fields/coarse_ratio; 0: not searched"},  # noqa: ARG005
)
WIDE_SIMILARITY = RunArray(
    path="fields/wide_similarity",
    meaning="correlation of the thumbnails of z and z-k after the wide search",
    axes=(_K_WIDE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK),  # noqa: ARG005
    attributes=lambda job: {"meaning": "as fields/coarse_similarity"},  # noqa: ARG005
)
WIDE_INVERTED = RunArray(
    path="fields/wide_inverted",
    meaning="1 if the wide search found z and z-k of opposite contrast",
    axes=(_K_WIDE, _Z),
    dtype="uint8",
    frame=Frame.SECTION,
    unit="code",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK),  # noqa: ARG005
    fill=0,
    attributes=lambda job: {"values": {"0": "alike", "1": "of opposite contrast"}},  # noqa: ARG005
)


COARSE_PLACED = RunArray(
    path="fields/coarse_placed",
    meaning="affine per section from the pairs of thumbnails, aligned → source; where parts of sections are searched",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "aligned → source"},  # noqa: ARG005
)
PART_PLACED = RunArray(
    path="fields/part_placed",
    meaning="affine of the largest part of a broken section, as fields/coarse_placed; NaN for a whole section",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (SECTIONS_PER_THUMBNAIL_TASK, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**_PULL_PX, "map": "aligned → source"},  # noqa: ARG005
)
PART_MAPS = RunArray(
    path="fields/part_maps",
    meaning="affine of each part of a broken section, section as it would be without the break → source",
    axes=(_Z, Axis("part", _fixed(MAX_PARTS)), _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (SECTIONS_PER_THUMBNAIL_TASK, MAX_PARTS, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**_PULL_PX, "map": "whole section → source; NaN: there is no such part"},  # noqa: ARG005
)


def parts_mip(job: Job) -> int:
    """Return the mip at which parts of sections are searched: about 20 nm, coarser for large sections."""
    mip = mip_for_pixel_size(job.info.pixel_size, wanted=PIXEL_NM)
    while max(shape_at_mip(job.shape_yx, mip=mip)) > LARGEST_SIDE:
        mip += 1
    return mip


PART_LABELS = RunArray(
    path="fields/part_labels",
    meaning="part of a broken section that each pixel belongs to, 0 the largest",
    axes=(
        _Z,
        _LABEL_Y,
        _LABEL_X,
    ),
    dtype="uint8",
    frame=Frame.SOURCE,
    unit="code",
    chunk=lambda job: (1, *shape_at_mip(job.shape_yx, mip=parts_mip(job))),
    shard=lambda job: (SECTIONS_PER_THUMBNAIL_TASK, *shape_at_mip(job.shape_yx, mip=parts_mip(job))),
    fill=0,
    attributes=lambda job: {"axes": ["z", "y", "x"], "frame": "source", "mip": parts_mip(job)},
)


class SectionState(IntEnum):
    """The state of a section after the coarse alignment, as `fields/coarse_state` stores it."""

    UNKNOWN = 0
    TIED = 1
    BRIDGED = 2
    MISPLACED = 3
    REPEATED = 4
    EXCLUDED = 5


_STATE_MEANINGS = {
    SectionState.UNKNOWN: "unknown",
    SectionState.TIED: "matched",
    SectionState.BRIDGED: "bridged: no pair ties it",
    SectionState.MISPLACED: "matched, but seems out of order",
    SectionState.REPEATED: "matched, but shows the image of a section just before it",
    SectionState.EXCLUDED: "left out by a fix of the user",
}
COARSE_STATE = RunArray(
    path="fields/coarse_state",
    meaning="1 matched, 2 tied by no accepted pair, 3 seems out of order, 4 repeats an earlier image, 5 left out",
    axes=(_Z,),
    dtype="uint8",
    frame=Frame.SECTION,
    unit="code",
    chunk=lambda job: (job.shape[0],),
    fill=0,
    attributes=lambda job: {"values": {str(int(state)): text for state, text in _STATE_MEANINGS.items()}},  # noqa: ARG005
)

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
        _Z,
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
    axes=(_K_REGISTER, _Z, _C, _Y, _X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 1, 2, *_window_nodes(job)),
    shard=lambda job: (job.register.neighbours, job.window_core[0], 2, *_window_nodes(job)),
    attributes=_field((_K_REGISTER, _Z, _C, _Y, _X)),
)
CONFIDENCE = RunArray(
    path="fields/confidence",
    meaning="confidence of the pair field, 0 to 1",
    axes=(_K_REGISTER, _Z, _Y, _X),
    frame=Frame.COARSE_ALIGNED,
    unit="1",
    chunk=lambda job: (1, 1, *_window_nodes(job)),
    shard=lambda job: (job.register.neighbours, job.window_core[0], *_window_nodes(job)),
    attributes=_field((_K_REGISTER, _Z, _Y, _X)),
)

# Stage render, before it warps.
SUPPORT_SECTIONS = 8
"""Sections per task of those that measure the support of pairs."""
SUPPORT = RunArray(
    path="fields/pair_support",
    meaning="mean confidence of the pair field over all nodes, 0 where it is unknown; without any, z has no place",
    axes=(_K_REGISTER, _Z),
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
        Axis("k", _fixed(CONTRAST_REACH)),
        _Z,
        Axis("column", _fixed(len(fields(ContrastPair))), dimension="pair_column"),
    ),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (CONTRAST_REACH, CONTRAST_SECTIONS, len(fields(ContrastPair))),  # noqa: ARG005
    attributes=lambda job: {"columns": [column.name for column in fields(ContrastPair)]},  # noqa: ARG005
)
SECTION_CONTRAST = RunArray(
    path=contrast_table.SECTIONS_PATH,
    meaning="gain and offset of each section, and whether it was matched; only with [render] contrast = match",
    axes=(_Z, Axis("column", _fixed(len(contrast_table.SECTION_COLUMNS)))),
    dtype="float64",
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (job.shape[0], len(contrast_table.SECTION_COLUMNS)),
    attributes=lambda job: {  # noqa: ARG005
        "columns": list(contrast_table.SECTION_COLUMNS),
        "meaning": "aligned = round(gain * source + offset), clipped to the range of the data type",
    },
)

# Stage compose: the result, by either method.
SECTION = RunArray(
    path="fields/section",
    meaning="the result: pull field aligned → source, usable alone",
    axes=(_Z, _C, _Y, _X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), 2, *_result_shard(job)),
    attributes=_field((_Z, _C, _Y, _X)),
)
UNCERTAINTY = RunArray(
    path="fields/uncertainty",
    meaning="standard deviation of fields/section, per component; method relax",
    axes=(_Z, _Y, _X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), *_result_shard(job)),
    attributes=_field((_Z, _Y, _X), unit="px@mip0"),
)
NATURAL = RunArray(
    path="fields/natural",
    meaning="natural motion of the tissue, aligned z → aligned z-1; only with [compose.relax] keep_natural = true",
    axes=(_Z, _C, _Y, _X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), 2, *_result_shard(job)),
    attributes=_field((_Z, _C, _Y, _X)),
)

# Stage compose, method chain.
_CHAIN_PULL = {"direction": "pull", "unit": "px@mip0", "components": ["y", "x"]}
BLOCKS = RunArray(
    path="fields/blocks",
    meaning="fields of the sections of a block, aligned to each other; method chain",
    axes=(_BLOCK, _BLOCK_Z, _C, _Y, _X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 1, 2, *layout.result_chunk(job)),
    shard=lambda job: (1, layout.block_depth(job), 2, *_result_shard(job)),
    attributes=lambda job: {**_CHAIN_PULL, "spacing": job.spacing},
)
EXTRAPOLATED = RunArray(
    path="fields/extrapolated",
    meaning="whether fields/blocks is a guess at a node, since no pair field was known; method chain",
    axes=(_BLOCK, _BLOCK_Z, _Y, _X),
    dtype="bool",
    frame=Frame.COARSE_ALIGNED,
    unit="1",
    chunk=lambda job: (1, 1, *layout.result_chunk(job)),
    shard=lambda job: (1, layout.block_depth(job), *_result_shard(job)),
    fill=False,
    attributes=lambda job: {  # noqa: ARG005
        "meaning": "whether fields/blocks is a guess at a node, since no pair field was known"
    },
)
STITCHES = RunArray(
    path="fields/stitches",
    meaning="field from the frame of a block to that of the block before; method chain",
    axes=(_BLOCK, _C, _Y, _X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (1, 2, *_result_shard(job)),
    attributes=lambda job: {**_CHAIN_PULL, "spacing": job.spacing},
)

# Stage compose, method relax: affine parts.
PAIR_AFFINES = RunArray(
    path="fields/pair_affines",
    meaning="affine part of fields/pairs; method relax",
    axes=(_K_COMPOSE, _Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (layout.pair_steps(job), layout.window_depth(job), 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "affine part of fields/pairs"},  # noqa: ARG005
)
PAIR_AFFINE_WEIGHTS = RunArray(
    path="fields/pair_affine_weights",
    meaning="how well the known nodes of a pair determine fields/pair_affines, 0 to 1; method relax",
    axes=(_K_COMPOSE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (layout.pair_steps(job), layout.window_depth(job)),
    fill=0,
)
AFFINE_CORRECTION = RunArray(
    path="fields/affine_correction",
    meaning="affine correction of each section, aligned → frame of fields/coarse; method relax",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "aligned → frame of fields/coarse"},  # noqa: ARG005
)
AFFINE_NATURAL = RunArray(
    path="fields/affine_natural",
    meaning="affine part of the natural motion, aligned z → aligned z-1; method relax",
    axes=(_Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**_PULL_PX, "map": "natural motion, aligned z → aligned z-1"},  # noqa: ARG005
)
AFFINE_VARIANCE = RunArray(
    path="fields/affine_variance",
    meaning="posterior variance of the affine correction: shift per component, linear part as rms over the section",
    axes=(_Z, _PART),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px²@mip0",
    chunk=lambda job: (job.shape[0], 2),
    attributes=lambda job: {  # noqa: ARG005
        "unit": "px²@mip0",
        "parts": ["shift, per component", "linear, rms over the section"],
    },
)
FAR_PAIRS = RunArray(
    path="fields/far_pairs",
    meaning="affine per pair of distant thumbnails, fixed z → moving z-k; only with [compose.far]",
    axes=(_DISTANCE, _Z, _ROW, _COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (len(job.compose.far.distances), SECTIONS_PER_THUMBNAIL_TASK, 2, 3),
    attributes=lambda job: {
        "distances": list(job.compose.far.distances),
        **_PULL_PX,
        "map": "fixed z → moving z-k",
    },
)
FAR_RATIO = RunArray(
    path="fields/far_ratio",
    meaning="score of the best rotation and shift of distant thumbnails, as fields/coarse_ratio",
    axes=(_DISTANCE, _Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (len(job.compose.far.distances), SECTIONS_PER_THUMBNAIL_TASK),
    attributes=lambda job: {"distances": list(job.compose.far.distances)},
)

# Stage compose, method relax, sections that are too wide to be solved at once.
_RESTRICTED = _RESTRICTED_Y, _RESTRICTED_X


def _restricted_shape(job: Job) -> tuple[int, int]:
    return _RESTRICTED_Y.size(job), _RESTRICTED_X.size(job)


def _restricted(path: str, meaning: str, *, leading: bool, components: bool, unit: str) -> RunArray:
    """Return the row of an array on the restricted grid; a file holds whole planes."""
    axes = (*((_K_COMPOSE,) if leading else ()), _Z, *((_C,) if components else ()), *_RESTRICTED)
    inner = (2,) if components else ()
    return RunArray(
        path=path,
        meaning=meaning,
        axes=axes,
        frame=Frame.COARSE_ALIGNED,
        unit=unit,
        chunk=lambda job: (*((1,) if leading else ()), 1, *inner, *_restricted_shape(job)),
        shard=lambda job: (
            *((layout.pair_steps(job),) if leading else ()),
            layout.window_depth(job),
            *inner,
            *_restricted_shape(job),
        ),
        attributes=_field(axes, spacing=_restricted_spacing, unit=unit),
    )


RESTRICTED_PAIRS = _restricted(
    "fields/restricted_pairs",
    "fields/pairs without affine parts, restricted to blocks of nodes; wide sections",
    leading=True,
    components=True,
    unit="px@mip0",
)
RESTRICTED_WEIGHTS = _restricted(
    "fields/restricted_weights", "weights of fields/restricted_pairs", leading=True, components=False, unit="1"
)
LOW_FREQUENCY = _restricted(
    "fields/low_frequency",
    "low-frequency part of the elastic field; wide sections",
    leading=False,
    components=True,
    unit="px@mip0",
)
LOW_FREQUENCY_NATURAL = _restricted(
    "fields/low_frequency_natural",
    "low-frequency part of the natural motion",
    leading=False,
    components=True,
    unit="px@mip0",
)
LOW_FREQUENCY_VARIANCE = _restricted(
    "fields/low_frequency_variance",
    "posterior variance of fields/low_frequency",
    leading=False,
    components=False,
    unit="px²@mip0",
)
MEDIAN_CONFIDENCE = RunArray(
    path="fields/median_confidence",
    meaning="median confidence of a window's neighbour pairs; wide sections",
    axes=(_Z,),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (layout.window_depth(job),),
    attributes=lambda job: {"meaning": "median confidence of a window's neighbour pairs"},  # noqa: ARG005
)

# Stage measure.
QUALITY_SECTIONS = RunArray(
    path=SECTIONS_PATH,
    meaning="quality per section; attribute columns describes the columns",
    axes=(_Z, Axis("column", _fixed(len(SECTION_COLUMNS)))),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (BLOCK, len(SECTION_COLUMNS)),  # noqa: ARG005
    attributes=lambda job: quality_attributes(quality_info(job), SECTION_COLUMNS),
)
QUALITY_SOURCE = RunArray(
    path=SOURCE_PATH,
    meaning="those columns of quality/sections that follow from the source alone",
    axes=(_Z, Axis("column", _fixed(len(SOURCE_COLUMNS)), dimension="source_column")),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (BLOCK, len(SOURCE_COLUMNS)),  # noqa: ARG005
    attributes=lambda job: quality_attributes(quality_info(job), SOURCE_COLUMNS),
)
QUALITY_WINDOWS = RunArray(
    path=WINDOWS_PATH,
    meaning="quality per register window; y and x count windows",
    axes=(
        Axis("column", _fixed(len(WINDOW_COLUMNS)), dimension="window_column"),
        _Z,
        Axis("y", lambda job: quality_info(job).windows[0], "y", lambda job: job.window_core[1]),
        Axis("x", lambda job: quality_info(job).windows[1], "x", lambda job: job.window_core[2]),
    ),
    frame=Frame.ALIGNED,
    unit="per column",
    chunk=lambda job: (len(WINDOW_COLUMNS), BLOCK, *quality_info(job).windows),
    attributes=lambda job: quality_attributes(quality_info(job), WINDOW_COLUMNS),
)


def _reslice(cut: str, time: str) -> RunArray:
    axis = 2 if cut == "xz" else 1
    return RunArray(
        path=reslice_path(cut, time),
        meaning=f"{cut} cut through the middle of the probe, {time} alignment",
        axes=(_Z, Axis(cut[0], lambda job: quality_info(job).probe.shape[axis])),
        dtype="",
        frame=Frame.SOURCE if time == "before" else Frame.ALIGNED,
        unit="intensity",
        chunk=lambda job: (BLOCK, quality_info(job).probe.shape[axis]),
        fill=0,
        attributes=lambda job: {"cut": "through the middle of the probe", "mip": quality_info(job).probe.mip},
    )


RESLICES = {(cut, time): _reslice(cut, time) for cut in CUTS for time in TIMES}


# Stages render and downsample.
@cache
def aligned_level(mip: int) -> RunArray:
    """Return the row of a level of the aligned volume. Stage render creates all levels with their OME-Zarr group."""
    step = _fixed(1 << mip)

    def per_channel(job: Job, extent: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *extent) if job.info.channels else extent

    return RunArray(
        path=f"{ALIGNED}/{mip}",
        meaning=f"the aligned volume at mip {mip}",
        axes=(
            Axis("c", lambda job: len(job.info.channels), optional=True),
            _Z,
            Axis("y", lambda job: shape_at_mip(job.shape_yx, mip=mip)[0], "y", step),
            Axis("x", lambda job: shape_at_mip(job.shape_yx, mip=mip)[1], "x", step),
        ),
        dtype="",
        frame=Frame.ALIGNED,
        unit="intensity",
        chunk=lambda job: per_channel(job, job.render.chunk),
        shard=lambda job: per_channel(
            job,
            fitted_shard(
                (job.shape[0], *shape_at_mip(job.shape_yx, mip=mip)), chunk=job.render.chunk, shard=job.render.shard
            ),
        ),
        fill=0,
        compression=lambda job: "none" if job.render.codec == "none" else "zstd",
        keeps_depth=True,
    )


FIXED_PREFIX = "fields/fixed_"
"""Beginning of the paths of arrays of what fixes have changed."""


def _fixed_rows(array: RunArray, *, fill: float | None = None) -> RunArray:
    """Return the row of the array with what fixes have changed of another one: the same, with files of one section."""

    def small(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            1 if (axis.name in ("z", "k") and array in (PAIRS, CONFIDENCE)) or axis.name == "z" else size
            for axis, size in zip(array.axes, sizes, strict=True)
        )

    return replace(
        array,
        path=FIXED_PREFIX + array.path.rpartition("/")[2],
        meaning=f"rows of {array.path} for what fixes have changed since the fit; all else means nothing",
        chunk=lambda job: small(array.chunk(job)),
        shard=None,
        fill=array.fill if fill is None else fill,
        opener=open_array,
    )


FIXED = {
    array: _fixed_rows(array)
    for array in (
        COARSE,
        COARSE_GROSS,
        COARSE_INVERTED,
        COARSE_STATE,
        PART_MAPS,
        PART_LABELS,
        PAIRS,
        CONFIDENCE,
        SUPPORT,
        AFFINE_CORRECTION,
        AFFINE_NATURAL,
        AFFINE_VARIANCE,
    )
}
"""Arrays of what fixes have changed, by the array of which they replace rows; see `fix_clusters`."""

ARRAYS = (
    COARSE,
    COARSE_PAIRS,
    COARSE_RATIO,
    COARSE_SIMILARITY,
    COARSE_GROSS,
    COARSE_INVERTED,
    WIDE_PAIRS,
    WIDE_RATIO,
    WIDE_SIMILARITY,
    WIDE_INVERTED,
    COARSE_STATE,
    COARSE_PLACED,
    PART_PLACED,
    PART_MAPS,
    PART_LABELS,
    DAMAGE,
    PAIRS,
    CONFIDENCE,
    SUPPORT,
    CONTRAST_PAIRS,
    SECTION_CONTRAST,
    SECTION,
    UNCERTAINTY,
    NATURAL,
    BLOCKS,
    EXTRAPOLATED,
    STITCHES,
    PAIR_AFFINES,
    PAIR_AFFINE_WEIGHTS,
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    FAR_PAIRS,
    FAR_RATIO,
    RESTRICTED_PAIRS,
    RESTRICTED_WEIGHTS,
    LOW_FREQUENCY,
    LOW_FREQUENCY_NATURAL,
    LOW_FREQUENCY_VARIANCE,
    MEDIAN_CONFIDENCE,
    QUALITY_SECTIONS,
    QUALITY_SOURCE,
    QUALITY_WINDOWS,
    *RESLICES.values(),
    *FIXED.values(),
)
_BY_PATH = {array.path: array for array in ARRAYS}

CALIBRATION = RunJson("quality/calibration.json", "smoothness and residual scales that all windows share")
AFFINE_STATISTICS = RunJson("quality/compose/affines.json", "statistics of the sections' affines, method relax")
ATTENTION = RunJson("quality/attention.json", "sections that a person should look at; see ssem_dask.section_record")
RELAX_STATISTICS = RunJson("quality/relax.json", "fitted statistics of distortion and natural motion, method relax")


def calibration_window(index: int) -> RunJson:
    """Return the record of a sample window of stage calibrate."""
    return RunJson(f"quality/calibration/window-{index}.json", "smoothness lengths tried in a sample window")


def spectrum_fit(window: int) -> RunJson:
    """Return the record of the spectra that were fitted to a window of sections."""
    return RunJson(f"quality/compose/fit-{window:05d}.json", "spectra fitted to a window of sections")


def array_at(path: str) -> RunArray:
    """Return the row of an array by its path in the run; raise KeyError if the run has no such array."""
    folder, _, name = path.rpartition("/")
    return aligned_level(int(name)) if folder == ALIGNED else _BY_PATH[path]
