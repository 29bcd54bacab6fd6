"""Arrays of stage measure."""

from ssem_dask.stages.array_rows.array_axes import Z, fixed_size
from ssem_dask.stages.measure.quality_frame import quality_info
from ssem_dask.stages.stored_array import Axis, Frame, RunArray
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

QUALITY_SECTIONS = RunArray(
    path=SECTIONS_PATH,
    meaning="quality per section; attribute columns describes the columns",
    axes=(Z, Axis("column", fixed_size(len(SECTION_COLUMNS)))),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (BLOCK, len(SECTION_COLUMNS)),  # noqa: ARG005
    attributes=lambda job: quality_attributes(quality_info(job), SECTION_COLUMNS),
)
QUALITY_SOURCE = RunArray(
    path=SOURCE_PATH,
    meaning="those columns of quality/sections that follow from the source alone",
    axes=(Z, Axis("column", fixed_size(len(SOURCE_COLUMNS)), dimension="source_column")),
    frame=Frame.SECTION,
    unit="per column",
    chunk=lambda job: (BLOCK, len(SOURCE_COLUMNS)),  # noqa: ARG005
    attributes=lambda job: quality_attributes(quality_info(job), SOURCE_COLUMNS),
)
QUALITY_WINDOWS = RunArray(
    path=WINDOWS_PATH,
    meaning="quality per register window; y and x count windows",
    axes=(
        Axis("column", fixed_size(len(WINDOW_COLUMNS)), dimension="window_column"),
        Z,
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
        axes=(Z, Axis(cut[0], lambda job: quality_info(job).probe.shape[axis])),
        dtype="",
        frame=Frame.SOURCE if time == "before" else Frame.ALIGNED,
        unit="intensity",
        chunk=lambda job: (BLOCK, quality_info(job).probe.shape[axis]),
        fill=0,
        attributes=lambda job: {"cut": "through the middle of the probe", "mip": quality_info(job).probe.mip},
    )


RESLICES = {(cut, time): _reslice(cut, time) for cut in CUTS for time in TIMES}
