"""Arrays of stage compose, of both methods."""

from ssem_dask.stages.array_rows.array_axes import (
    CHAIN_BLOCK,
    CHAIN_BLOCK_Z,
    COLUMN,
    DISTANCE,
    K_COMPOSE,
    PART,
    PULL_PX,
    RESTRICTED_X,
    RESTRICTED_Y,
    ROW,
    C,
    X,
    Y,
    Z,
    attributes_of_field,
    restricted_spacing,
    result_shard,
)
from ssem_dask.stages.compose import layout
from ssem_dask.stages.job import SECTIONS_PER_THUMBNAIL_TASK, Job
from ssem_dask.stages.stored_array import Frame, RunArray

# Stage compose: the result, by either method.
SECTION = RunArray(
    path="fields/section",
    meaning="the result: pull field aligned → source, usable alone",
    axes=(Z, C, Y, X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), 2, *result_shard(job)),
    attributes=attributes_of_field((Z, C, Y, X)),
)
UNCERTAINTY = RunArray(
    path="fields/uncertainty",
    meaning="standard deviation of fields/section, per component; method relax",
    axes=(Z, Y, X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), *result_shard(job)),
    attributes=attributes_of_field((Z, Y, X), unit="px@mip0"),
)
NATURAL = RunArray(
    path="fields/natural",
    meaning="natural motion of the tissue, aligned z → aligned z-1; only with [compose.relax] keep_natural = true",
    axes=(Z, C, Y, X),
    frame=Frame.ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (layout.result_depth(job), 2, *result_shard(job)),
    attributes=attributes_of_field((Z, C, Y, X)),
)

# Stage compose, method chain.
_CHAIN_PULL = {"direction": "pull", "unit": "px@mip0", "components": ["y", "x"]}
BLOCKS = RunArray(
    path="fields/blocks",
    meaning="fields of the sections of a block, aligned to each other; method chain",
    axes=(CHAIN_BLOCK, CHAIN_BLOCK_Z, C, Y, X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 1, 2, *layout.result_chunk(job)),
    shard=lambda job: (1, layout.block_depth(job), 2, *result_shard(job)),
    attributes=lambda job: {**_CHAIN_PULL, "spacing": job.spacing},
)
EXTRAPOLATED = RunArray(
    path="fields/extrapolated",
    meaning="whether fields/blocks is a guess at a node, since no pair field was known; method chain",
    axes=(CHAIN_BLOCK, CHAIN_BLOCK_Z, Y, X),
    dtype="bool",
    frame=Frame.COARSE_ALIGNED,
    unit="1",
    chunk=lambda job: (1, 1, *layout.result_chunk(job)),
    shard=lambda job: (1, layout.block_depth(job), *result_shard(job)),
    fill=False,
    attributes=lambda job: {  # noqa: ARG005
        "meaning": "whether fields/blocks is a guess at a node, since no pair field was known"
    },
)
STITCHES = RunArray(
    path="fields/stitches",
    meaning="field from the frame of a block to that of the block before; method chain",
    axes=(CHAIN_BLOCK, C, Y, X),
    frame=Frame.COARSE_ALIGNED,
    unit="px@mip0",
    chunk=lambda job: (1, 2, *layout.result_chunk(job)),
    shard=lambda job: (1, 2, *result_shard(job)),
    attributes=lambda job: {**_CHAIN_PULL, "spacing": job.spacing},
)

# Stage compose, method relax: affine parts.
PAIR_AFFINES = RunArray(
    path="fields/pair_affines",
    meaning="affine part of fields/pairs; method relax",
    axes=(K_COMPOSE, Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (layout.pair_steps(job), layout.window_depth(job), 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "affine part of fields/pairs"},  # noqa: ARG005
)
PAIR_AFFINE_WEIGHTS = RunArray(
    path="fields/pair_affine_weights",
    meaning="how well the known nodes of a pair determine fields/pair_affines, 0 to 1; method relax",
    axes=(K_COMPOSE, Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (layout.pair_steps(job), layout.window_depth(job)),
    fill=0,
)
AFFINE_CORRECTION = RunArray(
    path="fields/affine_correction",
    meaning="affine correction of each section, aligned → frame of fields/coarse; method relax",
    axes=(Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "aligned → frame of fields/coarse"},  # noqa: ARG005
)
AFFINE_NATURAL = RunArray(
    path="fields/affine_natural",
    meaning="affine part of the natural motion, aligned z → aligned z-1; method relax",
    axes=(Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (job.shape[0], 2, 3),
    attributes=lambda job: {**PULL_PX, "map": "natural motion, aligned z → aligned z-1"},  # noqa: ARG005
)
AFFINE_VARIANCE = RunArray(
    path="fields/affine_variance",
    meaning="posterior variance of the affine correction: shift per component, linear part as rms over the section",
    axes=(Z, PART),
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
    axes=(DISTANCE, Z, ROW, COLUMN),
    dtype="float64",
    frame=Frame.SECTION,
    unit="px@mip0",
    chunk=lambda job: (len(job.compose.far.distances), SECTIONS_PER_THUMBNAIL_TASK, 2, 3),
    attributes=lambda job: {
        "distances": list(job.compose.far.distances),
        **PULL_PX,
        "map": "fixed z → moving z-k",
    },
)
FAR_RATIO = RunArray(
    path="fields/far_ratio",
    meaning="score of the best rotation and shift of distant thumbnails, as fields/coarse_ratio",
    axes=(DISTANCE, Z),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (len(job.compose.far.distances), SECTIONS_PER_THUMBNAIL_TASK),
    attributes=lambda job: {"distances": list(job.compose.far.distances)},
)

# Stage compose, method relax, sections that are too wide to be solved at once.
_RESTRICTED = RESTRICTED_Y, RESTRICTED_X


def _restricted_shape(job: Job) -> tuple[int, int]:
    return RESTRICTED_Y.size(job), RESTRICTED_X.size(job)


def _restricted(path: str, meaning: str, *, leading: bool, components: bool, unit: str) -> RunArray:
    """Return the row of an array on the restricted grid; a file holds whole planes."""
    axes = (*((K_COMPOSE,) if leading else ()), Z, *((C,) if components else ()), *_RESTRICTED)
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
        attributes=attributes_of_field(axes, spacing=restricted_spacing, unit=unit),
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
    axes=(Z,),
    dtype="float64",
    frame=Frame.SECTION,
    unit="1",
    chunk=lambda job: (layout.window_depth(job),),
    attributes=lambda job: {"meaning": "median confidence of a window's neighbour pairs"},  # noqa: ARG005
)
