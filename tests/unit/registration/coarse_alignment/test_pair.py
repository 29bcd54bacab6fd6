import numpy as np
import pytest
import torch

from ssem_dask.field.affine import IDENTITY, compose_affine, invert_affine, rotation_about
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.coarse_alignment.coarse_config import CoarseConfig
from ssem_dask.registration.coarse_alignment.flat_contrast import flatten_contrast
from ssem_dask.registration.coarse_alignment.pair import CoarsePair, estimate_pair
from ssem_dask.registration.coarse_alignment.refine import affine_normal_equations
from ssem_dask.registration.coarse_alignment.thumbnail import CoarseSection
from ssem_dask.types import Float64Array, ShapeYX
from tests.support.coarse_sections import median_error, moved, texture


def estimate(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    *,
    moving_mask: torch.Tensor | None = None,
    pixel: float = 1.0,
    config: CoarseConfig = CoarseConfig(),  # noqa: B008
    start: Float64Array | None = None,
) -> CoarsePair:
    mask = tissue_mask(moving) if moving_mask is None else moving_mask
    return estimate_pair(
        fixed=CoarseSection(fixed, mask=tissue_mask(fixed), config=config),
        moving=CoarseSection(moving, mask=mask, config=config),
        pixel=pixel,
        start=start,
    )


@pytest.mark.parametrize("shape", [(128, 128), (200, 150), (96, 250)])
@pytest.mark.parametrize(("degrees", "shift"), [(0.0, (0.0, 0.0)), (28.3, (0.2, -0.24)), (-17.7, (-0.25, 0.25))])
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


def test_rotations_beyond_the_range_are_not_believed() -> None:
    section = texture((128, 128), seed=3)
    pull = rotation_about(degrees=-27.0, centre=(64, 64), shift=(10.0, -14.0))
    moving, mask = moved(section, pull)
    assert estimate(section, moving, moving_mask=mask, config=CoarseConfig(max_rotation=10)).ratio < 1.3
    pair = estimate(section, moving, moving_mask=mask)
    assert pair.ratio > 1.5
    assert median_error(pair.affine, invert_affine(pull), shape=(128, 128)) < 0.4


def test_a_start_is_refined_even_where_the_search_would_not_reach() -> None:
    section = texture((160, 160), seed=15)
    pull = rotation_about(degrees=70.0, centre=(80, 80), shift=(3.0, -4.0), scale=1.2)
    moving, mask = moved(section, pull)
    truth = invert_affine(pull)
    near = compose_affine(outer=truth, inner=rotation_about(degrees=1.5, centre=(80, 80), shift=(3.0, -2.0)))
    pair = estimate(section, moving, moving_mask=mask, start=near)
    assert pair.ratio > 1.5
    assert median_error(pair.affine, truth, shape=(160, 160)) < 0.4


def test_a_wrong_start_is_not_believed() -> None:
    section = texture((160, 160), seed=16)
    pair = estimate(section, section, start=rotation_about(degrees=15.0, centre=(80, 80), shift=(30.0, 0.0)))
    assert pair.ratio < 1.3


def test_start_is_in_mip_0_px() -> None:
    section = texture((128, 128), seed=17)
    moving, mask = moved(section, rotation_about(degrees=0.0, centre=(64, 64), shift=(-20.0, 9.0)))
    start = np.array([[1.0, 0.0, 8 * 21.0], [0.0, 1.0, -8 * 8.0]])
    found = estimate(section, moving, moving_mask=mask, pixel=8.0, start=start)
    assert found.ratio > 1.5
    np.testing.assert_allclose(found.affine[:, 2], [160.0, -72.0], atol=1.0)


def test_pixel_scales_the_shift_to_mip_0() -> None:
    section = texture((128, 128), seed=4)
    moving, mask = moved(section, rotation_about(degrees=3.0, centre=(64, 64), shift=(7.0, 5.0)))
    one, eight = (estimate(section, moving, moving_mask=mask, pixel=pixel).affine for pixel in (1.0, 8.0))
    assert np.allclose(eight[:, :2], one[:, :2])
    assert np.allclose(eight[:, 2], 8 * one[:, 2])


def test_inverted_sections_give_the_same() -> None:
    section = texture((128, 128), seed=18)
    moving, mask = moved(section, rotation_about(degrees=14.0, centre=(64, 64), shift=(11.0, 6.0)))
    a = estimate(section, moving, moving_mask=mask)
    b = estimate(255 - section, 255 - moving, moving_mask=mask)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-3)
    assert abs(a.ratio - b.ratio) < 1e-2


@pytest.mark.parametrize("shape", [(64, 64), (40, 200), (32, 32)])
def test_small_and_narrow_sections_are_found_too(shape: ShapeYX) -> None:
    section = texture(shape, seed=19)
    centre = (shape[0] / 2, shape[1] / 2)
    pull = rotation_about(degrees=4.0, centre=centre, shift=(0.1 * shape[0], -0.1 * shape[1]))
    moving, mask = moved(section, pull)
    pair = estimate(section, moving, moving_mask=mask)
    assert pair.ratio > 1.3
    assert median_error(pair.affine, invert_affine(pull), shape=shape) < 0.5


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


def test_sums_by_row_and_column_are_the_normal_equations() -> None:
    """Against the matrix with one row for each pixel."""
    shape, half = (31, 44), 22.0
    random = torch.Generator().manual_seed(4)
    gradient = torch.randn(2, *shape, generator=random)
    residual, weight = (torch.rand(shape, generator=random) for _ in range(2))
    weight[:5] = 0.0
    normal, right = affine_normal_equations((gradient[0], gradient[1]), residual, weight, half=half)
    y, x = ((torch.arange(n) + 0.5 - n / 2) / half for n in shape)
    places = torch.stack([torch.ones(shape), y[:, None].expand(shape), x.expand(shape)])
    design = torch.cat([gradient[0] * places, gradient[1] * places]).flatten(1).double().numpy()
    weighted = design * weight.flatten().double().numpy()
    np.testing.assert_allclose(normal, weighted @ design.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(right, weighted @ residual.flatten().double().numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("shape", "radius"), [((40, 33), 4), ((7, 50), 9), ((1, 1), 3)])
def test_contrast_is_by_the_mean_and_deviation_around_each_pixel(shape: ShapeYX, radius: int) -> None:
    """Windows may be larger than the image; what is off the mask does not count."""
    random = torch.Generator().manual_seed(2)
    image, mask = 50 + 9 * torch.randn(shape, generator=random), torch.rand(shape, generator=random) < 0.8
    found = flatten_contrast(image, mask=mask, radius=radius)
    assert not found[~mask].any()
    for y, x in torch.nonzero(mask)[:: max(1, int(mask.sum()) // 20)].tolist():
        near = (slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1))
        seen = image[near][mask[near]].double()
        if len(seen) > 1:
            expected = (image[y, x] - seen.mean()) / seen.std(correction=0).clamp(min=1e-3)
            assert float(found[y, x]) == pytest.approx(float(expected.clamp(-3, 3)), abs=0.02)
