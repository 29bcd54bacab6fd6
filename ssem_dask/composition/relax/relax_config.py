"""Configuration of mode `relax`."""

from typing import Literal

from pydantic import Field

from ssem_dask.types import ConfigBase


class RelaxConfig(ConfigBase):
    """Separation of distortion from natural motion."""

    natural_motion: Literal["keep", "remove"] = "keep"
    """`keep`: only distortion is undone. `remove`: neighbours are made to match by robust least squares, which bends
    oblique tissue upright; for comparison, and where that is wanted."""
    neighbours: int = Field(default=3, ge=1)
    """Pairs up to this distance in z are used, as far as there are any."""
    rounds: int = Field(default=3, ge=1)
    """How often the pair fields are sampled anew where the solution leads."""
    iterations: int = Field(default=10, ge=1)
    """Iterations of each round's solve; they only matter where nodes are missing or worth little."""
    outlier: float = Field(default=4.0, gt=0)
    """Robust standard deviations at which an observation has lost half of its weight."""
    window: int = Field(default=64, ge=16)
    """Sections that one task solves for."""
    overlap: int = Field(default=32, ge=0)
    """Sections beyond either end of a window that it looks at: several times the correlation length of natural
    motion."""
    plane: int = Field(default=384, ge=16)
    """Nodes along a side up to which a section is solved for at once. In wider ones long waves are solved for on fewer
    nodes, and short waves in tiles."""
    tile: int = Field(default=256, ge=8)
    """Nodes along a side of such a tile, without its halo."""
    jumps: Literal["undo", "keep"] = "undo"
    """Places where all later sections are displaced alike against those before, far more than tissue moves (a new
    block, another knife): undone and reported, or kept as motion of the tissue."""
    jumps_at: tuple[int, ...] = ()
    """Sections before which there is such a place for certain, beside those that are found."""
    keep_natural: bool = False
    """Write the natural motion that was found to `fields/natural`, to be looked at; as large as `fields/section`."""
