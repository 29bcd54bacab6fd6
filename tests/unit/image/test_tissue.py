import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.image.tissue import tissue_mask


def textured(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 100 + 50


@pytest.mark.parametrize("padding", [0.0, 127.0, 255.0])
def test_mask_is_exactly_the_textured_rectangle_whatever_the_padding_value(padding: float) -> None:
    image = torch.full((80, 90), padding)
    image[20:60, 30:70] = textured(40, 40)
    expected = torch.zeros(80, 90, dtype=torch.bool)
    expected[20:60, 30:70] = True
    assert torch.equal(tissue_mask(image), expected)


def test_small_constant_spot_inside_tissue_is_tissue_and_a_large_one_is_not() -> None:
    image = textured(60, 60)
    image[10:18, 10:18] = 255.0
    image[30:40, 30:40] = 255.0
    mask = tissue_mask(image)
    assert mask[10:18, 10:18].all()
    assert not mask[30:40, 30:40].any()
    assert int((~mask).sum()) == 100


def test_blank_image_is_all_empty_and_texture_all_tissue() -> None:
    assert not tissue_mask(torch.full((5, 40), 7.0)).any()
    assert tissue_mask(textured(33, 17)).all()


def test_sections_are_judged_one_by_one_and_integers_work() -> None:
    stack = torch.stack([textured(40, 40).to(torch.uint8), torch.zeros(40, 40, dtype=torch.uint8)])
    mask = tissue_mask(stack)
    assert mask.shape == stack.shape
    assert mask[0].all()
    assert not mask[1].any()


def test_nan_is_empty_and_does_not_spread() -> None:
    image = textured(40, 40)
    image[5, 5] = torch.nan
    mask = tissue_mask(image)
    assert not mask[5, 5]
    assert int((~mask).sum()) == 1


def test_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted"):
        tissue_mask(torch.zeros(1, 2, 3, 4))


@settings(max_examples=25, deadline=None)
@given(top=st.integers(0, 20), left=st.integers(0, 20), seed=st.integers(0, 9))
def test_mask_moves_with_the_tissue(top: int, left: int, seed: int) -> None:
    image = torch.zeros(64, 64)
    image[top : top + 30, left : left + 25] = textured(30, 25, seed=seed)
    mask = tissue_mask(image)
    # A strip of padding narrower than the square, at the border, is still empty: the clipped square decides, unless
    # it is narrower than half the square.
    assert mask[top : top + 30, left : left + 25].all()
    assert not mask[top + 30 :, :].any()
    assert not mask[:, left + 25 :].any()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(5, 34), st.integers(5, 34)),
    top=st.integers(-8, 30),
    left=st.integers(-8, 30),
    side=st.integers(4, 12),
    seed=st.integers(0, 5),
)
def test_a_constant_square_is_found_wherever_it_lies(
    shape: tuple[int, int], top: int, left: int, side: int, seed: int
) -> None:
    """The inside of a constant 9 × 9 square is empty, and nothing else, at the border as well."""
    image = textured(*shape, seed=seed)
    rows, columns = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
    image[rows, columns] = 80.0
    padded = torch.full((shape[0] + 8, shape[1] + 8), torch.nan)
    padded[4:-4, 4:-4] = image
    squares = padded.unfold(0, 9, 1).unfold(1, 9, 1).flatten(2)
    low, high = torch.nan_to_num(squares, nan=1e9).amin(2), torch.nan_to_num(squares, nan=-1e9).amax(2)
    empty = torch.zeros(shape, dtype=torch.bool)
    for y, x in torch.nonzero(low == high).tolist():
        empty[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = True
    assert torch.equal(tissue_mask(image), ~empty)
    assert torch.equal(tissue_mask(torch.stack([textured(*shape), image]))[1], ~empty)
