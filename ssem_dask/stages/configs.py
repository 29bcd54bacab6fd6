"""Configuration tables of the stages."""

from typing import Literal

from pydantic import Field

from ssem_dask.composition.chain.chain_alignment import ChainConfig
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.methods import RegisterConfig
from ssem_dask.types import ConfigBase, Place, ShapeZYX


class CoarseStageConfig(CoarseConfig):
    """Whole-section affines between neighbours, from thumbnails."""

    neighbours: int = Field(default=3, ge=1, le=10)
    """Each section is compared with this many sections before it."""
    thumbnail: int = Field(default=256, ge=32, le=2048)
    """Longest side of a thumbnail, px."""
    parts: bool = True
    """Find regions of a section that a fold, a crack or a seam moved against each other, and place each where it
    belongs. Sections of at least about 2 µm by 2 µm are searched; it costs about as much as the thumbnails."""
    initial: Place | None = None
    """Path or URL of a file with one affine per section, which is then only refined, by at most about 2° and 3 % of the
    section; None: no file. CSV with the header `z,a00,a01,a02,a10,a11,a12`, or a JSON list of objects with these keys.
    A row is a map as in `fields/coarse`: aligned → source, mip-0 px, y before x. Sections that are not in the file have
    none, and pairs involving them are searched normally. Or fields of any aligner, to which affine maps are fitted: a
    run, a scene of OME-Zarr 0.6, or a folder with one NRRD file per section (ITK)."""
    initial_digest: str | None = None
    """SHA-256 that the file, or the fitted maps, must have; None: that at the time of planning."""
    sections: Literal["match", "separate"] = "separate"
    """From pairs to sections. `separate`: undo only displacements that are independent from section to section, so that
    tissue keeps its natural motion; the same as `match` for fewer than 8 sections. `match`: make neighbours match, by
    robust least squares."""


class MaskStageConfig(ConfigBase):
    """Masks of empty, damaged or torn regions, which registration ignores."""

    detect: bool = False
    """Detect damage: regions that resemble none of the neighbour sections. Off by default: it helps at folds, but also
    masks some sound tissue (docs/accuracy.md)."""
    user: Place | None = None
    """URL of your own masks in the source frame (Zarr, OME-Zarr, a multi-page TIFF or a series), of the source's shape
    or with y and x divided by a power of two: 0 tissue, 1 empty, 2 damaged, 3 tear (fold or crack); anything else 2."""
    user_mode: Literal["override", "add"] = "override"
    """`override`: use your masks alone, and 0 is tissue whatever it looks like; `add`: combine them with detection."""
    mip: int | None = Field(default=None, ge=0)
    """Scale level of the masks; None takes the one whose pixel is nearest to 20 nm."""

    @property
    def detects(self) -> bool:
        """Whether damage is detected."""
        return self.detect and (self.user is None or self.user_mode == "add")

    @property
    def active(self) -> bool:
        """Whether there are masks at all."""
        return self.detects or self.user is not None


class RegisterStageConfig(RegisterConfig):
    """Pair fields from overlapping windows of neighbour sections."""

    window: int | None = Field(default=None, ge=64)
    """Side of a window's core, mip-0 px; None: 1024 px of the working mip, 2048 if sections have 4096 or more
    and that leaves 48 windows, or the whole section if it is smaller."""
    halo: int | None = Field(default=None, ge=0)
    """Width read around a window's core, mip-0 px; None: 192 px of the working mip."""
    sections: int = Field(default=8, ge=1)
    """Sections in a window's core; the neighbours before them are its halo in z."""


class ResolvedMask(MaskStageConfig):
    """`[mask]` of a run: every value is chosen."""

    mip: int
    """Scale level of the masks."""


class ResolvedRegister(RegisterStageConfig):
    """`[register]` of a run: every value is chosen."""

    mip: int
    """Scale level of the images that are registered: the working images."""
    spacing: int
    """Spacing of the pair fields, mip-0 px."""
    window: int
    """Side of a window's core, mip-0 px."""
    halo: int
    """Width read around a window's core, mip-0 px."""


