"""The wide search finds sections that were turned, mirrored, inverted, scaled or shifted, and believes no others."""

import numpy as np
import pytest
import torch

from ssem_dask.field.affine import compose_affine, invert_affine, rotation_about
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.registration.coarse_alignment.wide_search import WidePair, WideSection, search_pair
from ssem_dask.types import Float64Array
from tests.support.coarse_sections import median_error, moved, texture

_SHAPE = (128, 112)
_CENTRE = (64.0, 56.0)
_MIRROR = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 112.0]])


def search(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None) -> WidePair:
    config = CoarseConfig()
    known = tissue_mask(moving) if mask is None else mask
    with torch.inference_mode():
        wide = WideSection(CoarseSection(moving, mask=known, config=config))
        return search_pair(fixed=CoarseSection(fixed, mask=tissue_mask(fixed), config=config), moving=wide, pixel=1.0)


def turn(degrees: float, *, shift: tuple[float, float] = (6.0, -9.0), scale: float = 1.0) -> Float64Array:
    return rotation_about(degrees=degrees, centre=_CENTRE, shift=shift, scale=scale)


@pytest.mark.parametrize(
    ("pull", "inverted"),
    [
        (turn(180.0), False),
        (turn(-93.0), True),
        (turn(41.0), False),
        (compose_affine(outer=turn(20.0), inner=_MIRROR), False),
        (turn(3.0, scale=1.12), False),
        (turn(170.0, scale=0.88), False),
        (turn(0.0, shift=(0.0, 50.0)), False),
    ],
)
def test_what_happened_to_a_section_is_found(pull: Float64Array, inverted: bool) -> None:
    section = texture(_SHAPE, seed=31)
    moving, mask = moved(section, pull)
    pair = search(section, 255.0 - moving if inverted else moving, mask)
    assert pair.ratio > 1.3
    assert pair.inverted == inverted
    assert median_error(pair.affine, invert_affine(pull), shape=_SHAPE) < 0.5
    assert pair.similarity > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_sections_are_not_believed(seed: int) -> None:
    assert search(texture(_SHAPE, seed=seed), texture(_SHAPE, seed=100 + seed)).ratio < 1.3


def test_a_section_without_tissue_has_nothing_to_compare() -> None:
    pair = search(texture(_SHAPE, seed=1), torch.full(_SHAPE, 30.0))
    assert pair.ratio == 0.0
    assert np.isnan(pair.similarity)
