"""Settings of the coarse stage."""

from pydantic import Field

from ssem_dask.types import ConfigBase


class CoarseConfig(ConfigBase):
    """Whole-section affines between neighbours, from thumbnails."""

    max_rotation: float = Field(default=10.0, ge=0.0, le=30.0)
    """Largest rotation between neighbours that is searched, degrees."""
    max_shift: float = Field(default=0.3, gt=0.0, le=0.5)
    """Largest shift between neighbours that is searched, as a share of the section's side."""
    min_ratio: float = Field(default=1.3, ge=1.0)
    """Least peak ratio (best : second) at which a pair is believed."""
    whitening: float = Field(default=0.5, ge=0.0, le=1.0)
    """Exponent by which the thumbnails' spectra are flattened before they are correlated."""
