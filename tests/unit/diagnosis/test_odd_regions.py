"""Odd regions of a section, in sections of any shape."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ssem_dask.diagnosis.odd_regions import ComparedSection, OddRegions, find_odd_regions


def odd_object(shape: tuple[int, int], *, extent: tuple[int, int]) -> OddRegions:
    """Regions of a section with one dark object that its neighbours do not have."""
    generator = np.random.default_rng(1)
    common = gaussian_filter(generator.normal(size=shape), 3.0)
    sections = [common + 0.2 * gaussian_filter(generator.normal(size=shape), 3.0) for _ in range(3)]
    sections = [128 + 30 * section / common.std() for section in sections]
    top, left = (n // 2 - e // 2 for n, e in zip(shape, extent, strict=True))
    sections[0][top : top + extent[0], left : left + extent[1]] = 5.0
    shown = torch.ones(shape, dtype=torch.bool)
    section, before, after = (ComparedSection.of(torch.from_numpy(s).float(), mask=shown) for s in sections)
    return find_odd_regions(section, inside=shown, before=before, after=after, one_sided=False)


@pytest.mark.parametrize("shape", [(64, 1024), (128, 512), (1024, 64)])
def test_an_object_is_as_long_in_a_strip_as_in_a_square(shape: tuple[int, int]) -> None:
    strip, square = (odd_object(s, extent=(48, 16)) for s in (shape, (256, 256)))
    assert square.length == pytest.approx(50 / 256, rel=0.2)
    assert strip.length == pytest.approx(square.length, rel=0.2)
    assert strip.width == pytest.approx(square.width, rel=0.25)
    assert strip.dark > 0