class ReferenceConfig(ConfigBase):
    """Anchors, external information on where sections belong: an X-ray or block-face volume, an atlas.

    They pin distortion that changes slowly along z, which the sections alone cannot separate from the shape of the
    tissue. Method `relax` only.
    """

    landmarks: Place | None = None
    """Path or URL of a CSV file with the header `z,y,x,ref_y,ref_x`: the point (y, x) of source section z is at
    (ref_y, ref_x) of the reference. An optional column `sd` is the landmark's own standard deviation."""
    unit: Literal["px", "nm"] = "px"
    """Unit of all columns of that file but z: px of the source at mip 0, or nm. With `frame = "own"` ref_y and ref_x
    may have any other unit."""
    affines: Place | None = None
    """Path or URL of a file with one affine per section, reference → source, mip-0 px, as `coarse.initial` takes it;
    sections may be left out."""
    fields: Place | None = None
    """URL of fields reference → source: an array (z, 2, y, x) like `fields/section`, mip-0 px of this volume, any
    spacing, NaN if unknown; a run; a scene of OME-Zarr 0.6; or a folder with one NRRD file per section (ITK). Only the
    affine part of each section is used."""
    standard_deviation: float | None = Field(default=None, gt=0)
    """Standard deviation of the anchors, px at mip 0: of a landmark without its own, per component; of affines and
    fields, rms over the section. None: 100 nm."""
    frame: Literal["own", "reference"] = "own"
    """Frame of the aligned sections. `own`: near their present positions; one affine map for all sections, fitted to
    the data, leads to the reference. `reference`: that of the reference, which must be within the volume's frame."""
    digest: str | None = None
    """SHA-256 of the content of all anchors; None: that at the time of planning."""

    @property
    def has_anchors(self) -> bool:
        """Whether any anchors are configured."""
        return any((self.landmarks, self.affines, self.fields))


class FarConfig(ConfigBase):
    """Anchors from thumbnails: rotation and scale between sections far from each other.

    They pin slow rotation and swelling, all of which is then taken for distortion. Method `relax` only.
    """

    distances: tuple[int, ...] = ()
    """Distances in sections, 4 to 64, for example [8, 16, 32]; none: not used. Tissue that does rotate or swell along
    z, such as a twisted nerve, is straightened by it."""


class ComposeStageConfig(ConfigBase):
    """From pair fields to one field per section."""

    method: Literal["chain", "relax"] = "relax"
    """`relax`: undo distortion and leave the natural motion of tissue, separated by their statistics along z. `chain`:
    composition with vector voting, blocks and decay."""
    relax: RelaxConfig = RelaxConfig()
    reference: ReferenceConfig = ReferenceConfig()
    far: FarConfig = FarConfig()
    chain: ChainConfig = ChainConfig()


class RenderStageConfig(ConfigBase):
    """Warping every section once."""

    chunk: ShapeZYX = (8, 256, 256)
    """Chunk (z, y, x) of the aligned volume; several sections deep, for viewing and segmentation."""
    shard: ShapeZYX = (8, 2048, 2048)
    """Shard (z, y, x): a multiple of the chunk; one task writes one shard."""
    codec: Literal["auto", "zstd", "none"] = "auto"
    """Compression of the aligned volume. `auto`: `zstd` if it saves at least a tenth of a sample of the source, else
    `none`; what was chosen stays for the run, whatever becomes of the source. All have checksums."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    """How pixels are interpolated; `nearest` for labels."""
    unplaced: Literal["as_is", "blank", "nearest"] = "as_is"
    """Content of the aligned volume for a section that registration ties to no other. It has no place. `as_is`:
    the section, warped like its neighbours; `blank`: nothing; `nearest`: the nearest section that has a place, up to 8
    sections away."""
    contrast: Literal["as_is", "match"] = "as_is"
    """Grey values of the aligned volume. `as_is`: those of the source; `match`: each section is multiplied by a gain
    and shifted by an offset, so that its contrast fits that of its neighbours. Both are recorded, so that the original
    values can be computed back (docs/conventions.md)."""


class DownsampleStageConfig(ConfigBase):
    """The multiscale pyramid of the aligned volume."""

    smallest: int = Field(default=256, ge=1)
    """Levels are added until the longer side is at most this many px."""
