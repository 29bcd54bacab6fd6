"""A section of two parts, 40 px apart: where its tissue is in the source, and back."""

import numpy as np
import pytest
import torch

from ssem_dask.field.affine import IDENTITY
from ssem_dask.field.piecewise_affine import PiecewiseAffine


def two_parts(shift: float) -> PiecewiseAffine:
    """The right half, from x = 100 on, shows what belongs `shift` px farther right."""
    labels = np.zeros((50, 50), dtype=np.uint8)
    labels[:, 25:] = 1
    moved = IDENTITY.copy()
    moved[1, 2] = -shift
    return PiecewiseAffine(np.stack([IDENTITY, moved]), labels, 4)


def along(*x: float) -> torch.Tensor:
    return torch.stack([torch.full((len(x),), 80.0), torch.tensor(x)]).double()


def test_tissue_that_a_fold_swallowed_is_unknown() -> None:
    source = two_parts(40.0).to_source(along(60.0, 110.0, 139.0, 150.0))
    assert source[1].numpy() == pytest.approx([60.0, np.nan, np.nan, 110.0], nan_ok=True)


def test_where_parts_overlap_the_largest_is_taken() -> None:
    assert two_parts(-40.0).to_source(along(50.0, 80.0, 120.0))[1].tolist() == [50.0, 80.0, 160.0]


@pytest.mark.parametrize("shift", [40.0, -20.0])
def test_there_and_back(shift: float) -> None:
    parts = two_parts(shift)
    whole = parts.to_whole(along(20.0, 90.0, 150.0, 190.0))
    assert whole[1].tolist() == [20.0, 90.0, 150.0 + shift, 190.0 + shift]
    if shift > 0:
        assert parts.to_source(whole)[1].tolist() == [20.0, 90.0, 150.0, 190.0]


def test_unknown_stays_unknown() -> None:
    nothing = torch.full((2, 3), torch.nan)
    assert torch.isnan(two_parts(8.0).to_source(nothing)).all()
    assert torch.isnan(two_parts(8.0).to_whole(nothing)).all()
