"""Numbers and lists read as people write them."""

import pytest

from ssem_dask.units import duration, plural, shortened, si


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 sections"), (1, "1 section"), (2, "2 sections"), (12345, "12,345 sections")]
)
def test_a_noun_agrees_with_its_count(count: int, words: str) -> None:
    assert plural(count, "section") == words


def test_an_irregular_plural_is_given() -> None:
    assert plural(1, "entry", "entries") == "1 entry"
    assert plural(3, "entry", "entries") == "3 entries"


def test_a_list_is_shortened_only_if_it_is_too_long() -> None:
    assert shortened([1, 2, 3], limit=3) == "1, 2, 3"
    assert shortened(range(4), limit=3) == "0, 1, 2 …"
    assert shortened(["a b", "c"], limit=3, separator="; ") == "a b; c"
    assert shortened([], limit=3) == ""


def test_quantities_carry_a_prefix_or_two_units() -> None:
    assert si(1_234_567, "B") == "1.23 MB"
    assert [duration(s) for s in (3.21, 75, 3700, 90000)] == ["3.21 s", "1 min 15 s", "1 h 1 min", "1 d 1 h"]
