"""The arrays and records of a run: one table of names, axes, types, layout, frames and units.

Stages create, read and write arrays through their rows in `array_rows`. Footprints, the files of a task, the check of
stored files and the list in docs/conventions.md follow from the same rows, so a misspelt array is an AttributeError.
`ARRAYS` lists all arrays; an array that is not listed there cannot be found by its path. Records (`RunJson`) stand at
the end.
"""

from ssem_dask.stages.array_rows.aligned_arrays import ALIGNED, aligned_level
from ssem_dask.stages.array_rows.coarse_arrays import (
    COARSE,
    COARSE_GROSS,
    COARSE_INVERTED,
    COARSE_PAIRS,
    COARSE_PLACED,
    COARSE_RATIO,
    COARSE_SIMILARITY,
    COARSE_STATE,
    PART_LABELS,
    PART_MAPS,
    PART_PLACED,
    WIDE_INVERTED,
    WIDE_PAIRS,
    WIDE_RATIO,
    WIDE_SIMILARITY,
)
from ssem_dask.stages.array_rows.compose_arrays import (
    AFFINE_CORRECTION,
    AFFINE_NATURAL,
    AFFINE_VARIANCE,
    BLOCKS,
    EXTRAPOLATED,
    FAR_PAIRS,
    FAR_RATIO,
    LOW_FREQUENCY,
    LOW_FREQUENCY_NATURAL,
    LOW_FREQUENCY_VARIANCE,
    MEDIAN_CONFIDENCE,
    NATURAL,
    PAIR_AFFINE_WEIGHTS,
    PAIR_AFFINES,
    RESTRICTED_PAIRS,
    RESTRICTED_WEIGHTS,
    SECTION,
    STITCHES,
    UNCERTAINTY,
)
from ssem_dask.stages.array_rows.fixed_arrays import FIXED
from ssem_dask.stages.array_rows.pair_arrays import CONFIDENCE, CONTRAST_PAIRS, DAMAGE, PAIRS, SECTION_CONTRAST, SUPPORT
from ssem_dask.stages.array_rows.quality_arrays import QUALITY_SECTIONS, QUALITY_SOURCE, QUALITY_WINDOWS, RESLICES
from ssem_dask.stages.stored_array import RunArray, RunJson

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
