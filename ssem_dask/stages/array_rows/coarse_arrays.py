"""Arrays of stage coarse: pairs, sections, parts."""

from enum import IntEnum

from ssem_dask.geometry.mip import shape_at_mip
from ssem_dask.registration.coarse_alignment.pieces import REACH
from ssem_dask.registration.section_parts.part_maps import MAX_PARTS
from ssem_dask.stages.array_rows.array_axes import (
    COLUMN,
    K_COARSE,
    K_WIDE,
    LABEL_X,
    LABEL_Y,
    PULL_PX,
    ROW,
    Z,
    fixed_size,
    parts_mip,
)
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK
from ssem_dask.stages.stored_array import Axis, Frame, RunArray
from ssem_dask.storage.fields import coarse_attributes, open_coarse

COARSE = RunArray(
    path="fields/coarse",
    meaning="affine per section, aligned → source; rows are the dy and dx equation of the full map",
    axes=(Z, ROW, COLUMN),
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
    axes=(K_COARSE, Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.coarse.neighbours, SECTIONS_PER_THUMBNAIL_TASK, 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "fixed z → moving z-k"},  # noqa: ARG005
)
COARSE_RATIO = RunArray(
    path="fields/coarse_ratio",
    meaning="score of the best rotation and shift, divided by the second best score or by chance",
    axes=(K_COARSE, Z),
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
    axes=(K_COARSE, Z),
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
    axes=(Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "upright → source; the identity for most sections"},  # noqa: ARG005
)
COARSE_INVERTED = RunArray(
    path="fields/coarse_inverted",
    meaning="1 for a section of inverted contrast, which is compared with the others after inverting it",
    axes=(Z,),
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
    axes=(K_WIDE, Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**PULL_PX, "map": "fixed z → moving z-k"},  # noqa: ARG005
)
WIDE_RATIO = RunArray(
    path="fields/wide_ratio",
    meaning="score of the wide search, as fields/coarse_ratio; 0: not searched",
    axes=(K_WIDE, Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK),  # noqa: ARG005
    attributes=lambda job: {"meaning": "as fields/coarse_ratio; 0: not searched"},  # noqa: ARG005
)
WIDE_SIMILARITY = RunArray(
    path="fields/wide_similarity",
    meaning="correlation of the thumbnails of z and z-k after the wide search",
    axes=(K_WIDE, Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (REACH, SECTIONS_PER_THUMBNAIL_TASK),  # noqa: ARG005
    attributes=lambda job: {"meaning": "as fields/coarse_similarity"},  # noqa: ARG005
)
WIDE_INVERTED = RunArray(
    path="fields/wide_inverted",
    meaning="1 if the wide search found z and z-k of opposite contrast",
    axes=(K_WIDE, Z),
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
    axes=(Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "aligned → source"},  # noqa: ARG005
)
PART_PLACED = RunArray(
    path="fields/part_placed",
    meaning="affine of the largest part of a broken section, as fields/coarse_placed; NaN for a whole section",
    axes=(Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (SECTIONS_PER_THUMBNAIL_TASK, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**PULL_PX, "map": "aligned → source"},  # noqa: ARG005
)
PART_MAPS = RunArray(
    path="fields/part_maps",
    meaning="affine of each part of a broken section, section as it would be without the break → source",
    axes=(Z, Axis("part", fixed_size(MAX_PARTS)), ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (SECTIONS_PER_THUMBNAIL_TASK, MAX_PARTS, 2, 3),  # noqa: ARG005
    attributes=lambda job: {**PULL_PX, "map": "whole section → source; NaN: there is no such part"},  # noqa: ARG005
)


PART_LABELS = RunArray(
    path="fields/part_labels",
    meaning="part of a broken section that each pixel belongs to, 0 the largest",
    axes=(
        Z,
        LABEL_Y,
        LABEL_X,
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
    axes=(Z,),
    dtype="uint8",
    frame=Frame.SECTION,
    unit="code",
    chunk=lambda job: (job.shape[0],),
    fill=0,
    attributes=lambda job: {"values": {str(int(state)): text for state, text in _STATE_MEANINGS.items()}},  # noqa: ARG005
)
