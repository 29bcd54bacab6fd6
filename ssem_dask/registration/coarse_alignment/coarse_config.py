"""Settings of the coarse stage."""

from pydantic import Field

from ssem_dask.types import ConfigBase


class CoarseConfig(ConfigBase):
    """Whole-section affines between neighbours, from thumbnails."""

    max_rotation: float = Field(default=30.0, ge=0.0, le=45.0)
    """Largest rotation between neighbours that is searched, degrees."""
    max_shift: float = Field(default=0.3, gt=0.0, le=0.5)
    """Largest shift between neighbours that is searched, as a share of the section's side."""
    search: bool = True
    """Compare sections that match nothing with their neighbours again: at all rotations, mirrored, with inverted
    contrast, up to 15 % larger or smaller, shifted by up to half the side. It costs nothing if all sections match."""
    min_ratio: float = Field(default=1.3, ge=1.0)
    """Least ratio at which a pair is trusted: the score of its best rotation and shift, over the second best or over
    what unrelated sections reach by chance, whichever is more. Neighbours reach 1.5 to 5, unrelated sections stay below
    1.24."""
    whitening: float = Field(default=0.5, ge=0.0, le=1.0)
    """Exponent by which the thumbnails' spectra are flattened before they are correlated."""
