"""Sections out of order or shown twice are found; sections in order, damaged ones among them, are left in peace."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.geometry.box import Box
from ssem_dask.image.pooling import pool
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.order import OrderCheck, check_order
from ssem_dask.registration.coarse_alignment.pair import estimate_pair
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.types import AnyArray, Float64Array

COUNT = 14
IN_ORDER = OrderCheck(misplaced=[], repeated=[])


def alike(order: list[int], *, damaged: tuple[int, ...] = (), seed: int = 0) -> Float64Array:
    """Similarity `(3, Z)` of sections that are seen in `order`; it falls with the distance, more or less."""
    noise = np.random.default_rng(seed).normal(size=(60, 60)) * 0.03
    out = np.full((3, len(order)), np.nan)
    for z, section in enumerate(order):
        for k in range(1, min(z, 3) + 1):
            a, b = sorted((section, order[z - k]))
            value = 0.99 if a == b else 0.75 ** (b - a) + noise[a, b]
            out[k - 1, z] = value * (0.4 if {a, b} & set(damaged) else 1.0)
    return out


def similarity(images: AnyArray) -> Float64Array:
    """Measure as the coarse stage does."""
    factor = max(1, int(np.ceil(max(images.shape[1:]) / 256)))
    thumbnails = [pool(torch.from_numpy(image.astype(np.float32)), factor) for image in images]
    sections = [CoarseSection(t, mask=tissue_mask(t), config=CoarseConfig()) for t in thumbnails]
    out = np.full((3, len(sections)), np.nan)
    for z, fixed in enumerate(sections):
        for k in range(1, min(z, 3) + 1):
            pair = estimate_pair(fixed=fixed, moving=sections[z - k], pixel=1.0, start=None)
            out[k - 1, z] = pair.similarity
    return out


def phantom() -> AnyArray:
    config = PhantomConfig(seed=5, shape=(10, 192, 192))
    return generate(config, Box((0, 0, 0), config.shape)).image


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("damaged", [(), (5,), (5, 6), (0,), (4, 9), (3, 4, 5, 6, 7)])
def test_sections_in_order_are_left_in_peace(damaged: tuple[int, ...], seed: int) -> None:
    assert check_order(alike(list(range(COUNT)), damaged=damaged, seed=seed)) == IN_ORDER


@pytest.mark.parametrize("first", range(COUNT - 1))
def test_neighbours_that_are_swapped(first: int) -> None:
    order = list(range(COUNT))
    order[first], order[first + 1] = order[first + 1], order[first]
    assert check_order(alike(order)) == OrderCheck(misplaced=[first, first + 1], repeated=[])


@pytest.mark.parametrize(("section", "place"), [(5, 7), (5, 3), (5, 8), (8, 5)])
def test_a_section_that_lies_two_or_three_places_off(section: int, place: int) -> None:
    order = [z for z in range(COUNT) if z != section]
    order.insert(place, section)
    assert check_order(alike(order)) == OrderCheck(misplaced=[place], repeated=[])


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_an_image_that_occurs_twice(distance: int) -> None:
    order = list(range(COUNT))
    order.insert(5 + distance, 5)
    assert check_order(alike(order)).repeated == [5 + distance]


@pytest.mark.parametrize("steps", [1, 2])
def test_few_pairs_show_no_order(steps: int) -> None:
    order = [0, 1, 2, 3, 5, 4, 6, 7]
    found = check_order(alike(order)[:steps])
    assert found.misplaced == ([] if steps == 1 else [4, 5])
    assert check_order(np.full((3, 4), np.nan)) == IN_ORDER
    assert check_order(np.full((3, 1), np.nan)) == IN_ORDER


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in order", "swapped", "twice"])
@pytest.mark.parametrize("name", ["vnc", "phantom"])
def test_images(name: str, kind: str, real_sections: Callable[[str], Path]) -> None:
    images = phantom() if name == "phantom" else tifffile.imread(real_sections("vnc_sstem/images.tif"))[:10]
    order = {"in order": list(range(10)), "swapped": [0, 1, 2, 3, 5, 4, 6, 7, 8, 9], "twice": [0, 1, 2, 3, 3, 4, 5, 6]}
    expected = {
        "in order": IN_ORDER,
        "swapped": OrderCheck(misplaced=[4, 5], repeated=[]),
        "twice": OrderCheck(misplaced=[], repeated=[4]),
    }
    assert check_order(similarity(images[order[kind]])) == expected[kind]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_sections_of_any_thickness_are_in_order(
    axis: int, step: int, real_sections: Callable[[str], Path]
) -> None:
    cube = tifffile.imread(real_sections("flyem_fibsem/images.tif"))
    images = np.moveaxis(cube, axis, 0)[100 : 100 + 12 * step : step]
    assert check_order(similarity(images)) == IN_ORDER
