"""The most frequent of four ids is kept exactly, and the largest of equally frequent ones."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.image.label_pooling import halve_labels, pool_labels


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([np.uint8, np.int32, np.uint64]),
    ids=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_the_most_frequent_id_and_of_equals_the_largest(
    shape: tuple[int, int, int], dtype: type[np.integer], ids: int, seed: int
) -> None:
    largest = np.iinfo(dtype).max  # a float could not represent it beside the one before it
    labels = dtype(largest) - np.random.default_rng(seed).integers(0, ids, shape).astype(dtype)
    halved = halve_labels(labels)
    assert halved.dtype == dtype
    for section, out in zip(labels, halved, strict=True):
        np.testing.assert_array_equal(pool_labels(section), out)
        padded = np.pad(section, [(0, n % 2) for n in section.shape], mode="edge")
        for y, x in np.ndindex(*out.shape):
            counts = Counter(padded[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist())
            assert out[y, x] == max(counts, key=lambda value: (counts[value], value))


def test_many_rows_are_halved_in_parts() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (2, 301, 7), dtype=np.uint32)
    np.testing.assert_array_equal(halve_labels(labels), np.stack([pool_labels(section) for section in labels]))
