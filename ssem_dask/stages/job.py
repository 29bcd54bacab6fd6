"""What every stage knows of a run: where it reads and writes, and the configuration with nothing left to guess."""

from dataclasses import dataclass

from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Region
from ssem_dask.stages.configs import (
    CoarseStageConfig,
    ComposeStageConfig,
    DownsampleStageConfig,
    MaskStageConfig,
    RegisterStageConfig,
    RenderStageConfig,
)
from ssem_dask.storage.location import join_below
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ShapeZYX

SECTIONS_PER_COARSE_TASK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, resolved: every value that was left to be chosen has been chosen."""

    source: str
    output: str
    info: VolumeInfo
    coarse: CoarseStageConfig
    mask: MaskStageConfig
    register: RegisterStageConfig
    compose: ComposeStageConfig
    render: RenderStageConfig
    downsample: DownsampleStageConfig
    mips: int
    """Levels of the aligned pyramid."""
    encoder_digest: str
    """Digest of the network weights that the register stage uses; empty if it uses none."""
    source_mips: int
    """Levels that the source has, from mip 0 on; they decide what is read, and no digest."""
    digests: dict[str, str]
    """For each stage a digest of all that decides its results: its own configuration and that of the stages before."""

    @property
    def shape(self) -> ShapeZYX:
        """(z, y, x) of source and aligned volume, mip 0."""
        return self.info.shape

    @property
    def size(self) -> int:
        """Source pixels, mip 0."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def spacing(self) -> int:
        """mip-0 px between nodes of the fields."""
        assert self.register.spacing is not None
        return self.register.spacing

    @property
    def thickness(self) -> float:
        """Thickness of a section, mip-0 px."""
        return self.info.section_thickness / self.info.pixel_size

    def source_bytes(self, pixels: int, *, mip: int) -> int:
        """Bytes of the source that are decoded to see a place at a mip: of its coarsest level that is fine enough.

        Args:
            pixels: that the place has at mip 0.
            mip: at which it is seen.
        """
        return (pixels >> 2 * min(mip, self.source_mips - 1)) * self.info.dtype.itemsize

    def url(self, *parts: str) -> str:
        """URL of something inside the run's group; SourceError where a part leads out of it."""
        return join_below(self.output, *parts)

    def sections(self, name: str, start: int = 0, stop: int | None = None) -> Region:
        """Whole sections `start <= z < stop`, clipped to the volume, of an array or file of the run, or of `source`."""
        z, y, x = self.shape
        return Region(name, Box((max(0, start), 0, 0), (z if stop is None else min(stop, z), y, x)))
