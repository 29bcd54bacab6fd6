"""Wrong shapes are found at a function's first calls, and at some later ones or at all."""

import pytest
import torch
from jaxtyping import TypeCheckError

from ssem_dask.field.grid import Grid
from tests.support.checked_shapes import begin_test

RIGHT, WRONG = torch.zeros(2, 3, 3), torch.zeros(3, 3)


def test_a_wrong_argument_is_found_at_the_first_call() -> None:
    grid = Grid((4, 4), spacing=8.0)
    with pytest.raises(TypeCheckError, match="positions"):
        grid.index(WRONG)
    with pytest.raises(TypeCheckError, match="shape"):
        Grid((4, 4, 4), spacing=8.0)  # type: ignore[arg-type]


def test_a_long_test_checks_some_calls() -> None:
    def is_checked() -> bool:
        try:
            grid.contains_index(torch.zeros(2, 3, 3, dtype=torch.int64))
        except TypeCheckError:
            return True
        return False

    grid = Grid((4, 4), spacing=8.0)
    begin_test(every_call=False)
    checked = [is_checked() for _ in range(200)]
    assert all(checked[:20])
    assert 2 <= sum(checked[20:]) <= 4
    begin_test(every_call=False)
    assert is_checked()
    begin_test(every_call=True)
    assert all(is_checked() for _ in range(200))
