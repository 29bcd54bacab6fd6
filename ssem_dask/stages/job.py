"""One run as every stage sees it: where it reads and writes, and its configuration with every choice made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from ssem_dask.field.grid import Grid, node_count
from ssem_dask.fixes.section_fixes import NO_FIXES, VolumeFixes
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.region import Region
from ssem_dask.stages.configs import (
    CoarseStageConfig,
    ComposeStageConfig,
    DownsampleStageConfig,
    RenderStageConfig,
    ResolvedMask,
    ResolvedRegister,
)
from ssem_dask.storage.location import join_below
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ConfigBase, ShapeYX, ShapeZYX

END = "~"
"""Begins the part of a digest that says where the volume ended."""
SECTIONS_PER_THUMBNAIL_TASK = 8
"""Sections per task of those that compare thumbnails."""


GROWN_DEPTH = 8
"""Sections that share files, and tasks, in a run to which sections were appended."""
GROWN_AHEAD = 8
"""Sections after a block that its fields depend on: as far as a change of a section reaches."""
GROWN_BEHIND = 24
"""Sections before a block that are read to solve for its fields."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How a run grew: the statistics of its first sections hold for all that were appended since.

    The fit are the results of whole blocks of `GROWN_DEPTH` sections as they were computed with the first `fitted`
    sections. All later blocks have tasks of their own.
    """

    fitted: int
    """Sections that there were when the statistics were fitted."""
    of_fit: bool = False
    """Whether the job is that of the fit alone, see `Job.fit`."""

    @property
    def registered(self) -> int:
        """Sections whose places and pair fields are those of the fit: whole blocks."""
        return self.fitted // GROWN_DEPTH * GROWN_DEPTH

    @property
    def solved(self) -> int:
        """Sections whose fields are those of the fit: whole blocks that no later section reaches."""
        return max(0, self.fitted - GROWN_AHEAD) // GROWN_DEPTH * GROWN_DEPTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, resolved: every value that was left open has been chosen."""

    source: str
    """URL of the source volume."""
    output: str
    """URL of the run's Zarr group."""
    info: VolumeInfo
    """Shape, dtype and pixel size of the source."""
    tables: Mapping[str, ConfigBase]
    """Configuration table per stage, by the stage's name; stages without settings have none."""
    mips: int
    """Levels of the aligned pyramid."""
    encoder_digest: str
    """Digest of the network weights that registration uses; empty if it uses none."""
    source_mips: int
    """Levels that the source has, from mip 0 on. They determine what is read, but no digest."""
    source_identity: str
    """Name of the source in digests; it stays if the source is moved."""
    digests: Mapping[str, str]
    """Digest per stage: everything that determines its results, the settings of its upstream stages included."""
    fixes: VolumeFixes = NO_FIXES
    """Fixes of the user; no part of the digests above, but of those of the tasks that they concern (`task_digest`)."""
    fitted_fixes: VolumeFixes = NO_FIXES
    """Fixes that were there when the statistics of the run were fitted."""
    previous_fixes: VolumeFixes = NO_FIXES
    """Fixes that held before those of now."""
    growth: Growth | None = None
    """How the run grew; None: nothing was ever appended."""
    slabs: tuple[int, ...] = ()
    """First section of each slab but the first; sections of different slabs share no statistics."""

    @property
    def coarse(self) -> CoarseStageConfig:
        """Settings of stage coarse."""
        return cast(CoarseStageConfig, self.tables["coarse"])

    @property
    def mask(self) -> ResolvedMask:
        """Settings of stage mask."""
        return cast(ResolvedMask, self.tables["mask"])

    @property
    def register(self) -> ResolvedRegister:
        """Settings of stages calibrate and register."""
        return cast(ResolvedRegister, self.tables["register"])

    @property
    def compose(self) -> ComposeStageConfig:
        """Settings of stage compose."""
        return cast(ComposeStageConfig, self.tables["compose"])

    @property
    def render(self) -> RenderStageConfig:
        """Settings of stage render."""
        return cast(RenderStageConfig, self.tables["render"])

    @property
    def downsample(self) -> DownsampleStageConfig:
        """Settings of stage downsample."""
        return cast(DownsampleStageConfig, self.tables["downsample"])

    @property
    def shape(self) -> ShapeZYX:
        """Shape (z, y, x) of source and aligned volume, mip 0."""
        return self.info.shape

    @property
    def shape_yx(self) -> ShapeYX:
        """Shape (y, x) of a section, mip 0."""
        return self.info.shape[1], self.info.shape[2]

    @property
    def size(self) -> int:
        """Source pixels, mip 0."""
        return self.shape[0] * self.section_pixels

    @property
    def section_pixels(self) -> int:
        """Pixels of a section, mip 0."""
        return self.shape[1] * self.shape[2]

    @property
    def spacing(self) -> int:
        """mip-0 px between nodes of the fields."""
        return self.register.spacing

    @property
    def grid(self) -> Grid:
        """The nodes of a section's field."""
        return Grid.of_section(self.shape_yx, spacing=self.spacing)

    @property
    def window_core(self) -> ShapeZYX:
        """Extent (z, y, x) of a register window's core, mip-0 px: no larger than the volume, in whole nodes."""
        window, spacing = self.register.window, self.spacing
        y, x = (min(window, node_count(n, spacing=spacing) * spacing) for n in self.shape_yx)
        return min(self.register.sections, self.deepest), y, x

    @property
    def deepest(self) -> int:
        """Sections that a window or file has at most: all, or in a run that grew those of the fit."""
        return self.shape[0] if self.growth is None else self.growth.fitted

    @property
    def grown(self) -> Growth | None:
        """Growth of a run whose last sections were appended to the fit; None if all sections are fitted."""
        growth = self.growth
        return None if growth is None or growth.of_fit or growth.fitted >= self.shape[0] else growth

    @property
    def fit(self) -> "Job":
        """The job of the fit: that of the whole blocks of the first sections, or of all sections if none was appended.

        Its tasks read and write nothing beyond, so nothing that is appended makes them stale.
        """
        growth = self.grown
        if growth is None:
            return self
        shape = growth.registered, *self.shape_yx
        return replace(self, info=replace(self.info, shape=shape), growth=replace(growth, of_fit=True))

    @property
    def solved_stop(self) -> int:
        """Number of sections whose affine level and fields the tasks of the fit write."""
        return self.growth.solved if self.growth is not None and self.growth.of_fit else self.shape[0]

    @property
    def thickness(self) -> float:
        """Thickness of a section, mip-0 px."""
        return self.info.section_thickness / self.info.pixel_size

    def source_bytes(self, pixels: int, *, mip: int) -> int:
        """Return the bytes of the source that are decoded to read a place, from the coarsest level that serves.

        Args:
            pixels: of the place at mip 0.
            mip: scale level at which the place is read.
        """
        return (pixels >> 2 * min(mip, self.source_mips - 1)) * self.info.dtype.itemsize

    def task_digest(self, stage: str, fixes: VolumeFixes, *, stop: int = 0) -> str:
        """Return the digest of a task: that of its stage, the end of what it sees, and the fixes on which it depends.

        Args:
            stage: name of the stage.
            fixes: fixes on which the task depends.
            stop: section after the last one that the task would use if the volume were endless. A task that uses
                appended sections is outdated if more of them have come.
        """
        if self.growth is None and fixes.is_empty:
            return self.digests[stage]  # the usual case, and asked for every task
        own, grown = fixes.digest(), self.grown
        end = f"{END}{min(stop, self.shape[0])}" if grown is not None and stop > grown.fitted else ""
        return f"{self.digests[stage]}{end}" + (f"+{own}" if own else "")

    def url(self, *parts: str) -> str:
        """Return the URL of something inside the run's group; raise SourceError if a part leads out of it."""
        return join_below(self.output, *parts)

    def sections_box(self, start: int = 0, stop: int | None = None) -> Box:
        """Return the box of whole sections `start <= z < stop`, clipped to the volume."""
        z, y, x = self.shape
        return Box((max(0, start), 0, 0), (z if stop is None else min(stop, z), y, x))

    def source_regions(
        self, start: int = 0, stop: int | None = None, *, fixes: VolumeFixes | None = None
    ) -> tuple[Region, ...]:
        """Return the regions of the source that are read as sections `start <= z < stop`, clipped to the volume.

        Args:
            start: first section.
            stop: section after the last one; None: the end of the volume.
            fixes: fixes that say which sections have changed places; None: those of the fit.
        """
        box = self.sections_box(start, stop)
        known = self.fitted_fixes if fixes is None else fixes
        others = (known.of(z).other for z in box.sections) if known.sections else ()
        exchanged = sorted({z for z in others if z is not None and z not in box.sections})
        return tuple(Region("source", part) for part in (box, *(self.sections_box(z, z + 1) for z in exchanged)))
