"""A small share of `make bench-coarse`: real sections are found again, and unrelated ones are not believed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.coarse import draw_pairs, stacks, summary
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig


@pytest.mark.no_cover
def test_neighbours_are_found_and_unrelated_sections_are_not_believed(real_sections: Callable[[str], Path]) -> None:
    for name in ("vnc_sstem", "flyem_fibsem"):
        real_sections(f"{name}/images.tif")
    config, given = CoarseConfig(), stacks()
    with torch.inference_mode():
        near, other = (
            summary(list(draw_pairs(given, kind=kind, count=count, seed=71, config=config)), min_ratio=config.min_ratio)
            for kind, count in (("k = 1", 20), ("unrelated", 16))
        )
    assert near.accepted == near.draws
    assert near.failures == 0
    assert near.ratio_min > 1.5
    assert near.error_median < 2.5
    assert other.accepted == 0
    assert other.ratio_max < 1.3
