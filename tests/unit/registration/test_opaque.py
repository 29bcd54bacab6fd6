"""Folds, cracks and dirt are found by their grey values; tissue of any contrast is not."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ssem_dask.registration.opaque import find_opaque_regions


def make_tissue(shape: tuple[int, int, int] = (5, 240, 320), *, seed: int = 1) -> Tensor:
    """Return sections of unlike texture, mean 130 and standard deviation 30."""
    rng = np.random.default_rng(seed)
    made = [gaussian_filter(rng.standard_normal(shape[1:]), 6) for _ in range(shape[0])]
    return torch.from_numpy(np.stack([130 + 30 * image / image.std() for image in made]).astype(np.float32))


def band(shape: tuple[int, int], width: float) -> Tensor:
    """Return a mask of an oblique band through the middle."""
    y, x = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return ((x - shape[1] / 2) * 0.9 + (y - shape[0] / 2) * 0.4).abs() < width / 2


@pytest.mark.parametrize("grey", [5.0, 250.0], ids=["dark", "bright"])
@pytest.mark.parametrize("width", [24, 80])
def test_a_band_is_found_with_its_rim_and_nothing_else(width: int, grey: float) -> None:
    images, fold = make_tissue(), band((240, 320), width)
    images[2, fold] = grey + torch.randn(int(fold.sum()), generator=torch.Generator().manual_seed(1)) * 3
    found = find_opaque_regions(images, valid=torch.ones(images.shape, dtype=torch.bool))
    assert not found[[0, 1, 3, 4]].any()
    assert found[2][fold].float().mean() > 0.98
    assert not found[2][~band((240, 320), width + 32)].any()


@pytest.mark.parametrize("seed", range(4))
def test_tissue_of_other_brightness_and_contrast_is_none(seed: int) -> None:
    images = make_tissue(seed=seed)
    images[1] = images[1] * 0.4 + 20
    images[2] = 255 - images[2]
    images[3] *= torch.linspace(0.8, 1.2, 320)
    assert not find_opaque_regions(images, valid=torch.ones(images.shape, dtype=torch.bool)).any()


def test_what_is_no_tissue_is_not_compared() -> None:
    images = make_tissue()
    valid = torch.ones(images.shape, dtype=torch.bool)
    images[2, :100], valid[2, :100] = 0.0, False
    images[4], valid[4] = 0.0, False
    assert not find_opaque_regions(images, valid=valid).any()


def test_another_kind_of_image_is_left_to_registration() -> None:
    images = make_tissue()
    images[2, :, :200] = 5.0
    assert not find_opaque_regions(images, valid=torch.ones(images.shape, dtype=torch.bool)).any()


@pytest.mark.parametrize("shape", [(1, 240, 320), (3, 9, 320), (2, 1, 1)], ids=str)
def test_too_little_to_compare(shape: tuple[int, int, int]) -> None:
    images = torch.full(shape, 7.0)
    assert not find_opaque_regions(images, valid=torch.ones(shape, dtype=torch.bool)).any()
