import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.image.pooling import halve, masked_pool, pool


def ramp(h: int, w: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return 3 * y - 2 * x


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 40), factor=st.integers(1, 12))
def test_shape_is_rounded_up_and_every_pixel_is_the_mean_of_what_exists(h: int, w: int, factor: int) -> None:
    image = torch.rand(h, w, generator=torch.Generator().manual_seed(h * 41 + w))
    out = pool(image, factor)
    assert out.shape == (-(-h // factor), -(-w // factor))
    for i in (0, out.shape[0] - 1):
        for j in (0, out.shape[1] - 1):
            patch = image[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            assert out[i, j] == pytest.approx(float(patch.mean()), abs=1e-5)


def test_pixel_centres_follow_c3() -> None:
    assert torch.allclose(pool(ramp(32, 24), 4), 4 * ramp(8, 6))


def test_leading_axes_are_kept() -> None:
    assert pool(torch.zeros(2, 3, 9, 5), 2).shape == (2, 3, 5, 3)


def test_pooling_twice_is_pooling_by_the_product() -> None:
    image = torch.rand(24, 36, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pool(pool(image, 2), 3), pool(image, 6), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 40)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    seed=st.integers(0, 2**16),
)
def test_halving_whole_numbers_is_pooling_and_rounding(
    shape: tuple[int, int, int], dtype: type[np.unsignedinteger], seed: int
) -> None:
    limit, random = int(np.iinfo(dtype).max), np.random.default_rng(seed)
    for low in (0, limit - 3):  # sums near the largest one too
        pixels = random.integers(low, limit, shape, dtype=dtype, endpoint=True)
        mean = pool(torch.from_numpy(pixels.astype(np.float32)), 2)
        halved = halve(pixels)
        assert halved.dtype == dtype
        np.testing.assert_array_equal(halved, mean.round().numpy().astype(dtype))


def test_only_grey_values_are_halved() -> None:
    with pytest.raises(ValueError, match="float32"):
        halve(np.zeros((1, 4, 4), dtype=np.float32))


def test_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        pool(torch.zeros(4, 4), 0)


def test_masked_pool_ignores_what_is_masked_even_nan() -> None:
    image = torch.full((4, 6), 5.0)
    mask = torch.ones(4, 6, dtype=torch.bool)
    image[:, 0] = torch.nan
    mask[:, 0] = False
    image[:2, 2:4] = 1e30
    mask[:2, 2:4] = False
    mask[3, 4:6] = False
    mask[2, 4] = False
    mean, known = masked_pool(image, mask, 2)
    assert known.tolist() == [[True, False, True], [True, True, False]]
    assert mean[0, 1] == 0
    assert torch.allclose(mean[known], torch.tensor(5.0))


def test_masked_pool_counts_only_existing_pixels_of_a_partial_last_pixel() -> None:
    image, mask = torch.full((5, 5), 2.0), torch.ones(5, 5, dtype=torch.bool)
    mean, known = masked_pool(image, mask, 4)
    assert known.all()
    assert torch.allclose(mean, torch.full((2, 2), 2.0))
