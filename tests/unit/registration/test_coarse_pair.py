import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from ssem_dask.field.affine import IDENTITY, apply_affine, compose_affine, invert_affine, rotation_about
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.registration.coarse import CoarseConfig, CoarsePair, estimate_pair
from ssem_dask.registration.coarse_refine import blur
from ssem_dask.registration.masks import tissue_mask
from ssem_dask.registration.pyramid import masked_pool
from ssem_dask.types import Float64Array, ShapeYX

DATA = Path(os.environ.get("SSEM_DATA_DIR", Path(__file__).resolve().parents[4] / "shared" / "data"))
VNC = DATA / "vnc_sstem" / "images.tif"


def texture(shape: ShapeYX, seed: int) -> torch.Tensor:
    """Blobs and membranes-like ridges at several scales."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    layers = [blur(noise[i : i + 1], sigma)[0] for i, sigma in enumerate((1.0, 2.5, 6.0))]
    return 128 + sum(20 * layer / layer.std() for layer in layers)


def moved(image: torch.Tensor, pull: Float64Array) -> tuple[torch.Tensor, torch.Tensor]:
    """The image seen through `pull` (image px), and where that is known."""
    grid = Grid((image.shape[-2], image.shape[-1]), 1.0)
    values, mask = sample_image(image[None], grid=grid, positions=apply_affine(pull, grid.positions()), kind="bilinear")
    return values[0], mask


def estimate(fixed: torch.Tensor, moving: torch.Tensor, **changes: object) -> CoarsePair:
    arguments = {
        "fixed_mask": tissue_mask(fixed),
        "moving_mask": tissue_mask(moving),
        "pixel": 1.0,
        "config": CoarseConfig(),
        **changes,
    }
    return estimate_pair(fixed, moving, **arguments)


def median_error(found: Float64Array, truth: Float64Array, *, shape: ShapeYX) -> float:
    """Median distance over the overlap, px."""
    positions = Grid((shape[0] // 4, shape[1] // 4), 4.0).positions()
    target = apply_affine(truth, positions)
    inside = Grid(shape, 1.0).contains(target)
    distance = torch.linalg.vector_norm(apply_affine(found, positions) - target, dim=0)
    return float(distance[inside].median())


@pytest.mark.parametrize("shape", [(128, 128), (200, 150), (96, 250)])
@pytest.mark.parametrize(("degrees", "shift"), [(0.0, (0.0, 0.0)), (9.3, (0.2, -0.24)), (-6.7, (-0.25, 0.25))])
def test_known_rotation_and_shift_come_back(shape: ShapeYX, degrees: float, shift: tuple[float, float]) -> None:
    section = texture(shape, seed=1)
    centre = (shape[0] / 2, shape[1] / 2)
    pull = rotation_about(degrees=degrees, centre=centre, shift=(shift[0] * shape[0], shift[1] * shape[1]))
    moving, mask = moved(section, pull)
    pair = estimate(section, moving, moving_mask=mask)
    # moving(p) = section(pull(p)), so section(p) = moving(pull⁻¹(p)).
    assert median_error(pair.affine, invert_affine(pull), shape=shape) < 0.3
    assert pair.ratio > 1.5


def test_affine_part_is_refined() -> None:
    section = texture((200, 200), seed=2)
    pull = compose_affine(
        outer=rotation_about(degrees=4.0, centre=(100, 100), shift=(12.0, -9.0)),
        inner=np.array([[1.04, 0.02, -6.0], [-0.01, 0.97, 4.0]]),
    )
    moving, mask = moved(section, pull)
    pair = estimate(section, moving, moving_mask=mask)
    assert median_error(pair.affine, invert_affine(pull), shape=(200, 200)) < 0.3


def test_large_rotations_are_found_when_asked_for() -> None:
    section = texture((128, 128), seed=3)
    pull = rotation_about(degrees=-27.0, centre=(64, 64), shift=(10.0, -14.0))
    moving, mask = moved(section, pull)
    assert estimate(section, moving, moving_mask=mask).ratio < 1.3
    pair = estimate(section, moving, moving_mask=mask, config=CoarseConfig(max_rotation=30))
    assert pair.ratio > 1.3
    assert median_error(pair.affine, invert_affine(pull), shape=(128, 128)) < 0.4


def test_pixel_scales_the_shift_to_mip_0() -> None:
    section = texture((128, 128), seed=4)
    moving, mask = moved(section, rotation_about(degrees=3.0, centre=(64, 64), shift=(7.0, 5.0)))
    one, eight = (estimate(section, moving, moving_mask=mask, pixel=pixel).affine for pixel in (1.0, 8.0))
    assert np.allclose(eight[:, :2], one[:, :2])
    assert np.allclose(eight[:, 2], 8 * one[:, 2])


@pytest.mark.parametrize("seed", range(4))
def test_unrelated_sections_are_not_believed(seed: int) -> None:
    assert estimate(texture((128, 128), seed=seed), texture((128, 128), seed=100 + seed)).ratio < 1.3


def test_bright_empty_space_does_not_decide() -> None:
    section = texture((160, 160), seed=5)
    pull = rotation_about(degrees=5.0, centre=(80, 80), shift=(20.0, -15.0))
    moving, mask = moved(section, pull)
    fixed = section.clone()
    fixed[:40] = 255.0
    moving = torch.where(mask, moving, torch.full_like(moving, 255.0))
    moving[:, :50] = 255.0
    pair = estimate(fixed, moving)
    assert pair.ratio > 1.5
    assert median_error(pair.affine, invert_affine(pull), shape=(160, 160)) < 0.5


def test_contrast_and_brightness_do_not_matter() -> None:
    section = texture((128, 128), seed=6)
    pull = rotation_about(degrees=-4.0, centre=(64, 64), shift=(11.0, 6.0))
    moving, mask = moved(section, pull)
    a = estimate(section, moving, moving_mask=mask)
    b = estimate(section, 20 + 0.2 * moving, moving_mask=mask)
    assert np.allclose(a.affine, b.affine, atol=0.05)


def test_section_without_tissue_gives_identity_and_ratio_zero() -> None:
    blank = torch.full((128, 128), 30.0)
    for fixed, moving in ((texture((128, 128), seed=7), blank), (blank, texture((128, 128), seed=7)), (blank, blank)):
        pair = estimate(fixed, moving)
        assert pair.ratio == 0.0
        assert np.array_equal(pair.affine, IDENTITY)


def test_tissue_that_cannot_overlap_enough_is_not_believed() -> None:
    section = texture((128, 128), seed=8)
    left, right = torch.zeros_like(section), torch.zeros_like(section)
    left[:, :30], right[:, 98:] = section[:, :30], section[:, 98:]
    assert estimate(left, right).ratio < 1.3


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        estimate(texture((64, 64), seed=0), texture((64, 60), seed=0))


@pytest.mark.skipif(not VNC.exists(), reason=f"real sections are not at {VNC}; set SSEM_DATA_DIR")
@pytest.mark.parametrize(("z", "k", "degrees", "shift"), [(7, 1, 9.0, (0.2, -0.2)), (12, 3, -8.0, (-0.1, 0.22))])
def test_real_sections_are_brought_back(z: int, k: int, degrees: float, shift: tuple[float, float]) -> None:
    fixed, still = (torch.from_numpy(tifffile.imread(VNC, key=i).astype(np.float32)) for i in (z, z - k))
    pull = rotation_about(degrees=degrees, centre=(512, 512), shift=(shift[0] * 1024, shift[1] * 1024))
    moving, _ = moved(still, pull)
    small = []
    for image in (fixed, moving):
        small.append(masked_pool(image, tissue_mask(image), 4))
    pair = estimate_pair(
        small[0][0], small[1][0], fixed_mask=small[0][1], moving_mask=small[1][1], pixel=4.0, config=CoarseConfig()
    )
    assert pair.ratio > 1.5
    # The published alignment leaves about 3 px per section between neighbours.
    assert median_error(pair.affine, invert_affine(pull), shape=(1024, 1024)) < 6.0 * k
