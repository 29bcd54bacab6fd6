"""Damage: what is marked, what is left alone, and what does not change it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ssem_dask.registration.damage import DAMAGED, EMPTY, TEAR, TISSUE, detect_damage, pool_codes

SHAPE = (160, 192)
CORE = range(5)


def _stack() -> Tensor:
    """Five sections of one blobby texture, which changes a little from each to the next."""
    rng = np.random.default_rng(5)
    base = gaussian_filter(rng.standard_normal(SHAPE), 2.0)
    sections = [base + 0.5 * gaussian_filter(rng.standard_normal(SHAPE), 2.0) for _ in CORE]
    return torch.from_numpy(np.stack(sections) / base.std() * 30 + 120).float()


def _codes(images: Tensor) -> Tensor:
    return detect_damage(images, tissue=torch.ones_like(images, dtype=torch.bool), core=CORE)


def _barred(value: float) -> Tensor:
    images = _stack()
    images[2, 20:140, 90:96] = value
    return images


def test_sound_texture_is_left_alone() -> None:
    assert float((_codes(_stack()) != TISSUE).float().mean()) < 0.01


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_a_dark_or_bright_bar_is_a_tear_of_its_section_alone(value: float) -> None:
    codes = _codes(_barred(value))
    assert float((codes[2, 20:140, 90:96] == TEAR).float().mean()) > 0.8
    assert float((codes[[0, 1, 3, 4]] != TISSUE).float().mean()) < 0.01
    away = torch.cat([codes[2, :, :80], codes[2, :, 106:]], dim=1)
    assert float((away != TISSUE).float().mean()) < 0.01


def test_a_round_spot_is_damage_but_no_tear() -> None:
    images = _stack()
    y, x = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    spot = (y - 80).square() + (x - 90).square() < 15**2
    images[2, spot] = 10.0
    codes = _codes(images)[2]
    assert float((codes[spot] == DAMAGED).float().mean()) > 0.8
    assert float((codes[~spot] != TISSUE).float().mean()) < 0.05


@pytest.mark.slow
def test_gain_and_offset_of_a_section_and_inversion_of_all_change_nothing() -> None:
    images = _barred(0.0)
    expected = _codes(images)
    changed = images.clone()
    changed[1], changed[2] = 0.5 * images[1] + 60, 1.7 * images[2] - 20
    assert float((_codes(changed) != expected).float().mean()) < 1e-3
    assert float((_codes(255 - images) != expected).float().mean()) < 1e-3


def test_a_few_px_of_misalignment_are_no_damage() -> None:
    images = _stack()
    moved = torch.stack([image.roll((4 * (-1) ** z, -3 * (-1) ** z), dims=(0, 1)) for z, image in enumerate(images)])
    inner = _codes(moved)[:, 16:-16, 16:-16]  # rolled-in strips really resemble nothing
    assert float((inner != TISSUE).float().mean()) < 0.01


def test_a_step_of_contrast_inside_a_section_is_no_damage() -> None:
    images = _stack()
    images[2, :, 96:] = images[2, :, 96:] * 0.8 + 15
    assert float((_codes(images) != TISSUE).float().mean()) < 0.02


def test_a_section_of_noise_and_padding_are_empty() -> None:
    images = _stack()
    images[3] = torch.from_numpy(np.random.default_rng(1).normal(240, 3, SHAPE)).float()
    images[1, :, :40] = 0.0
    tissue = torch.ones_like(images, dtype=torch.bool)
    tissue[1, :, :40] = False
    codes = detect_damage(images, tissue=tissue, core=CORE)
    assert bool((codes[3] == EMPTY).all())
    assert bool((codes[1, :, :40] == EMPTY).all())
    assert float((codes[[0, 1, 2, 4]][..., 40:] != TISSUE).float().mean()) < 0.01


def test_a_section_alone_tells_of_no_damage() -> None:
    images = _barred(0.0)[2:3]
    codes = detect_damage(images, tissue=torch.ones_like(images, dtype=torch.bool), core=range(1))
    assert bool((codes == TISSUE).all())


def test_larger_pixels_keep_the_highest_code() -> None:
    codes = np.zeros((1, 5, 6), dtype=np.uint8)
    codes[0, 0, 1], codes[0, 1, 0], codes[0, 4, 5] = 2, 3, 1
    assert pool_codes(codes, factor=2)[0].tolist() == [[3, 0, 0], [0, 0, 0], [0, 0, 1]]
