"""Configuration of method `relax`."""

from typing import Literal

from pydantic import Field

from ssem_dask.types import ConfigBase


class RelaxConfig(ConfigBase):
    """Separation of distortion from natural motion."""

    natural_motion: Literal["keep", "remove"] = "keep"
    """`keep`: only distortion is undone. `remove`: neighbours are made to match by robust least squares, which bends
    oblique tissue upright; for comparison, or if that is wanted."""
    neighbours: int = Field(default=3, ge=1)
    """Largest distance in z, in sections, of the pairs that are used."""
    rounds: int = Field(default=3, ge=1)
    """Number of times that the pair fields are sampled again at the positions to which the solution leads."""
    iterations: int = Field(default=10, ge=1)
    """Iterations of each round's solve; they only matter where nodes are missing or have little weight."""
    outlier: float = Field(default=4.0, gt=0)
    """Robust standard deviations at which an observation has lost half of its weight."""
    window: int = Field(default=64, ge=16)
    """Sections that one task solves for."""
    overlap: int = Field(default=32, ge=0)
    """Sections that a window reads beyond either end: several times the correlation length of natural motion."""
    max_nodes: int = Field(default=384, ge=16)
    """Nodes along a side up to which a section is solved for at once. In wider sections low spatial frequencies are
    solved for on fewer nodes, and high ones in tiles."""
    tile_nodes: int = Field(default=256, ge=8)
    """Nodes along a side of such a tile, without its halo."""
    jumps: Literal["undo", "keep"] = "undo"
    """Jumps: places where all later sections are displaced alike against those before, far more than tissue moves (a
    new block, another knife). They are undone and reported, or kept as motion of the tissue."""
    known_jumps: tuple[int, ...] = ()
    """Sections before which there is certainly a jump, in addition to the jumps that are found."""
    keep_natural: bool = False
    """Write the estimated natural motion to `fields/natural` for inspection; as large as `fields/section`."""
