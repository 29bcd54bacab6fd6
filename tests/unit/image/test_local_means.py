"""Means over squares and quantiles against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.functional import avg_pool2d

from ssem_dask.image.local_means import lower_median, quantiles, square_mean, square_sums


@pytest.mark.parametrize("shape", [(40, 51), (3, 7, 90), (5, 1)])
@pytest.mark.parametrize("side", [1, 3, 9, 13])
def test_a_mean_over_squares_is_that_of_torch(shape: tuple[int, ...], side: int) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255
    wanted = avg_pool2d(values.reshape(-1, 1, *shape[-2:]), side, stride=1, padding=side // 2).reshape(shape)
    torch.testing.assert_close(square_mean(values, side), wanted, rtol=1e-5, atol=1e-4)
    if side // 2 < min(shape[-2:]):
        inside = avg_pool2d(values.reshape(-1, 1, *shape[-2:]), side, 1, side // 2, count_include_pad=False)
        torch.testing.assert_close(square_mean(values, side, inside=True), inside.reshape(shape), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [1, 2, 7, 48])
def test_sums_over_squares_are_exact_for_whole_numbers_also_where_rows_are_taken_in_bands(side: int) -> None:
    values = torch.randint(0, 9, (2, 600, 200), generator=torch.Generator().manual_seed(1)).float()
    wanted = values.unfold(1, side, 1).unfold(2, side, 1).sum(dim=(3, 4))
    torch.testing.assert_close(square_sums(values, side), wanted, rtol=0, atol=0)


@given(
    values=arrays("float32", st.integers(1, 300), elements=st.floats(-100, 100, width=32)),
    shares=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4),
)
def test_quantiles_are_those_of_torch_to_the_bit(values: object, shares: list[float]) -> None:
    tensor = torch.as_tensor(values)
    torch.testing.assert_close(
        quantiles(tensor, shares), torch.quantile(tensor, torch.tensor(shares)), rtol=0, atol=0, equal_nan=True
    )


def test_of_unknown_values_no_quantile_is_known() -> None:
    assert bool(quantiles(torch.tensor([1.0, torch.nan, 2.0]), [0.0, 0.5]).isnan().all())


@given(values=arrays("float32", st.integers(1, 300), elements=st.floats(-100, 100, width=32)))
def test_the_lower_median_is_that_of_torch_to_the_bit(values: object) -> None:
    tensor = torch.as_tensor(values)
    assert lower_median(tensor) == float(tensor.median())
