"""Configuration tables of the stages."""

from typing import Literal

from pydantic import Field

from ssem_dask.composition.chain.chain_alignment import ChainConfig
from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.methods import RegisterConfig
from ssem_dask.types import ConfigBase, ShapeZYX


class CoarseStageConfig(CoarseConfig):
    """Whole-section affines between neighbours, from thumbnails."""

    neighbours: int = Field(default=3, ge=1, le=10)
    """Each section is compared with this many sections before it."""
    thumbnail: int = Field(default=256, ge=32, le=2048)
    """Longest side of a thumbnail, px."""
    initial: str | None = None
    """Path or URL of a file with one affine per section, which is then only refined, by at most about 2° and 3 % of the
    section; None: no file. CSV with the header `z,a00,a01,a02,a10,a11,a12`, or a JSON list of objects with these keys.
    A row is a map as in `fields/coarse`: aligned → source, mip-0 px, y before x. Sections that are not in the file have
    none, and pairs with them are searched as ever."""
    initial_digest: str | None = None
    """SHA-256 that the file must have; None: that of the file as it is when the run is planned."""
    sections: Literal["match", "separate"] = "separate"
    """From pairs to sections. `separate`: only what is independent from section to section is undone, so that tissue
    keeps its own motion; with fewer than 8 sections as `match`. `match`: neighbours are made to match, by robust least
    squares."""


class MaskStageConfig(ConfigBase):
    """What of a section is empty, damaged or torn, and so says nothing about where it belongs."""

    detect: bool = False
    """Find damage: places that resemble none of the neighbour sections. Off until it is worth what sound tissue it
    costs: it helps at folds (docs/accuracy.md)."""
    user: str | None = None
    """URL of your own masks in the source frame (Zarr, OME-Zarr, a multi-page TIFF or a series), of the source's shape
    or with y and x divided by a power of two: 0 tissue, 1 empty, 2 damaged, 3 tear (fold or crack); anything else 2."""
    user_mode: Literal["override", "add"] = "override"
    """`override`: your masks alone hold, 0 is tissue whatever it looks like; `add`: beside what is found."""
    mip: int | None = Field(default=None, ge=0)
    """Scale level of the masks; None takes the one whose pixel is nearest to 20 nm."""

    @property
    def detects(self) -> bool:
        """Whether damage is looked for."""
        return self.detect and (self.user is None or self.user_mode == "add")

    @property
    def active(self) -> bool:
        """Whether there are masks at all."""
        return self.detects or self.user is not None


class RegisterStageConfig(RegisterConfig):
    """Pair fields from overlapping windows of neighbour sections."""

    window: int | None = Field(default=None, ge=64)
    """Side of a window's core, mip-0 px; None: 1024 px of the working mip, 2048 where sections have 4096 or more
    and that leaves 48 windows, or the section where that is smaller."""
    halo: int | None = Field(default=None, ge=0)
    """Width read around a window's core, mip-0 px; None: 192 px of the working mip."""
    sections: int = Field(default=8, ge=1)
    """Sections in a window's core; the neighbours before them are its halo in z."""


class ReferenceConfig(ConfigBase):
    """Where sections belong, from something beside them: an X-ray or block-face volume, an atlas. It pins distortion
    that changes slowly along z, which nothing in the sections tells from the shape of the tissue. Method `relax` only.
    """

    landmarks: str | None = None
    """Path or URL of a CSV file with the header `z,y,x,ref_y,ref_x`: the point (y, x) of source section z lies at
    (ref_y, ref_x) of the reference. An optional column `sd` is the landmark's own standard deviation."""
    unit: Literal["px", "nm"] = "px"
    """Unit of all columns of that file but z: px of the source at mip 0, or nm. With `frame = "own"` ref_y and ref_x
    may have any other unit."""
    affines: str | None = None
    """Path or URL of a file with one affine per section, reference → source, mip-0 px, as `coarse.initial` takes it;
    sections may be left out."""
    fields: str | None = None
    """URL of a field array (z, 2, y, x) as `fields/section` is: reference → source, mip-0 px of this volume, any
    spacing, NaN where unknown. Only what is affine in each section is used."""
    standard_deviation: float | None = Field(default=None, gt=0)
    """Of what is given, px at mip 0: of a landmark without its own, per component; of affines and fields, rms over the
    section. None: 100 nm."""
    frame: Literal["own", "reference"] = "own"
    """Where aligned sections lie. `own`: about where they were; one affine map for all sections, found from the data,
    is the difference to the reference. `reference`: as the reference does; it must lie within the volume's frame."""
    digest: str | None = None
    """SHA-256 of all that is given; None: as it is when the run is planned."""

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any((self.landmarks, self.affines, self.fields))


class FarConfig(ConfigBase):
    """Rotation and scale between sections far from each other, from thumbnails: they pin slow turning and swelling,
    which are then taken for distortion whole. Method `relax` only.
    """

    distances: tuple[int, ...] = ()
    """How far apart, in sections, 4 to 64, for example [8, 16, 32]; none: not used. Tissue that does turn or swell
    along z, such as a nerve that twists, is straightened by it."""


class ComposeStageConfig(ConfigBase):
    """From pair fields to one field per section."""

    method: Literal["chain", "relax"] = "relax"
    """`relax`: distortion is undone, the natural motion of tissue is left alone, told apart by their statistics along
    z. `chain`: composition with vector voting, blocks and decay."""
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
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    """How pixels are interpolated; `nearest` for labels."""


class DownsampleStageConfig(ConfigBase):
    """The multiscale pyramid of the aligned volume."""

    smallest: int = Field(default=256, ge=1)
    """Levels are added until the longer side is at most this many px."""
