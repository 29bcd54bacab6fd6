"""Restricted fields are prolonged to the spline through the blocks; the rest is what blocks cannot represent."""

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

from ssem_dask.composition.relax.coarsening import Tile, high_frequencies, prolong, restrict, restricted_grid
from ssem_dask.field.grid import Grid

WHOLE = Grid((75, 58), 8.0)
TILE = Tile((slice(30, 60), slice(0, 20)), (slice(24, 72), slice(0, 38)))


def test_blocks_are_continued_by_a_cubic_spline() -> None:
    blocks = restricted_grid(WHOLE, factor=3)
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 2, *blocks.shape)).cumsum(axis=-1))
    found = prolong(values, blocks=blocks, grid=TILE.read_grid(WHOLE)).numpy()
    wanted = values.numpy()
    for axis, read in ((-2, TILE.read[0]), (-1, TILE.read[1])):
        spline = make_interp_spline(np.arange(wanted.shape[axis]) * 3 + 1.0, wanted, k=3, axis=axis)
        wanted = spline(np.arange(read.start, read.stop))
    # What the border does to a spline dies away by a factor of 4 from block to block.
    np.testing.assert_allclose(found[..., 9:-27, 30:], wanted[..., 9:-27, 30:], atol=1e-3)
    assert np.isfinite(found).all()


def test_slopes_stay_slopes_up_to_the_border() -> None:
    positions = WHOLE.positions().double()
    slope = 0.3 * positions + 0.1 * positions.flip(0) - 7.0
    blocks = restricted_grid(WHOLE, factor=3)
    mean, known = restrict(slope, torch.ones(WHOLE.shape), factor=3)
    assert known.shape == blocks.shape
    back = prolong(mean, blocks=blocks, grid=TILE.read_grid(WHOLE))
    # The last block of 58 nodes along x holds one node, so its mean is elsewhere; the tile keeps away from it.
    assert torch.allclose(back, slope[:, TILE.read[0], TILE.read[1]], atol=0.05)
    assert float(high_frequencies(slope[None, None].float(), grid=WHOLE, factor=3).abs().max()) < 0.05
