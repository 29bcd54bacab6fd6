"""The stages of the pipeline, in order. To add a stage, list it here."""

from ssem_dask.stages.calibrate import CalibrateStage
from ssem_dask.stages.coarse import CoarseStage
from ssem_dask.stages.compose.compose_stage import ComposeStage
from ssem_dask.stages.downsample import DownsampleStage
from ssem_dask.stages.mask import MaskStage
from ssem_dask.stages.measure.measure_stage import MeasureStage
from ssem_dask.stages.register import RegisterStage
from ssem_dask.stages.render import RenderStage
from ssem_dask.stages.stage import Stage

STAGES: tuple[Stage, ...] = (
    CoarseStage(),
    MaskStage(),
    CalibrateStage(),
    RegisterStage(),
    ComposeStage(),
    RenderStage(),
    DownsampleStage(),
    MeasureStage(),
)
