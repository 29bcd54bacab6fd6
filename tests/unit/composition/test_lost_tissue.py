"""Lost tissue: the likeness of two faces says how far apart they were."""

import numpy as np
import pytest

from ssem_dask.composition.lost_tissue import LostTissue, lost_tissue
from ssem_dask.types import Float64Array

COUNT = 60


def likeness(places: Float64Array, *, seed: int = 0, spread: float = 0.02) -> Float64Array:
    """Correlations of sections at some depths, falling with their distance, first fast and then slowly."""
    rng = np.random.default_rng(seed)
    out = np.full((3, len(places)), np.nan)
    for k in range(1, 4):
        distance = places[k:] - places[:-k]
        out[k - 1, k:] = 0.95 * np.exp(-0.3 * distance**0.8) * np.exp(rng.normal(size=len(distance)) * spread)
    return out


@pytest.mark.parametrize("lost", [0, 1, 2, 4])
def test_it_is_as_thick_as_what_is_missing(lost: int) -> None:
    places = np.arange(COUNT, dtype=float)
    places[20:] += lost
    places[40:] += 2
    first, second = lost_tissue(likeness(places), [20, 40])
    assert first is not None
    assert second is not None
    assert abs(first.sections - lost) <= max(0.4, 0.25 * lost)
    assert first.is_certain == (lost > 0)
    assert abs(second.sections - 2) < 0.6


def test_nothing_is_said_where_nothing_can_be_compared() -> None:
    places = np.arange(COUNT, dtype=float)
    table = likeness(places)
    table[:, 20:23] = np.nan
    assert lost_tissue(table, [20]) == [None]
    assert lost_tissue(table[:1], [30]) == [None]  # neighbours alone do not show how likeness falls
    unrelated = likeness(places)
    for k in range(1, 4):
        unrelated[k - 1, 20 : 20 + k] = 0.0
    assert lost_tissue(unrelated, [20]) == [None]
    assert lost_tissue(np.full((3, COUNT), 0.5), [20]) == [None]


def test_a_doubtful_loss_is_none() -> None:
    assert not LostTissue(0.4, 0.1).is_certain
    assert not LostTissue(1.0, 0.6).is_certain
    assert LostTissue(1.0, 0.3).is_certain
