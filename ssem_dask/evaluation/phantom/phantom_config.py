"""Parameters of a phantom; every length is in nm, so that the same tissue can be imaged at several pixel sizes."""

from pydantic import Field

from ssem_dask.types import ConfigBase, ShapeZYX


class PhantomConfig(ConfigBase):
    """A synthetic volume of neural tissue. Its content depends on all parameters except `shape`."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the tissue."""
    shape: ShapeZYX = (20, 512, 512)
    """Volume (z, y, x): sections and mip-0 px."""
    pixel_size: float = Field(5.0, ge=4.0, le=10.0)
    """nm per mip-0 px; the textures are designed for 4 to 8."""
    section_thickness: float = Field(40.0, ge=5.0, le=100.0)
    """nm per section."""
    oblique: float = Field(18.0, ge=0.0, le=30.0)
    """Root-mean-square motion of the tissue from one section to the next, nm in the plane; 0 is none. Naturally
    aligned FIB-SEM of an insect's brain has 9 to 17 nm at 40 nm steps."""
    calibre: float = Field(1.0, ge=0.5, le=3.0)
    """Size of the neurites relative to neuropil of an insect's nerve cord."""
    shape_change: float = Field(1.0, ge=0.0, le=3.0)
    """How fast outlines change, neurites branch and end along z, relative to the calibrated speed; 0: not at all."""
    texture: float = Field(1.0, ge=0.0, le=2.0)
    """Contrast of the cytoplasm's grain, vesicles and microtubules, relative to the calibrated one."""
    blur: float = Field(2.6, ge=0.0, le=8.0)
    """Standard deviation of the imaging blur, nm; at most 1.5 px of it is applied."""
    noise: float = Field(1.0, ge=0.0, le=3.0)
    """Shot noise relative to the calibrated one; 0 is none."""
    section_contrast: float = Field(0.04, ge=0.0, le=0.3)
    """Standard deviation of the contrast from section to section, as a share."""
    section_brightness: float = Field(0.02, ge=0.0, le=0.2)
    """Standard deviation of the brightness from section to section, as a share of the grey range."""
